"""The address of a server, as a node's owner gives it."""

import pytest

from headway.federation.identity.enrolling import server_url
from headway.federation.identity.private_files import IdentityError


@pytest.mark.parametrize(
    ("given", "used"),
    [
        ("example.org", "https://example.org"),
        ("https://example.org:8443/x", "https://example.org:8443"),
        ("http://localhost:80", "http://localhost:80"),
        ("https://[::1]:8443", "https://[::1]:8443"),
    ],
)
def test_addresses(given, used):
    assert server_url(given) == used


@pytest.mark.parametrize("given", ["", "https://", "ftp://x", "https://x:port", "https://x:99999"])
def test_what_is_no_address_is_refused(given):
    with pytest.raises(IdentityError, match="not the address of a server"):
        server_url(given)


def test_plain_http_to_another_machine_is_refused():
    with pytest.raises(IdentityError, match="for this machine alone"):
        server_url("http://example.org")

"""The addresses of a server and of a proxy: what is none is a sentence, and no password is repeated."""

import pytest

import headway as hw
from headway.federation.agent.addresses import checked_proxy, checked_server


def test_an_address_loses_the_slash_at_its_end():
    assert checked_server("https://server:8443/") == ("https://server:8443", True)
    assert checked_server("http://[::1]:8443/federation") == ("http://[::1]:8443/federation", False)


@pytest.mark.parametrize("url", ["", "server:8443", "ftp://server", "https://", "https://server:port", "http://h?x=1"])
def test_a_wrong_address_is_a_sentence_at_once(url):
    with pytest.raises(hw.ConfigError, match="is not the address of a server"):
        checked_server(url)


def test_a_password_in_the_address_of_a_server_is_refused_and_not_repeated():
    with pytest.raises(hw.ConfigError, match="no name and no password in it") as caught:
        checked_server("https://user:secret@server:8443")
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("proxy", [None, "http://proxy", "http://name:secret@proxy:3128", "https://10.0.0.1:443/"])
def test_the_proxies_that_are_taken(proxy):
    assert checked_proxy(proxy) == proxy


@pytest.mark.parametrize(
    "proxy", ["proxy", "proxy:3128", "socks5://proxy:1080", "http://", "http://n:secret@proxy:port"]
)
def test_a_wrong_proxy_is_a_sentence_at_once(proxy):
    with pytest.raises(hw.ConfigError, match="--proxy names no HTTP proxy: needed http://HOST:PORT") as caught:
        checked_proxy(proxy)
    assert "secret" not in str(caught.value)

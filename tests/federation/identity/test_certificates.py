"""What a node's certificate holds, and what is not the certificate of a node."""

import pytest

from headway.federation.identity.certificates import read_certificate
from headway.federation.identity.node_identity import NodeIdentity
from headway.federation.identity.private_files import IdentityError


def test_text_and_binary_are_one_certificate(folders):
    facts = NodeIdentity.load(folders / "server").facts
    assert read_certificate(facts.pem) == read_certificate(facts.der) == facts
    assert set(facts.hosts) == {"localhost", "127.0.0.1"}
    assert len(facts.fingerprint) == 64


@pytest.mark.parametrize("data", [b"", b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", b"\x30\x80"])
def test_what_is_no_certificate_is_one_sentence(data):
    with pytest.raises(IdentityError, match="not the certificate of a node"):
        read_certificate(data)


def test_the_certificate_of_the_authority_is_not_that_of_a_node(folders):
    with pytest.raises(IdentityError, match="not the certificate of a node"):
        read_certificate((folders / "ca" / "ca.pem").read_bytes())

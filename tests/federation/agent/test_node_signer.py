"""Signatures between agents: a certificate counts if the agent's own authority issued it, for that name, for now."""

import base64

import pytest

from headway.federation.agent.node_signer import NodeSigner
from headway.federation.identity.authority import Authority


@pytest.fixture
def nodes(tmp_path):
    with Authority.create(tmp_path / "ca") as authority:
        return {name: authority.issue(name, tmp_path / name) for name in ("a", "b", "c")}


def signer(nodes, name, certificates=None):
    held = {each: node.certificate for each, node in nodes.items()} if certificates is None else certificates
    return NodeSigner(nodes[name], lambda: held)


def test_the_others_know_a_signature(nodes):
    signature = signer(nodes, "b").sign(b"keys")
    assert len(signature) == 64
    mine = signer(nodes, "a")
    assert mine.verify("b", b"keys", signature)
    assert not mine.verify("b", b"other keys", signature)
    assert not mine.verify("c", b"keys", signature)
    assert not mine.verify("nobody", b"keys", signature)


def test_a_server_inserts_no_client(nodes, tmp_path):
    with Authority.create(tmp_path / "others") as other:
        forged = other.issue("b", tmp_path / "forged")
    mine = signer(nodes, "a", {"b": forged.certificate})
    assert not mine.verify("b", b"keys", bytes.fromhex(forged.sign(b"keys")))


def test_a_certificate_stands_for_no_other_name(nodes):
    mine = signer(nodes, "a", {"b": nodes["c"].certificate})
    assert not mine.verify("b", b"keys", signer(nodes, "c").sign(b"keys"))


@pytest.mark.parametrize("certificate", ["", "not base64!", base64.b64encode(b"nothing").decode()])
def test_what_is_no_certificate_is_nobodys(nodes, certificate):
    assert not signer(nodes, "a", {"b": certificate}).verify("b", b"keys", signer(nodes, "b").sign(b"keys"))


def test_a_certificate_that_has_ended_is_nobodys(tmp_path):
    with Authority.create(tmp_path / "ca") as authority:
        mine, past = authority.issue("a", tmp_path / "a"), authority.issue("b", tmp_path / "b", days=1e-9)
    assert not NodeSigner(mine, lambda: {"b": past.certificate}).verify("b", b"", bytes.fromhex(past.sign(b"")))


def test_certificates_are_fetched_again_for_a_client_that_has_joined_since(nodes):
    held = {"b": nodes["b"].certificate}
    mine, fetched = signer(nodes, "a", held), []
    mine._fetch = lambda: fetched.append(1) or held
    signature = signer(nodes, "c").sign(b"keys")
    assert not mine.verify("c", b"keys", signature)
    held["c"] = nodes["c"].certificate
    assert mine.verify("c", b"keys", signature)
    assert mine.verify("b", b"keys", signer(nodes, "b").sign(b"keys"))
    assert len(fetched) == 2

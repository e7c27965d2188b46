"""An identity folder: what it holds, and what is refused."""

import os
import stat
import subprocess
import sys

import pytest

from headway.federation.http_api import NODE
from headway.federation.identity import request_signature as signature
from headway.federation.identity.authority import Authority
from headway.federation.identity.node_identity import NodeIdentity, OpenIdentity, check_dates
from headway.federation.identity.private_files import IdentityError


def test_keys_are_readable_by_their_owner_alone(folders):
    for path in folders.rglob("*"):
        if path.is_file() and path.suffix != ".pem":
            assert stat.S_IMODE(path.stat().st_mode) == 0o600, path


@pytest.mark.parametrize("file", ["tls.key", "signing.key"])
def test_a_key_that_others_can_read_is_refused(folders, file):
    (folders / "cleveland" / file).chmod(0o640)
    with pytest.raises(IdentityError, match=r"readable by others \(mode 0640\).*chmod 600"):
        NodeIdentity.load(folders / "cleveland")


@pytest.mark.parametrize("file", ["tls.key", "signing.key", "node.pem", "ca.pem"])
def test_a_missing_file_is_named(folders, file):
    (folders / "cleveland" / file).unlink()
    with pytest.raises(IdentityError, match=file):
        NodeIdentity.load(folders / "cleveland")


@pytest.mark.parametrize("file", ["tls.key", "signing.key"])
def test_a_key_of_another_node_is_refused(folders, file):
    (folders / "cleveland" / file).write_bytes((folders / "Zürich" / file).read_bytes())
    with pytest.raises(IdentityError, match="two identities"):
        NodeIdentity.load(folders / "cleveland")


@pytest.mark.parametrize("file", ["tls.key", "signing.key", "node.pem", "ca.pem"])
def test_a_damaged_file_is_one_sentence(folders, file):
    (folders / "cleveland" / file).write_bytes(b"-----BEGIN nothing-----\n")
    with pytest.raises(IdentityError):
        NodeIdentity.load(folders / "cleveland")


def test_a_folder_without_an_identity_says_how_to_get_one(tmp_path):
    with pytest.raises(IdentityError, match="headway identity enrol URL TOKEN"):
        NodeIdentity.load(tmp_path / "none")


def test_the_name_is_that_of_the_certificate(folders):
    assert NodeIdentity.load(folders / "Zürich").name == "Zürich"


def test_each_request_has_its_own_number_and_nonce(folders):
    identity = NodeIdentity.load(folders / "cleveland")
    one, other = (identity.sign_headers("GET", "/v1/job", run="a b", round=4) for _ in range(2))
    assert int(other[signature.SEQUENCE]) == int(one[signature.SEQUENCE]) + 1
    assert other[signature.NONCE] != one[signature.NONCE]
    assert other[signature.SIGNATURE] != one[signature.SIGNATURE]
    assert (one[signature.RUN], one[signature.ROUND]) == ("a%20b", "4")


def test_an_identity_may_be_read_only_when_its_numbers_are_elsewhere(folders, tmp_path):
    before = sorted(path.name for path in (folders / "cleveland").iterdir())
    NodeIdentity.load(folders / "cleveland", state=tmp_path / "state").sign_headers("GET", "/")
    assert sorted(path.name for path in (folders / "cleveland").iterdir()) == before
    assert (tmp_path / "state" / "sequence.sqlite").exists()


def test_a_refusal_that_names_a_number_moves_the_sequence(folders):
    identity = NodeIdentity.load(folders / "cleveland")
    assert identity.catch_up({signature.SEQUENCE: "5000"})
    assert identity.sign_headers("GET", "/")[signature.SEQUENCE] == "5000"
    for headers in ({}, {signature.SEQUENCE: "x"}, {signature.SEQUENCE: "-4"}, {signature.SEQUENCE: "9" * 17}):
        assert not identity.catch_up(headers)


def test_a_signature_is_checked_against_the_authority(folders, tmp_path):
    server, node = NodeIdentity.load(folders / "server"), NodeIdentity.load(folders / "cleveland")
    signed = server.sign(b"receipt")
    assert node.verify(server.certificate, b"receipt", signed).name == "server"
    with pytest.raises(IdentityError, match="does not fit"):
        node.verify(server.certificate, b"another", signed)
    with pytest.raises(IdentityError, match="does not fit"):
        node.verify(node.certificate, b"receipt", signed)
    with Authority.create(tmp_path / "other ca") as other:
        foreign = other.issue("server", tmp_path / "foreign")
    with pytest.raises(IdentityError, match="another authority"):
        node.verify(foreign.certificate, b"receipt", foreign.sign(b"receipt"))
    for certificate, what in ((server.certificate[:-8], signed), ("", signed), (server.certificate, "zz")):
        with pytest.raises(IdentityError):
            node.verify(certificate, b"receipt", what)


def test_a_client_certificate_cannot_serve(folders):
    with pytest.raises(IdentityError, match="--host"):
        NodeIdentity.load(folders / "cleveland").server_context()


def test_dates_are_checked_with_both_times(folders):
    facts = NodeIdentity.load(folders / "cleveland").facts
    check_dates(facts, "it")
    with pytest.raises(IdentityError, match=r"it expired at .* clock is at .*headway identity issue cleveland"):
        check_dates(facts, "it", facts.not_after + 1)
    with pytest.raises(IdentityError, match="one of the two clocks is wrong"):
        check_dates(facts, "it", facts.not_before - 3600)


def test_a_certificate_that_ends_soon_is_said_before(folders):
    identity = NodeIdentity.load(folders / "cleveland")
    end = identity.facts.not_after
    assert identity.ends_soon(end - 31 * 86400) is None
    assert "in 29 days: have a new one issued (headway identity issue cleveland)" in identity.ends_soon(
        end - 29 * 86400
    )


def test_without_certificates_there_is_a_name_alone():
    identity = OpenIdentity("Zürich 1")
    assert identity.sign_headers("GET", "/") == {NODE: "Z%C3%BCrich%201"}
    assert identity.client_context() is None
    assert identity.server_context() is None
    assert identity.sign(b"x") == identity.certificate == ""
    assert not identity.catch_up({signature.SEQUENCE: "5"})
    with pytest.raises(IdentityError, match="a name of 1 to 200 characters"):
        OpenIdentity("../x")


def test_secrets_are_not_in_the_printed_form_of_an_identity(folders):
    identity = NodeIdentity.load(folders / "cleveland")
    for file in ("tls.key", "signing.key"):
        secret = (folders / "cleveland" / file).read_text().splitlines()[1]
        assert secret not in repr(vars(identity))


def test_an_identity_is_portable():
    code = (
        "import sys; import headway.federation.identity.node_identity, headway.federation.identity.admission;"
        "print([m for m in ('fcntl', 'resource', 'pwd', 'aiohttp') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=os.environ)
    assert done.stdout.strip() == "[]"

"""Enrolment by a server and a node over TLS, and what each side refuses."""

import hashlib
import socket
import ssl
import urllib.error
import urllib.request
from contextlib import closing

import pytest
from aiohttp import web
from tls_server import serving

from headway.federation.http_api import ENROL
from headway.federation.identity import enrolling
from headway.federation.identity import enrolment as module
from headway.federation.identity.admission import CertifiedAdmission
from headway.federation.identity.authority import Authority
from headway.federation.identity.enrolling import enrol
from headway.federation.identity.enrolment import Enrolment
from headway.federation.identity.enrolment_messages import proof_of, request_bytes
from headway.federation.identity.node_identity import NodeIdentity
from headway.federation.identity.private_files import IdentityError

BODY = hashlib.sha256(b"").hexdigest()


@pytest.fixture
def authority(folders):
    with Authority.load(folders / "ca") as loaded:
        yield loaded


@pytest.fixture
def url(folders):
    with (
        closing(Enrolment.of(folders / "ca")) as enrolment,
        serving(enrolment.routes(), NodeIdentity.load(folders / "server").server_context()) as port,
    ):
        yield f"https://127.0.0.1:{port}"


def token(authority, name="new", **options):
    return authority.registry.new_token(name, (), 30, **{"hours": 1, **options})


def test_a_token_gives_an_identity_that_is_admitted(folders, authority, url, tmp_path):
    identity = enrol(url, f"  {token(authority).text}\n", tmp_path / "new")
    assert identity.name == "new"
    with closing(CertifiedAdmission(folders / "ca")) as admission:
        headers = identity.sign_headers("GET", "/v1/job")
        assert admission.authenticate("GET", "/v1/job", headers, BODY, identity.facts.der) == "new"
    assert (tmp_path / "new" / "ca.pem").read_bytes() == (folders / "ca" / "ca.pem").read_bytes()


def test_a_token_for_a_server_gives_its_hosts(authority, url, tmp_path):
    made = authority.registry.new_token("relay", ("relay.example.org",), 30, 1)
    assert enrol(url, made.text, tmp_path / "relay").facts.hosts == ("relay.example.org",)


def test_a_token_is_used_once(authority, url, tmp_path):
    made = token(authority)
    first = enrol(url, made.text, tmp_path / "one")
    with pytest.raises(IdentityError, match=r"counts for another key, which used it at .* revoked"):
        enrol(url, made.text, tmp_path / "two")
    assert not (tmp_path / "two" / "node.pem").exists()
    assert [issued.certificate for issued in authority.registry.of_name("new")] == [first.facts]


def test_the_same_keys_get_the_same_certificate_when_an_answer_was_lost(authority, url, tmp_path, monkeypatch):
    made, store = token(authority), enrolling._store
    monkeypatch.setattr(enrolling, "_store", lambda *_: (_ for _ in ()).throw(IdentityError("lost")))
    with pytest.raises(IdentityError, match="lost"):
        enrol(url, made.text, tmp_path / "new")
    monkeypatch.setattr(enrolling, "_store", store)
    assert enrol(url, made.text, tmp_path / "new").name == "new"
    assert len(authority.registry.of_name("new")) == 1


def test_a_token_renews_the_identity_in_its_folder(authority, url, tmp_path):
    first = enrol(url, token(authority).text, tmp_path / "new")
    second = enrol(url, token(authority).text, tmp_path / "new")
    assert first.facts.key == second.facts.key
    assert first.facts.serial != second.facts.serial


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda text: "0" * 12 + text[12:], "token is unknown"),
        (lambda text: text[:13] + "0" * 48, "token is unknown"),
        (lambda text: text[:-1], "not an enrolment token"),
        (lambda text: "", "not an enrolment token"),
    ],
)
def test_a_wrong_token_is_refused(authority, url, tmp_path, change, sentence):
    with pytest.raises(IdentityError, match=sentence):
        enrol(url, change(token(authority).text), tmp_path / "new")


def test_an_expired_token_is_refused(authority, url, tmp_path, monkeypatch):
    made = token(authority)
    monkeypatch.setattr(module.time, "time", lambda: made.expires + 1)
    with pytest.raises(IdentityError, match=r"'new' expired at"):
        enrol(url, made.text, tmp_path / "new")


def test_a_token_bound_to_a_key_counts_for_no_other(authority, url, tmp_path):
    made = token(authority, key="ab" * 32)
    with pytest.raises(IdentityError, match="counts for another key: ask"):
        enrol(url, made.text, tmp_path / "new")


def test_a_token_for_a_name_in_use_is_refused(authority, url, tmp_path):
    with pytest.raises(IdentityError, match="'cleveland' has a valid certificate with another key"):
        enrol(url, token(authority, "cleveland").text, tmp_path / "new")


def test_a_revoked_node_does_not_come_back_by_its_token(authority, url, tmp_path):
    made = token(authority)
    enrol(url, made.text, tmp_path / "new")
    authority.registry.revoke("new")
    with pytest.raises(IdentityError, match="was used, and its node revoked"):
        enrol(url, made.text, tmp_path / "new")


def test_keys_that_are_not_proved_get_no_certificate(authority, folders, monkeypatch, url, tmp_path):
    request, made = enrolling._request, token(authority)

    def swapped(token_id, secret, keys):
        return request(token_id, secret, keys).model_copy(update={"signature": "00" * 64})

    monkeypatch.setattr(enrolling, "_request", swapped)
    with pytest.raises(IdentityError, match="keys of the request are not proved"):
        enrol(url, made.text, tmp_path / "new")
    assert authority.registry.token(made.id).used is None


def test_the_secret_of_a_token_is_not_sent(authority):
    made = token(authority)
    keys = enrolling.node_keys(authority.folder.parent / "none", None)
    asked = enrolling._request(made.id, made.secret, keys).model_dump_json()
    assert made.secret.hex() not in asked


def test_a_server_that_does_not_know_the_token_cannot_pretend(folders, authority, tmp_path):
    """Another server, or something between, that answers with an authority of its own."""
    made = token(authority)
    with Authority.create(tmp_path / "evil") as evil:
        other = Enrolment(evil)

        async def handler(request):
            asked = enrolling.EnrolRequest.model_validate_json(await request.read())
            mine = evil.registry.new_token("new", (), 30, 1)
            signed = request_bytes(mine.id, asked.signing_key, asked.request)
            proved = asked.model_copy(update={"token": mine.id, "proof": proof_of(mine.secret, signed)})
            patch = pytest.MonkeyPatch()
            patch.setattr(module, "_proved_keys", lambda *_: keys[0].public_key())
            reply = other.enrol(proved)
            patch.undo()
            return web.Response(text=reply.model_dump_json(), content_type="application/json")

        keys = enrolling.node_keys(tmp_path / "none", None)
        context = NodeIdentity.load(folders / "server").server_context()
        with (
            serving([("POST", ENROL, handler)], context) as port,
            pytest.raises(IdentityError, match="was not made with this token"),
        ):
            enrol(f"https://127.0.0.1:{port}", made.text, tmp_path / "new")
    assert not (tmp_path / "new" / "ca.pem").exists()


def test_what_is_no_headway_server_is_one_sentence(folders, authority, tmp_path):
    async def page(_):
        return web.Response(text="<html>")

    context = NodeIdentity.load(folders / "server").server_context()
    with (
        serving([("POST", ENROL, page)], context) as port,
        pytest.raises(IdentityError, match="is it a Headway server"),
    ):
        enrol(f"https://127.0.0.1:{port}", token(authority).text, tmp_path / "new")
    with serving([], context) as port, pytest.raises(IdentityError, match="does not enrol nodes"):
        enrol(f"https://127.0.0.1:{port}", token(authority).text, tmp_path / "new")
    with socket.socket() as held:  # no other process has its port, and nobody listens
        held.bind(("127.0.0.1", 0))
        with pytest.raises(IdentityError, match="cannot reach"):
            enrol(f"https://127.0.0.1:{held.getsockname()[1]}", token(authority).text, tmp_path / "new")


@pytest.mark.parametrize("body", [b"", b"{}", b"[]", b"\xff", b'{"token": 1}'], ids=str)
def test_a_malformed_request_is_refused(folders, url, body):
    context = ssl.create_default_context(cafile=folders / "ca" / "ca.pem")
    with (
        pytest.raises(urllib.error.HTTPError) as caught,
        closing(urllib.request.urlopen(urllib.request.Request(f"{url}{ENROL}", data=body), context=context)),
    ):
        pass
    with caught.value as answer:
        assert answer.code == 400
        assert b"malformed" in answer.read()


def test_too_many_requests_from_one_address_are_refused(folders, authority, tmp_path):
    enrolment = Enrolment(authority, rate=0.001, burst=1)
    with serving(enrolment.routes(), NodeIdentity.load(folders / "server").server_context()) as port:
        enrol(f"https://127.0.0.1:{port}", token(authority).text, tmp_path / "new")
        with pytest.raises(IdentityError, match="too many enrolments"):
            enrol(f"https://127.0.0.1:{port}", token(authority).text, tmp_path / "new")


def test_without_the_key_of_the_authority_there_is_no_enrolment(folders):
    (folders / "ca" / "ca.key").unlink()
    assert Enrolment.of(folders / "ca") is None

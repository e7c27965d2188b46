"""Who is admitted at a server, and who is not, each with its sentence and status."""

import base64
import contextlib
import hashlib
import random
import time
from contextlib import closing

import pytest

from headway.federation.http_api import NODE
from headway.federation.identity import admission as module
from headway.federation.identity import request_signature as signature
from headway.federation.identity.admission import CertifiedAdmission, NotAdmitted, OpenAdmission, check_body
from headway.federation.identity.authority import Authority
from headway.federation.identity.node_identity import NodeIdentity
from headway.federation.identity.node_registry import NodeRegistry

BODY = hashlib.sha256(b"body").hexdigest()


@pytest.fixture
def node(folders):
    return NodeIdentity.load(folders / "cleveland")


@pytest.fixture(params=[False, True], ids=["mtls", "behind proxy"])
def behind_proxy(request):
    return request.param


@pytest.fixture
def admission(folders, behind_proxy):
    with closing(CertifiedAdmission(folders / "ca", behind_proxy)) as opened:
        yield opened


@pytest.fixture
def peer(node, behind_proxy):
    return None if behind_proxy else base64.b64decode(node.certificate)


def refused(admission, headers, peer, *, method="POST", path="/v1/work", body=BODY):
    with pytest.raises(NotAdmitted) as caught:
        admission.authenticate(method, path, headers, body, peer)
    return caught.value


def test_a_node_is_admitted_by_certificate_and_signature(admission, node, peer):
    for _ in range(3):
        headers = node.sign_headers("POST", "/v1/work?a=1", BODY, run="job", round=2)
        assert admission.authenticate("POST", "/v1/work?a=1", headers, BODY, peer) == "cleveland"


def test_a_body_is_checked_when_it_was_read(admission, node, peer):
    headers = node.sign_headers("POST", "/v1/work", BODY)
    assert admission.authenticate("POST", "/v1/work", headers, None, peer) == "cleveland"
    check_body(headers, BODY)
    with pytest.raises(NotAdmitted, match="was changed on its way"):
        check_body(headers, hashlib.sha256(b"other").hexdigest())
    check_body({NODE: "a"}, BODY)


@pytest.mark.parametrize(
    "change",
    [
        {"method": "PUT"},
        {"path": "/v1/leave"},
        {"body": hashlib.sha256(b"other").hexdigest()},
        {signature.RUN: "another"},
        {signature.ROUND: "9"},
        {signature.SEQUENCE: "999"},
        {signature.NONCE: "00" * 16},
        {signature.BODY_DIGEST: "00" * 32},
        {signature.SIGNATURE: "00" * 64},
    ],
    ids=lambda change: next(iter(change)),
)
def test_whatever_is_changed_the_signature_no_longer_fits(admission, node, peer, change):
    headers = node.sign_headers("POST", "/v1/work", BODY, run="job", round=2)
    call = {key: value for key, value in change.items() if key in ("method", "path", "body")}
    error = refused(admission, {**headers, **{k: v for k, v in change.items() if k not in call}}, peer, **call)
    assert (error.status, error.kind) == (401, "unauthorised")
    assert admission.authenticate("POST", "/v1/work", headers, BODY, peer) == "cleveland", "the true one is unharmed"


def test_a_replay_is_refused_and_the_next_number_named(admission, node, peer):
    headers = node.sign_headers("POST", "/v1/work", BODY)
    admission.authenticate("POST", "/v1/work", headers, BODY, peer)
    for _ in range(5):
        error = refused(admission, headers, peer)
        assert error.status == 401
        assert error.headers[signature.SEQUENCE] == str(int(headers[signature.SEQUENCE]) + 1)


def test_after_a_restart_of_the_server_replays_are_refused_and_the_node_catches_up(folders, node, behind_proxy, peer):
    sent = [node.sign_headers("POST", "/v1/work", BODY) for _ in range(5)]
    with closing(CertifiedAdmission(folders / "ca", behind_proxy)) as first:
        for headers in sent[:3]:
            first.authenticate("POST", "/v1/work", headers, BODY, peer)
    with closing(CertifiedAdmission(folders / "ca", behind_proxy)) as second:
        for headers in sent:
            error = refused(second, headers, peer)
        assert node.catch_up(error.headers)
        headers = node.sign_headers("POST", "/v1/work", BODY)
        assert second.authenticate("POST", "/v1/work", headers, BODY, peer) == "cleveland"


def test_a_revoked_node_is_refused_from_the_next_call(admission, folders, node, peer):
    admission.authenticate("POST", "/v1/work", node.sign_headers("POST", "/v1/work", BODY), BODY, peer)
    with closing(NodeRegistry(folders / "ca")) as elsewhere:
        elsewhere.revoke("cleveland")
    error = refused(admission, node.sign_headers("POST", "/v1/work", BODY), peer)
    assert (error.status, error.kind) == (403, "refused")
    assert "'cleveland' was revoked" in str(error)


def test_a_certificate_that_expires_is_refused_from_then_on(admission, node, peer, monkeypatch):
    monkeypatch.setattr(module.time, "time", lambda: node.facts.not_after + 60)
    error = refused(admission, node.sign_headers("POST", "/v1/work", BODY), peer)
    assert error.status == 403
    assert "expired at" in str(error)
    assert "the server's clock is at" in str(error)


def test_a_renewed_certificate_counts(admission, folders, node, behind_proxy):
    old = node.facts
    with Authority.load(folders / "ca") as authority:
        renewed = authority.issue("cleveland", folders / "cleveland", days=900)
    for facts in (old, renewed.facts):
        headers = renewed.sign_headers("POST", "/v1/work", BODY)
        peer = None if behind_proxy else facts.der
        assert admission.authenticate("POST", "/v1/work", headers, BODY, peer) == "cleveland"


def test_a_node_of_another_authority_is_refused(admission, tmp_path, behind_proxy):
    with Authority.create(tmp_path / "other") as other:
        foreign = other.issue("cleveland", tmp_path / "foreign")
        stranger = other.issue("stranger", tmp_path / "stranger")
    for identity in (foreign, stranger):
        peer = None if behind_proxy else identity.facts.der
        assert refused(admission, identity.sign_headers("POST", "/v1/work", BODY), peer).status in (401, 403)


def test_a_node_cannot_call_in_the_name_of_another(admission, folders, node, peer, behind_proxy):
    other = NodeIdentity.load(folders / "Zürich")
    error = refused(admission, {**node.sign_headers("POST", "/v1/work", BODY), NODE: "Z%C3%BCrich"}, peer)
    assert error.status == (401 if behind_proxy else 403)
    if not behind_proxy:
        assert "in the name of 'Zürich'" in str(error)
        assert "that of 'cleveland'" in str(error)
        assert refused(admission, other.sign_headers("POST", "/v1/work", BODY), peer).status == 403


def test_without_a_certificate_the_proxy_option_is_named(folders, node):
    with closing(CertifiedAdmission(folders / "ca")) as admission:
        error = refused(admission, node.sign_headers("POST", "/v1/work", BODY), None)
    assert error.status == 401
    assert "--behind-proxy" in str(error)


def test_a_request_without_a_signature_is_refused(admission, peer):
    error = refused(admission, {NODE: "cleveland"}, peer)
    assert error.status == 401
    assert "not signed" in str(error)


def test_too_many_requests_are_refused_for_that_node_alone(folders, node, behind_proxy, peer):
    other = NodeIdentity.load(folders / "Zürich")
    with closing(CertifiedAdmission(folders / "ca", behind_proxy, rate=0.001, burst=3)) as admission:
        for _ in range(3):
            admission.authenticate("POST", "/v1/work", node.sign_headers("POST", "/v1/work", BODY), BODY, peer)
        error = refused(admission, node.sign_headers("POST", "/v1/work", BODY), peer)
        assert (error.status, error.kind) == (429, "busy")
        assert int(error.headers["Retry-After"]) > 1
        peer = None if behind_proxy else other.facts.der
        assert admission.authenticate("GET", "/", other.sign_headers("GET", "/"), None, peer) == "Zürich"


def test_somebody_else_cannot_use_up_the_requests_of_a_node(folders, node, behind_proxy, peer):
    with closing(CertifiedAdmission(folders / "ca", behind_proxy, rate=0.001, burst=3)) as admission:
        forged = {**node.sign_headers("POST", "/v1/work", BODY), signature.SIGNATURE: "00" * 64}
        stranger = None if behind_proxy else NodeIdentity.load(folders / "Zürich").facts.der
        for _ in range(10):
            assert refused(admission, forged, stranger).status in (401, 403)
        headers = node.sign_headers("POST", "/v1/work", BODY)
        assert admission.authenticate("POST", "/v1/work", headers, BODY, peer) == "cleveland"


def test_the_registry_may_be_read_while_the_numbers_are_kept_elsewhere(folders, node, tmp_path):
    with closing(CertifiedAdmission(folders / "ca", state=tmp_path / "state")) as admission:
        headers = node.sign_headers("POST", "/v1/work", BODY)
        admission.authenticate("POST", "/v1/work", headers, BODY, node.facts.der)
    assert (tmp_path / "state" / "accepted.sqlite").exists()
    assert not (folders / "ca" / "accepted.sqlite").exists()


def test_nobody_is_admitted_while_the_registry_cannot_be_read(admission, folders, node, peer):
    headers = node.sign_headers("POST", "/v1/work", BODY)
    (folders / "ca" / "registry.sqlite").rename(folders / "ca" / "elsewhere")
    error = refused(admission, headers, peer)
    assert (error.status, error.kind) == (503, "busy")
    (folders / "ca" / "elsewhere").rename(folders / "ca" / "registry.sqlite")
    assert admission.authenticate("POST", "/v1/work", headers, BODY, peer) == "cleveland"


def test_without_certificates_the_name_is_the_one_given():
    admission = OpenAdmission(rate=0.001, burst=2)
    assert admission.authenticate("GET", "/", {NODE: "Z%C3%BCrich"}, None, None) == "Zürich"
    for headers in ({}, {NODE: ""}, {NODE: "..%2Fx"}, {NODE: "%FF"}):
        assert refused(admission, headers, None).status == 401
    admission.authenticate("GET", "/", {NODE: "Z%C3%BCrich"}, None, None)
    assert refused(admission, {NODE: "Z%C3%BCrich"}, None).status == 429
    admission.close()


def test_the_clock_of_the_server_is_the_one_that_counts(node):
    assert node.facts.not_before < time.time() < node.facts.not_after


@pytest.mark.parametrize("count", [600, pytest.param(10_000, marks=pytest.mark.soak)])
def test_of_duplicate_reordered_late_and_replayed_requests_each_is_accepted_once(
    folders, node, behind_proxy, peer, count
):
    """Duplicates, requests that overtake others, replays at any later time and after a restart."""
    draw, accepted = random.Random(0), []
    sent = [node.sign_headers("POST", "/v1/work", BODY) for _ in range(count // 4)]
    fresh = list(sent)
    for start in range(0, len(fresh), 50):
        window = fresh[start : start + 50]
        draw.shuffle(window)
        fresh[start : start + 50] = window
    arrivals = [(position, headers) for position, headers in enumerate(fresh)]
    again = draw.choices(list(arrivals), k=count - len(sent))
    arrivals += [(position + draw.uniform(0, len(fresh)), headers) for position, headers in again]
    arrivals.sort(key=lambda arrival: arrival[0])
    for part in (arrivals[: 2 * count // 3], arrivals[2 * count // 3 :]):
        with closing(CertifiedAdmission(folders / "ca", behind_proxy, rate=1e9, burst=1e9)) as admission:
            for _, headers in part:
                with contextlib.suppress(NotAdmitted):
                    admission.authenticate("POST", "/v1/work", headers, BODY, peer)
                    accepted.append(headers[signature.NONCE])
    assert len(set(accepted)) == len(accepted)
    assert len(accepted) > count // 8, "of those before the restart each is accepted"

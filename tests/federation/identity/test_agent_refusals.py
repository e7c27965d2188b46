"""An agent whose certificate, or whose server's, is not right ends with a sentence instead of trying for ever."""

import asyncio
import hashlib
from contextlib import closing

import aiohttp
import pytest
from aiohttp import web
from old_certificates import at_days_from_now
from tls_server import serving

from headway.core.errors import HeadwayError
from headway.federation import http_api as api
from headway.federation.agent import connection as module
from headway.federation.agent.agent_log import AgentLog
from headway.federation.agent.connection import Connection, ProblemAnswer
from headway.federation.identity.admission import CertifiedAdmission, check_body
from headway.federation.identity.authority import Authority
from headway.federation.identity.node_identity import NodeIdentity
from headway.federation.identity.node_registry import NodeRegistry
from headway.federation.identity.private_files import IdentityError


class Answer(api.Body):
    name: str


def routes(admission):
    """A server that answers each admitted request with the name of its caller."""

    async def who(request):
        peer = request.transport.get_extra_info("ssl_object")
        certificate = peer and peer.getpeercert(binary_form=True)
        name = admission.authenticate(request.method, request.path_qs, request.headers, None, certificate)
        check_body(request.headers, hashlib.sha256(await request.read()).hexdigest())
        return web.json_response({"name": name})

    async def health(_):
        return web.Response(text="ok")

    return [("POST", "/who", who), ("HEAD", "/who", who), ("GET", api.JOB, who), ("GET", "/health", health)]


def calls(url, identity, count=1, between=lambda: None, sink=None):
    """The last answer to some calls on one connection."""

    async def run():
        async with Connection(url, identity, AgentLog(sink)) as connection:
            for number in range(count):
                if number:
                    between()
                answer = await connection.call("POST", "/who", Answer(name="?"), Answer)
        return answer.name

    return asyncio.run(asyncio.wait_for(run(), 120))


@pytest.fixture
def node(folders):
    return NodeIdentity.load(folders / "cleveland")


@pytest.fixture
def url(folders):
    with (
        closing(CertifiedAdmission(folders / "ca")) as admission,
        serving(routes(admission), NodeIdentity.load(folders / "server").server_context()) as port,
    ):
        yield f"https://localhost:{port}"


def test_a_node_is_known_by_its_certificate_and_signature(url, node):
    assert calls(url, node, 3) == "cleveland"


def test_a_server_that_was_restarted_is_caught_up_with(folders, node):
    context = NodeIdentity.load(folders / "server").server_context()
    for _ in range(2):
        with closing(CertifiedAdmission(folders / "ca")) as admission, serving(routes(admission), context) as port:
            assert calls(f"https://localhost:{port}", node, 2) == "cleveland"


def test_a_node_behind_a_proxy_is_known_by_its_signature(folders, node):
    """The proxy ends TLS; what reaches the server is plain HTTP without a certificate."""
    with (
        closing(CertifiedAdmission(folders / "ca", behind_proxy=True)) as admission,
        serving(routes(admission)) as port,
    ):
        assert calls(f"http://127.0.0.1:{port}", node) == "cleveland"


def test_a_node_that_is_revoked_between_two_calls_is_refused_on_the_same_connection(folders, url, node):
    def revoke():
        with closing(NodeRegistry.of(folders / "ca")) as registry:
            registry.revoke("cleveland")

    with pytest.raises(ProblemAnswer, match="'cleveland' was revoked at") as caught:
        calls(url, node, 2, between=revoke)
    assert caught.value.status == 403


def test_a_refusal_without_a_body_has_its_sentence_too(folders, url, node):
    with closing(NodeRegistry.of(folders / "ca")) as registry:
        registry.revoke("cleveland")

    async def head():
        async with Connection(url, node, AgentLog()) as connection, connection.request("HEAD", "/who"):
            pass

    with pytest.raises(ProblemAnswer, match="'cleveland' was revoked at"):
        asyncio.run(head())


def test_the_name_dialled_is_not_the_servers(folders, node):
    with Authority.load(folders / "ca") as authority:
        server = authority.issue("other", folders / "other", hosts=("server.example.org",))
    with serving([], server.server_context()) as port, pytest.raises(HeadwayError) as caught:
        calls(f"https://localhost:{port}", node)
    assert "is for 'server.example.org', and the name dialled is 'localhost'" in str(caught.value)


def test_a_server_of_another_federation(node, tmp_path):
    with Authority.create(tmp_path / "other") as authority:
        server = authority.issue("server", tmp_path / "server", hosts=("localhost",))
    with serving([], server.server_context()) as port, pytest.raises(HeadwayError, match="is from the authority"):
        calls(f"https://localhost:{port}", node)


def test_a_node_of_another_federation(url, folders, tmp_path):
    with Authority.create(tmp_path / "other") as authority:
        foreign = authority.issue("cleveland", tmp_path / "foreign")
    (tmp_path / "foreign" / "ca.pem").write_bytes((folders / "ca" / "ca.pem").read_bytes())
    with pytest.raises(HeadwayError, match=r"refuses the certificate of 'cleveland'.*another federation"):
        calls(url, foreign)


def test_a_certificate_that_ended_for_the_server_alone(tmp_path, monkeypatch):
    """The node's clock is behind, so that only the server sees it."""
    with at_days_from_now(-100), Authority.create(tmp_path / "ca") as authority:
        server = authority.issue("server", tmp_path / "server", hosts=("localhost",))
        expired = authority.issue("expired", tmp_path / "expired", days=30)
    monkeypatch.setattr(expired, "check_validity", lambda: None)
    with (
        closing(CertifiedAdmission(tmp_path / "ca")) as admission,
        serving(routes(admission), server.server_context()) as port,
        pytest.raises(HeadwayError, match=r"'expired', which is valid until .* the server's clock is at"),
    ):
        calls(f"https://localhost:{port}", expired)


def test_an_expired_certificate_is_found_before_anything_is_sent(tmp_path):
    with at_days_from_now(-100), Authority.create(tmp_path / "ca") as authority:
        expired = authority.issue("expired", tmp_path / "expired", days=30)
    with pytest.raises(HeadwayError, match=r"'expired' in .* expired at"):
        calls("https://localhost:1", expired)


def test_clocks_that_differ_are_said_once(url, node, monkeypatch):
    written = []
    monkeypatch.setattr(module, "clock_sentence", lambda _: "this machine's clock is wrong.")
    assert calls(url, node, 3, sink=lambda kind, sentence, _: written.append((kind, sentence))) == "cleveland"
    assert written == [("clock", "This machine's clock is wrong.")]


def test_a_server_whose_certificate_ended_is_waited_for_once_it_was_reached(folders, node, monkeypatch):
    """Its operator will replace it; the agent goes on then."""
    problem = IdentityError("the certificate of the server has expired.")
    raised, written = iter([None, aiohttp.ServerDisconnectedError(), None]), []
    monkeypatch.setattr(module, "tls_problem", lambda *_: problem)
    request = aiohttp.ClientSession.request

    def failing(*arguments, **options):
        if (error := next(raised)) is not None:
            raise error
        return request(*arguments, **options)

    monkeypatch.setattr(aiohttp.ClientSession, "request", failing)
    with (
        closing(CertifiedAdmission(folders / "ca")) as admission,
        serving(routes(admission), NodeIdentity.load(folders / "server").server_context()) as port,
    ):
        url = f"https://localhost:{port}"
        assert calls(url, node, 2, sink=lambda kind, sentence, _: written.append((kind, sentence))) == "cleveland"
    (unreachable,) = (sentence for kind, sentence in written if kind == "unreachable")
    assert "has expired" in unreachable


def test_a_certificate_that_ends_soon_is_said_once(tmp_path):
    written = []
    with Authority.create(tmp_path / "ca") as authority:
        server = authority.issue("server", tmp_path / "server", hosts=("localhost",))
        node = authority.issue("node", tmp_path / "node", days=10)
    with (
        closing(CertifiedAdmission(tmp_path / "ca")) as admission,
        serving(routes(admission), server.server_context()) as port,
    ):
        calls(f"https://localhost:{port}", node, 3, sink=lambda *event: written.append(event))
    assert [kind for kind, *_ in written] == ["certificate"]

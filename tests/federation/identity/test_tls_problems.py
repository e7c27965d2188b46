"""Each way in which a server and a node refuse each other's certificates is a sentence with both sides."""

import asyncio
import socket

import pytest
from aiohttp import web
from old_certificates import at_days_from_now
from tls_server import serving

from headway.federation.identity import tls_problems
from headway.federation.identity.authority import Authority
from headway.federation.identity.node_identity import NodeIdentity
from headway.federation.identity.private_files import IdentityError
from headway.federation.identity.tls_problems import tls_problem

HOSTS = ("localhost", "server.example.org")


async def _health(_):
    return web.Response(text="ok")


ROUTES = [("GET", "/health", _health)]


@pytest.fixture
def node(folders):
    return NodeIdentity.load(folders / "cleveland")


@pytest.fixture
def server(folders):
    with serving(ROUTES, NodeIdentity.load(folders / "server").server_context()) as port:
        yield port


def problem_at(context, node, host="localhost", scheme="https"):
    with serving(ROUTES, context) as port:
        found = tls_problem(f"{scheme}://{host}:{port}", node)
    return None if found is None else str(found)


def test_a_good_pair_has_none(server, node):
    assert tls_problem(f"https://localhost:{server}", node) is None
    assert tls_problem(f"https://127.0.0.1:{server}/", node) is None
    assert tls_problem(f"http://localhost:{server}", node) is None


def test_a_server_that_is_not_there_is_no_problem_of_tls(node):
    with socket.socket() as held:  # no other process has its port, and nobody listens
        held.bind(("127.0.0.1", 0))
        assert tls_problem(f"https://localhost:{held.getsockname()[1]}", node) is None


def test_a_certificate_for_another_name_than_the_one_dialled(folders, node):
    with Authority.load(folders / "ca") as authority:
        other = authority.issue("other", folders / "other", hosts=("server.example.org", "10.1.2.3"))
    sentence = problem_at(other.server_context(), node)
    assert "is for 'server.example.org', '10.1.2.3', and the name dialled is 'localhost'" in sentence
    assert "--host localhost" in sentence
    assert "the name dialled is '127.0.0.1'" in problem_at(other.server_context(), node, "127.0.0.1")


def test_a_server_of_another_federation(node, tmp_path):
    with Authority.create(tmp_path / "other", "Another federation") as authority:
        foreign = authority.issue("server", tmp_path / "foreign", hosts=HOSTS)
    sentence = problem_at(foreign.server_context(), node)
    assert "from the authority 'Another federation'" in sentence
    assert "trusts 'Headway federation'" in sentence


def test_two_authorities_of_one_name_are_told_apart(node, tmp_path):
    with Authority.create(tmp_path / "other") as authority:
        foreign = authority.issue("server", tmp_path / "foreign", hosts=HOSTS)
    sentence = problem_at(foreign.server_context(), node)
    keys = [part.partition(")")[0] for part in sentence.split("'Headway federation' (")[1:]]
    assert len(set(keys)) == 2


def test_a_node_of_another_federation(folders, tmp_path):
    """It trusts the server, which does not trust it."""
    with Authority.create(tmp_path / "other", "Another federation") as authority:
        foreign = authority.issue("cleveland", tmp_path / "foreign")
        own = authority.issue("server", tmp_path / "own", hosts=HOSTS)
    context = NodeIdentity.load(folders / "server").server_context()
    make = foreign.client_context

    def trusting(*arguments, **options):
        made = make(*arguments, **options)
        made.load_verify_locations(folders / "ca" / "ca.pem")
        return made

    foreign.client_context = trusting
    sentence = problem_at(context, foreign)
    assert "refuses the certificate of 'cleveland', which is from the authority 'Another federation'" in sentence
    assert problem_at(own.server_context(), foreign) is None


@pytest.fixture
def old(tmp_path):
    """An authority of three years ago, with certificates that have and that have not ended."""
    with at_days_from_now(-1000), Authority.create(tmp_path / "old ca") as authority:
        authority.issue("server", tmp_path / "expired server", hosts=HOSTS, days=30)
        authority.issue("relay", tmp_path / "server", hosts=HOSTS, days=2000)
        authority.issue("expired", tmp_path / "expired", days=30)
        authority.issue("node", tmp_path / "node", days=2000)
    return tmp_path


def test_an_expired_certificate_of_a_server(old, monkeypatch):
    expired = NodeIdentity.load(old / "expired server")
    with pytest.raises(IdentityError, match=r"'server' in .* expired at .* clock is at"):
        expired.server_context()
    monkeypatch.setattr(expired, "check_validity", lambda: None)
    sentence = problem_at(expired.server_context(), NodeIdentity.load(old / "node"))
    assert "expired at 20" in sentence
    assert "this machine's clock is at 20" in sentence


def test_an_expired_certificate_of_a_node_is_found_before_anything_is_sent(old):
    node = NodeIdentity.load(old / "expired")
    with pytest.raises(IdentityError, match=r"'expired' in .* expired at .*headway identity issue expired"):
        node.client_context()
    assert "expired at 20" in str(tls_problem("https://localhost:1", node))


def test_an_expired_certificate_of_a_node_whose_clock_is_behind(old, monkeypatch):
    node = NodeIdentity.load(old / "expired")
    monkeypatch.setattr(node, "check_validity", lambda: None)
    sentence = problem_at(NodeIdentity.load(old / "server").server_context(), node)
    assert "refuses the certificate of 'expired', which is valid until 20" in sentence
    assert "the server's clock is at 20" in sentence


def test_a_certificate_that_is_not_valid_yet(tmp_path, monkeypatch):
    with Authority.create(tmp_path / "ca") as authority:
        node = authority.issue("node", tmp_path / "node")
        with at_days_from_now(30):
            server = authority.issue("server", tmp_path / "server", hosts=HOSTS)
            early = authority.issue("early", tmp_path / "early")
    with pytest.raises(IdentityError, match="one of the two clocks is wrong"):
        server.server_context()
    with pytest.raises(IdentityError, match="one of the two clocks is wrong"):
        early.client_context()
    monkeypatch.setattr(server, "check_validity", lambda: None)
    sentence = problem_at(server.server_context(), node)
    assert "is valid from 20" in sentence
    assert "one of the two clocks is wrong" in sentence


def test_a_service_without_tls(node):
    sentence = problem_at(None, node)
    assert "does not speak TLS" in sentence
    assert "--behind-proxy, whose proxy is to be dialled" in sentence


@pytest.mark.parametrize(
    ("reason", "words"),
    [
        ("TLSV1_ALERT_PROTOCOL_VERSION", "offers no TLS 1.3"),
        (
            "TLSV13_ALERT_CERTIFICATE_REQUIRED",
            "refuses the certificate of 'cleveland': tlsv13 alert certificate required",
        ),
        ("TLSV1_ALERT_UNKNOWN_CA", "refuses the certificate of 'cleveland'"),
        ("NO_CIPHERS_AVAILABLE", "fails: no ciphers available"),
    ],
)
def test_alerts_that_proxies_send(node, reason, words):
    assert words in str(tls_problems._of_alert(reason, tls_problems._Dialled("x", 1), node))


@pytest.mark.parametrize("reason", ["", "UNEXPECTED_EOF_WHILE_READING"])
def test_a_connection_that_broke_is_no_problem_of_tls(node, reason):
    assert None is tls_problems._of_alert(reason, tls_problems._Dialled("x", 1), node)


def test_connections_are_tls_1_3(folders, node):
    async def version(request):
        return web.Response(text=request.transport.get_extra_info("ssl_object").version())

    async def ask(port):
        reader, writer = await asyncio.open_connection("localhost", port, ssl=node.client_context())
        writer.write(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        text = await reader.read()
        writer.close()
        await writer.wait_closed()
        return text

    with serving([("GET", "/", version)], NodeIdentity.load(folders / "server").server_context()) as port:
        assert asyncio.run(ask(port)).endswith(b"TLSv1.3")

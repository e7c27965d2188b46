"""The connection to a server: what is waited for, what ends in a sentence, and what is said once."""

import asyncio
import socket

import pytest
from aiohttp import web

import headway as hw
from headway.federation import http_api as api
from headway.federation.agent import backoff, connection
from headway.federation.agent.agent_log import AgentLog
from headway.federation.agent.connection import Connection, ProblemAnswer
from headway.federation.identity.node_identity import OpenIdentity

WORK = api.Work(job="j", state="running")


@pytest.fixture(autouse=True)
def waits(monkeypatch):
    """The waits between attempts, which are not waited for."""
    seen = []
    real = backoff.Backoff.wait

    def wait(self, at_least=0.0):
        seen.append(real(self, at_least))
        return 0.001

    monkeypatch.setattr(backoff.Backoff, "wait", wait)
    return seen


def called(answers, events=None, **options):
    """The result of a call to a server that gives these answers one after another."""
    left = list(answers)

    async def answer(request):
        return left.pop(0) if len(left) > 1 else left[0]

    async def main():
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", answer)
        runner = web.AppRunner(app, shutdown_timeout=0.1)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        log = AgentLog(lambda *event: events.append(event) if events is not None else None)
        try:
            async with Connection(url, OpenIdentity("c"), log, **options) as made:
                return await made.call("POST", api.WORK, api.WorkRequest(job="j"), api.Work)
        finally:
            await runner.cleanup()

    return asyncio.run(main())


def text(body, status=200, **headers):
    return web.Response(text=body, status=status, headers=headers)


def good():
    return text(WORK.model_dump_json())


def test_a_proxy_whose_server_is_away_is_asked_less_and_less_often_and_said_once(waits):
    events = []
    assert called([text("<html>502</html>", 502) for _ in range(8)] + [good()], events) == WORK
    assert [kind for kind, *_ in events] == ["unreachable", "reached"]
    assert len(waits) == 8
    assert waits[7] > 8 * waits[0]
    assert all(backoff.LONGEST_S >= wait > 0 for wait in waits)


def test_a_server_that_asks_for_time_gets_it(waits):
    busy = api.Problem(kind="busy", message="too many calls").model_dump_json()
    assert called([text(busy, 429, **{"Retry-After": "7"}), good()]) == WORK
    assert waits == [7.0]


def test_a_refusal_of_the_server_is_not_repeated(waits):
    problem = api.Problem(kind="mismatch", message="another model", needed="layout 1", found="layout 2")
    with pytest.raises(ProblemAnswer, match=r"another model \(needed: layout 1; found: layout 2\)"):
        called([text(problem.model_dump_json(), 409)])
    assert waits == []


def test_what_is_no_headway_server_is_given_up_after_a_while(monkeypatch):
    monkeypatch.setattr(connection, "UNKNOWN_HOST_S", 0.0)
    with pytest.raises(hw.ConfigError, match="from what is no Headway server"):
        called([text("<html>not here</html>", 404)])


def test_a_server_of_another_version_is_named():
    newer = '{"job": "j", "more": 1, "versions": {"headway": "9.9", "protocol": 2}}'
    with pytest.raises(hw.ConfigError, match=r"has another version \(headway 9.9, interface 2\)"):
        called([text(newer)])


def test_a_host_that_no_name_server_knows_is_given_up(monkeypatch):
    monkeypatch.setattr(connection, "UNKNOWN_HOST_S", 0.0)

    async def main():
        async with Connection("https://no-such-host.invalid:1", OpenIdentity("c"), AgentLog()) as made:
            await made.call("GET", api.JOB, None, api.Work)

    with pytest.raises(hw.ConfigError, match="Look at the address for a mistake"):
        asyncio.run(main())


def test_a_server_that_is_not_up_yet_is_waited_for_without_end(waits):
    async def answer(request):
        return good()

    async def main(held):
        port = held.getsockname()[1]
        async with Connection(f"http://127.0.0.1:{port}", OpenIdentity("c"), AgentLog()) as made:
            call = asyncio.create_task(made.call("GET", api.JOB, None, api.Work))
            while len(waits) < 10:
                await asyncio.sleep(0.001)
            assert not call.done()
            app = web.Application()
            app.router.add_route("*", "/{path:.*}", answer)
            runner = web.AppRunner(app, shutdown_timeout=0.1)
            await runner.setup()
            await web.SockSite(runner, held).start()
            try:
                return await call
            finally:
                await runner.cleanup()

    with socket.socket() as held:  # no other process has its port, and nobody listens yet
        held.bind(("127.0.0.1", 0))
        assert asyncio.run(main(held)) == WORK


@pytest.mark.parametrize(("url", "proxy"), [("server:8443", None), ("https://server", "proxy:3128")])
def test_wrong_addresses_are_refused_before_anything_is_dialled(url, proxy):
    with pytest.raises(hw.ConfigError, match="needed http"):
        Connection(url, OpenIdentity("c"), AgentLog(), proxy=proxy)


def through(proxy, **options):
    """The result of a call to a server by a proxy."""

    async def main():
        async with Connection("https://localhost:1", OpenIdentity("c"), AgentLog(), proxy=proxy, **options) as made:
            return await made.call("GET", api.JOB, None, api.Work)

    return asyncio.run(main())


def test_a_wrong_proxy_of_the_environment_is_a_sentence_at_once(monkeypatch):
    monkeypatch.delenv("NO_PROXY", raising=False)
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.setenv("https_proxy", "proxy")
    with pytest.raises(hw.ConfigError, match="HTTPS_PROXY names no HTTP proxy"):
        through(None)


def test_a_proxy_that_cannot_be_reached_is_named():
    with socket.socket() as held:  # nobody listens there
        held.bind(("127.0.0.1", 0))
        port = held.getsockname()[1]
        with pytest.raises(hw.ConfigError, match=f"the proxy 127.0.0.1:{port}: "):
            through(f"http://127.0.0.1:{port}", patience_s=0.0)


def test_a_proxy_that_no_name_server_knows_is_named(monkeypatch):
    monkeypatch.setattr(connection, "UNKNOWN_HOST_S", 0.0)
    with pytest.raises(hw.ConfigError, match=r"knows the host of the proxy no-such-proxy\.invalid"):
        through("http://no-such-proxy.invalid:3128")


def test_a_proxy_that_lets_nobody_through_is_given_up_after_a_while_and_its_password_is_in_no_sentence(monkeypatch):
    monkeypatch.setattr(connection, "UNKNOWN_HOST_S", 0.0)

    async def refuse(reader, writer):
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n")
        await writer.drain()
        writer.close()

    async def main():
        async with await asyncio.start_server(refuse, "127.0.0.1", 0) as proxy:
            address = f"http://name:secret@127.0.0.1:{proxy.sockets[0].getsockname()[1]}"
            async with Connection("https://localhost:1", OpenIdentity("c"), AgentLog(), proxy=address) as made:
                await made.call("GET", api.JOB, None, api.Work)

    with pytest.raises(hw.ConfigError, match="the proxy answers 407") as caught:
        asyncio.run(main())
    assert "secret" not in str(caught.value)

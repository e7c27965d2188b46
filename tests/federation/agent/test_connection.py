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


@pytest.mark.parametrize("url", ["", "server:8443", "ftp://server", "https://", "https://server:port", "http://h?x=1"])
def test_a_wrong_address_is_a_sentence_at_once(url):
    with pytest.raises(hw.ConfigError, match="is not the address of a server"):
        Connection(url, OpenIdentity("c"), AgentLog())

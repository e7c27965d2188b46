"""Downloads and uploads go on at the byte where they broke, and nothing damaged is used."""

import asyncio
import hashlib
import os

import pytest
from aiohttp import web

from headway.core.errors import FrameError
from headway.federation import http_api as api
from headway.federation.agent import backoff
from headway.federation.agent.agent_log import AgentLog
from headway.federation.agent.connection import Connection, ProblemAnswer
from headway.federation.agent.transfers import complete, download, next_piece, upload
from headway.federation.identity.node_identity import OpenIdentity

DATA = os.urandom(3_000_000)
DIGEST = hashlib.sha256(DATA).hexdigest()


class Stand:
    """A server that breaks connections: after `cut` bytes of each download, within every second piece of an upload."""

    def __init__(self, cut=1_000_000, ranges=True, data=DATA):
        self.cut, self.ranges, self.data = cut, ranges, data
        self.sent, self.begun, self.held, self.pieces, self.asked = 0, [], bytearray(), 0, 0

    async def message(self, request):
        first = (request.http_range.start or 0) if self.ranges else 0
        self.begun.append(first)
        response = web.StreamResponse(status=206 if first else 200)
        response.content_length = len(self.data) - first
        if first:
            response.headers["Content-Range"] = f"bytes {first}-{len(self.data) - 1}/{len(self.data)}"
        await response.prepare(request)
        part = self.data[first : first + self.cut]
        self.sent += len(part)
        await response.write(part)
        if len(part) < len(self.data) - first:
            request.transport.close()
        return response

    async def received(self, request):
        return web.Response(headers={api.OFFSET: str(len(self.held))})

    async def append(self, request):
        offset, body = int(request.headers[api.OFFSET]), await request.read()
        if offset != len(self.held):
            problem = api.Problem(kind="mismatch", message="not there")
            return web.Response(status=409, text=problem.model_dump_json())
        self.pieces += 1
        self.held += body[: len(body) // 2] if self.pieces % 2 else body
        if self.pieces % 2:
            request.transport.close()
        return web.Response(headers={api.OFFSET: str(len(self.held))})

    async def complete(self, request):
        self.asked += 1
        if self.asked < 3:
            return web.json_response({}, status=202)
        receipt = api.Receipt(
            job="j", client="c", round=0, attempt=0, assignment="a b", digest=DIGEST, size=len(DATA), verdict="accepted"
        )
        return web.Response(text=receipt.model_dump_json())

    async def serve(self, work):
        app = web.Application(client_max_size=api.CHUNK)
        app.router.add_get(api.MESSAGE, self.message)
        app.router.add_route("HEAD", api.REPLY, self.received)
        app.router.add_put(api.REPLY, self.append)
        app.router.add_post(api.COMPLETE, self.complete)
        runner = web.AppRunner(app, shutdown_timeout=0.1)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        url = "http://127.0.0.1:{}".format(*runner.addresses[0][1:2])
        try:
            async with Connection(url, OpenIdentity("c"), AgentLog()) as connection:
                return await work(connection)
        finally:
            await runner.cleanup()


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
    monkeypatch.setattr(backoff.Backoff, "wait", lambda self, at_least=0.0: 0.001)


def test_a_download_goes_on_at_the_byte_where_it_broke(tmp_path):
    stand = Stand()
    path = asyncio.run(stand.serve(lambda connection: download(connection, DIGEST, len(DATA), tmp_path)))
    assert path.read_bytes() == DATA
    assert stand.begun == [0, 1_000_000, 2_000_000]
    assert stand.sent == len(DATA)
    assert os.listdir(tmp_path) == [DIGEST]


def test_a_download_from_what_knows_no_ranges_begins_again(tmp_path):
    stand = Stand(cut=len(DATA), ranges=False)
    (tmp_path / f"{DIGEST}.part").write_bytes(b"x" * 1000)
    path = asyncio.run(stand.serve(lambda connection: download(connection, DIGEST, len(DATA), tmp_path)))
    assert path.read_bytes() == DATA


def test_a_part_that_is_damaged_is_fetched_again(tmp_path):
    (tmp_path / f"{DIGEST}.part").write_bytes(b"x" * 1000)
    stand = Stand(cut=len(DATA))
    path = asyncio.run(stand.serve(lambda connection: download(connection, DIGEST, len(DATA), tmp_path)))
    assert path.read_bytes() == DATA
    assert stand.begun == [1000, 0]


def test_a_message_that_is_always_another_is_refused(tmp_path):
    stand = Stand(cut=len(DATA), data=DATA[:-1] + b"?")
    wanted = hashlib.sha256(b"another").hexdigest()
    with pytest.raises(FrameError, match="a proxy that rewrites content"):
        asyncio.run(stand.serve(lambda connection: download(connection, wanted, len(DATA), tmp_path)))
    assert os.listdir(tmp_path) == []


def test_an_upload_goes_on_at_the_byte_that_the_server_has(tmp_path):
    stand, file = Stand(), tmp_path / "reply"
    file.write_bytes(DATA)
    end = api.Complete(size=len(DATA), digest=DIGEST, message=DIGEST)

    async def send(connection):
        await upload(connection, "a b", file, len(DATA))
        return await complete(connection, "a b", end)

    receipt = asyncio.run(stand.serve(send))
    assert bytes(stand.held) == DATA
    assert receipt.verdict == "accepted"
    assert stand.asked == 3


def test_a_refusal_ends_an_upload(tmp_path):
    async def received(request):
        return web.Response(status=410)

    stand = Stand()
    stand.received = received
    (tmp_path / "reply").write_bytes(b"x")
    with pytest.raises(ProblemAnswer) as refused:
        asyncio.run(stand.serve(lambda connection: upload(connection, "a", tmp_path / "reply", 1)))
    assert refused.value.problem.kind == "late"


def test_pieces_follow_the_speed_of_the_line():
    assert next_piece(1 << 18, 0.01) == 1 << 19
    assert next_piece(api.CHUNK, 0.01) == api.CHUNK
    assert next_piece(1 << 18, 600.0) == 1 << 14

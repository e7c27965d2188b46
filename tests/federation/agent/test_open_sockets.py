"""Connections that a server does not read from are closed with the client's loop."""

import asyncio
import contextlib
import gc
import select
import socket
import warnings

import aiohttp

from headway.federation.agent.open_sockets import OpenSockets


def test_an_upload_that_is_given_up_leaves_no_socket():
    """The server accepts the connection, and reads nothing."""

    async def give_up(port):
        sockets = OpenSockets()
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(socket_factory=sockets.make)) as session:
            upload = asyncio.create_task(session.put(f"http://127.0.0.1:{port}/", data=pieces()))
            await begun.wait()
            while not stalled(sockets):
                await asyncio.sleep(0.001)
            upload.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await upload
        await sockets.end()

    async def pieces():
        while True:
            begun.set()
            yield bytes(1 << 20)

    def stalled(sockets):
        """Whether there is a connection that takes no more bytes: its loop holds some that were not sent."""
        return any(not select.select([], [each], [], 0)[1] for each in sockets._made)

    begun = asyncio.Event()
    with socket.socket() as server, warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        server.bind(("127.0.0.1", 0))
        server.listen()
        port = server.getsockname()[1]
        with asyncio.Runner() as runner:
            runner.run(give_up(port))
        gc.collect()
    assert [text for each in found if f"raddr=('127.0.0.1', {port})" in (text := str(each.message))] == []


def test_connections_that_are_closed_need_nothing():
    async def nothing():
        sockets = OpenSockets()
        sockets.make((socket.AF_INET, socket.SOCK_STREAM, 0)).close()
        kept = sockets.make((socket.AF_INET, socket.SOCK_STREAM, 0))
        await sockets.end()
        kept.close()

    asyncio.run(nothing())

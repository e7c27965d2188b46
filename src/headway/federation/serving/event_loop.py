"""The event loop of the HTTP server, from its start to the end of its last connection."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

from aiohttp import web

CLOSING_S = 0.05  # how long a client has to close its end of a connection, and to end a handshake of TLS


def run_loop(main: Coroutine[Any, Any, None]) -> None:
    """Runs a loop to its end, uvloop's where it is installed."""
    try:
        import uvloop

        factory: Callable[[], asyncio.AbstractEventLoop] | None = uvloop.new_event_loop
    except ImportError:
        factory = None
    with asyncio.Runner(loop_factory=factory) as runner:
        runner.run(main)


async def close_server(runner: web.AppRunner) -> None:
    """Ends a server with all of its connections.

    A connection over TLS is closed by both of its ends.  One that a client does not close in time is aborted, as is one
    that was made meanwhile: it would outlive its loop otherwise, and stay open as long as the process.
    """
    server = runner.server
    if server is None:
        return
    open_before = [each.transport for each in server.connections]
    await runner.cleanup()
    await asyncio.sleep(CLOSING_S)
    for transport in (*open_before, *(each.transport for each in server.connections)):
        if transport is not None:
            transport.abort()
    await asyncio.sleep(0)  # an aborted connection is closed in the next step of the loop

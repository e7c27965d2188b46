"""A server for the live page of a simulation, on this machine alone, in a thread of its own."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading

from aiohttp import web

from headway.core.errors import ConfigError
from headway.federation import http_api as api
from headway.federation.operations.page_access import PageAccess
from headway.federation.operations.status_board import StatusBoard
from headway.federation.operations.status_pages import TURN_S, StatusPages

HOST = "127.0.0.1"
LOOKS = 40  # at whether open pages have the last state, a tenth of a turn apart, before the server ends


class PageServer:
    """Serves the live page of a board.

    port: 0 for a free one.  url: the address to open, with its token.

    Raises:
        ConfigError: if the port is in use.
    """

    def __init__(self, board: StatusBoard, port: int = 0) -> None:
        self.board, self.access = board, PageAccess()
        self.pages = StatusPages(board, self.access, ends=True)
        self._thread: threading.Thread | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._end: asyncio.Event | None = None
        try:
            self._socket = socket.create_server((HOST, port))
        except OSError as error:
            raise ConfigError(
                f"the live page cannot be served at port {port}: {error.strerror or error}. Choose another port, or "
                "leave --watch-port out for a free one."
            ) from error
        self.url = self.access.url("http://{}:{}".format(*self._socket.getsockname()[:2]))

    def start(self) -> None:
        """Serves from now on, in a thread; calls before it wait."""
        begun = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve(begun)), name="live page", daemon=True)
        self._thread.start()
        begun.wait()

    async def _serve(self, begun: threading.Event) -> None:
        self._loop, self._end = asyncio.get_running_loop(), asyncio.Event()
        app = web.Application()
        for method, path, handler in self.pages.routes():
            app.router.add_route(method, path, handler)
        app.router.add_get(api.HEALTH, self._health)
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.2)
        await runner.setup()
        try:
            await web.SockSite(runner, self._socket).start()
            begun.set()
            await self._end.wait()
            await self._farewell()
        finally:
            await runner.cleanup()
            begun.set()

    async def _farewell(self) -> None:
        """Leaves open pages and `headway status --watch` a moment to receive the last state."""
        for _ in range(LOOKS):
            if not self.pages.awaits_end or not self.board.snapshot().over:
                return
            await asyncio.sleep(TURN_S / 10)

    async def _health(self, request: web.Request) -> web.Response:
        return web.json_response({"status": "ok", "state": self.board.snapshot().state})

    def stop(self) -> None:
        """Ends the server, once open pages have the last state."""
        if self._loop is not None and self._end is not None and not self._loop.is_closed():
            with contextlib.suppress(RuntimeError):  # it has ended meanwhile
                self._loop.call_soon_threadsafe(self._end.set)
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        self._socket.close()

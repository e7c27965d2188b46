"""The handlers of the status: the live page and its events, JSON, metrics."""

from __future__ import annotations

import asyncio
import json
import math
import time
from collections.abc import Awaitable, Callable
from typing import Any

from aiohttp import web

from headway.federation import http_api as api
from headway.federation.operations.live_page import fragments, render_page
from headway.federation.operations.metrics_text import CONTENT_TYPE, metrics_text, process_text
from headway.federation.operations.page_access import PageAccess
from headway.federation.operations.status_board import StatusBoard
from headway.federation.operations.status_snapshot import StatusSnapshot

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
TURN_S, TICK_S = 1.0, 10.0  # between two looks at the status, and two signs of life where nothing changes
FOLLOWED_S = 3.0  # after the status was read, until which it is expected to be read again
MOST_VIEWERS = 32
SAFE = {
    "Cache-Control": "no-store",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Cross-Origin-Resource-Policy": "same-origin",
}
NO_TOKEN = (
    "This page needs its token. Open the address that the server printed when it started, which ends in "
    "?token=..., or send the header Authorization: Bearer TOKEN.\n"
)


class StatusPages:
    """Serves the status of a board to whoever has the token.

    ends: whether the events end with the run, as those of a simulation do; a server may have another job next.
    """

    def __init__(self, board: StatusBoard, access: PageAccess, ends: bool = False) -> None:
        self.board, self.access, self.ends = board, access, ends
        self.viewers = 0
        self._read_at = -math.inf  # when the status was read last, while the run went on
        self._made: tuple[StatusSnapshot, dict[str, str]] | None = None
        self._fresh_until = 0.0
        self._making = asyncio.Lock()

    def routes(self) -> list[tuple[str, str, Handler]]:
        """The handlers as (method, path, handler)."""
        return [
            ("GET", api.DASHBOARD, self.page),
            ("GET", api.EVENTS, self.events),
            ("GET", api.STATUS, self.status),
            ("GET", api.METRICS, self.metrics),
        ]

    @property
    def awaits_end(self) -> bool:
        """Whether somebody follows the run and has not received its end yet."""
        return self.viewers > 0 or time.monotonic() - self._read_at < FOLLOWED_S

    async def page(self, request: web.Request) -> web.StreamResponse:
        """The live page; the token in its address is taken out of it."""
        if (given := request.query.get("token")) is not None and self.access.is_token(given):
            response = web.Response(status=303, headers={**SAFE, "Location": "./"})
            name, value = self.access.cookie
            secure = request.secure or request.headers.get("X-Forwarded-Proto") == "https"  # ended by a proxy
            response.set_cookie(name, value, httponly=True, samesite="Lax", secure=secure, path="/")
            return response
        if not self.access.admits(request.headers):
            return self._refusal()
        status, parts = await self._current()
        return web.Response(text=render_page(status, parts), content_type="text/html", headers=SAFE)

    async def status(self, request: web.Request) -> web.Response:
        """The status as JSON."""
        if not self.access.admits(request.headers):
            return self._refusal()
        snapshot = await asyncio.get_running_loop().run_in_executor(None, self.board.snapshot)
        self._read_at = -math.inf if snapshot.over else time.monotonic()
        return web.Response(text=snapshot.model_dump_json(), content_type="application/json", headers=SAFE)

    async def metrics(self, request: web.Request) -> web.Response:
        """The status as metrics."""
        if not self.access.admits(request.headers):
            return self._refusal()
        snapshot = await asyncio.get_running_loop().run_in_executor(None, self.board.snapshot)
        return web.Response(
            body=(metrics_text(snapshot) + process_text()).encode(), headers={**SAFE, "Content-Type": CONTENT_TYPE}
        )

    async def events(self, request: web.Request) -> web.StreamResponse:
        """The changes of the page as server-sent events, until the viewer goes away."""
        if not self.access.admits(request.headers):
            return self._refusal()
        if self.viewers >= MOST_VIEWERS:
            return web.Response(status=503, text=f"{MOST_VIEWERS} pages are open already.\n", headers=SAFE)
        headers = {**SAFE, "Content-Type": "text/event-stream; charset=utf-8", "X-Accel-Buffering": "no"}
        response = web.StreamResponse(headers=headers)
        self.viewers += 1
        try:
            await response.prepare(request)
            await self._send_changes(request, response)
        except ConnectionError:
            pass  # the viewer has gone
        finally:
            self.viewers -= 1
        return response

    async def _send_changes(self, request: web.Request, response: web.StreamResponse) -> None:
        sent: dict[str, str] = {}
        last = 0.0
        while request.transport is not None and not request.transport.is_closing():
            status, parts = await self._current()
            changed = {name: text for name, text in parts.items() if sent.get(name) != text}
            ended = self.ends and status.over
            if changed or ended:
                news = {"at": status.at, "over": status.over, "last": ended, "fragments": changed}
                await response.write(_event("status", news))
                sent, last = parts, time.monotonic()
            elif time.monotonic() - last >= TICK_S:
                await response.write(_event("tick", {"at": time.time()}))
                last = time.monotonic()
            if ended:
                return
            await asyncio.sleep(TURN_S)

    async def _current(self) -> tuple[StatusSnapshot, dict[str, str]]:
        """The status and its fragments, made once a turn for all viewers, and less often where that takes long."""
        async with self._making:
            if self._made is None or time.monotonic() >= self._fresh_until:
                begun = time.monotonic()
                self._made = await asyncio.get_running_loop().run_in_executor(None, self._make)
                spent = time.monotonic() - begun
                self._fresh_until = begun + max(0.8 * TURN_S, 10 * spent)
            return self._made

    def _make(self) -> tuple[StatusSnapshot, dict[str, str]]:
        snapshot = self.board.snapshot()
        return snapshot, fragments(snapshot)

    def _refusal(self) -> web.Response:
        return web.Response(status=401, text=NO_TOKEN, headers={**SAFE, "WWW-Authenticate": "Bearer"})


def _event(name: str, content: dict[str, Any]) -> bytes:
    """A server-sent event; JSON has no line breaks of its own."""
    return f"event: {name}\ndata: {json.dumps(content)}\n\n".encode()

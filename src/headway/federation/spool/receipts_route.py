"""The answer to a client that compares its receipts with the server's manifests: GET /v1/receipts?after=ROUND."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

from aiohttp import web

from headway.federation.http_api import RECEIPTS
from headway.federation.serving.http_bodies import Handler, json_of, peer_certificate
from headway.federation.serving.http_server import Caller
from headway.federation.serving.refusals import Refused
from headway.federation.spool.receipts import extract


def receipts_routes(admission: Caller, run: Path | Callable[[], Path]) -> list[tuple[str, str, Handler]]:
    """The handler for `HttpServer(routes=...)`.  run: the run's folder; a function, where the server has several."""

    async def receipts(request: web.Request) -> web.StreamResponse:
        client = admission.authenticate(
            request.method, request.path_qs, request.headers, None, peer_certificate(request)
        )
        after = request.query.get("after", "0")
        if not (after.isascii() and after.isdigit() and len(after) <= 9):
            raise Refused("malformed", "after is the number of a round.", found=after)
        folder = run() if callable(run) else run
        answer = await asyncio.get_running_loop().run_in_executor(None, extract, folder, client, int(after))
        if answer is None:
            raise Refused("unknown", "no round is over yet: ask again later.")
        return json_of(answer)

    return [("GET", RECEIPTS, receipts)]

"""The bodies of calls and of their answers: JSON in, JSON out, and a problem for every error."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

from aiohttp import web
from pydantic import BaseModel

from headway.core.errors import HeadwayError, RunFolderError
from headway.federation import http_api as api
from headway.federation.identity.request_signature import BODY_DIGEST
from headway.federation.serving.refusals import Refused

log = logging.getLogger("headway.federation")
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
DISK: web.AppKey[Callable[[str], None]] = web.AppKey("disk")  # given why a server keeps nothing of a call
BODY_S = 60.0  # without a single byte for so long, a body is given up
STATUS = {
    "unauthorised": 401,
    "unknown": 404,
    "mismatch": 409,
    "refused": 409,
    "gone": 410,
    "late": 410,
    "too_large": 413,
    "malformed": 400,
    "busy": 503,
    "failed": 500,
}


@web.middleware
async def answer_problems(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Answers every error with a problem, and none with a traceback; bodies are not decompressed."""
    if request.headers.get("Content-Encoding", "identity") != "identity":
        return problem_response(api.Problem(kind="malformed", message="a body is sent without Content-Encoding."), 415)
    try:
        return await handler(request)
    except Refused as refused:
        return problem_response(refused.problem, STATUS[refused.problem.kind])
    except web.HTTPException as error:
        if error.status < 400:
            raise
        kind = {404: "unknown", 413: "too_large"}.get(error.status, "malformed")
        return problem_response(api.Problem(kind=kind, message=error.reason), error.status)  # type: ignore[arg-type]
    except ConnectionError:  # of a client that is gone: nobody reads the answer
        return problem_response(api.Problem(kind="malformed", message="the connection was lost."), 400)
    except TimeoutError:
        return problem_response(api.Problem(kind="malformed", message="the body did not arrive."), 408)
    except HeadwayError as error:
        if isinstance(error, RunFolderError) and (write := request.app.get(DISK)) is not None:
            write(str(error))
        status = getattr(error, "status", 400)
        kind = "unauthorised" if status in (401, 403) else "busy" if status in (429, 503, 507) else "refused"
        response = problem_response(api.Problem(kind=kind, message=str(error)[:2000]), status)  # type: ignore[arg-type]
        response.headers.update(getattr(error, "headers", {}))
        return response
    except Exception:
        log.exception("the server failed at %s %s", request.method, request.path)
        message = "the server failed at this call; its log has the reason."
        return problem_response(api.Problem(kind="failed", message=message), 500)


def problem_response(problem: api.Problem, status: int) -> web.Response:
    """The answer to a call that is refused."""
    response = json_of(problem, status)
    if status == 429:
        response.headers["Retry-After"] = "1"
    return response


def json_of(body: BaseModel, status: int = 200) -> web.Response:
    """The answer with a body."""
    return web.Response(text=body.model_dump_json(), status=status, content_type="application/json")


async def body_of(request: web.Request) -> bytes:
    """The bytes of a small body."""
    raw = await asyncio.wait_for(request.content.read(api.BODY + 1), BODY_S)
    while not request.content.at_eof():
        more = await asyncio.wait_for(request.content.read(api.BODY + 1), BODY_S)
        raw += more
        if len(raw) > api.BODY:
            raise Refused("too_large", f"a body has at most {api.BODY} bytes.")
    return raw


def peer_certificate(request: web.Request) -> bytes | None:
    """The certificate of the other side of a request's connection, DER; `None` without TLS or certificate."""
    tls = None if request.transport is None else request.transport.get_extra_info("ssl_object")
    return None if tls is None else tls.getpeercert(binary_form=True)


def check_signed(request: web.Request, found: str) -> None:
    """Refuses a body that is not the one whose digest was signed."""
    claimed = request.headers.get(BODY_DIGEST)
    if claimed is not None and claimed != found:
        raise Refused("malformed", "the body is not the one that was signed.", claimed, found)

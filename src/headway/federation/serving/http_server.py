"""The HTTP server of a federation, in a thread with a loop of its own."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import hashlib
import ssl
import threading
from pathlib import Path
from typing import Any, Protocol, TypeVar

from aiohttp import web
from pydantic import BaseModel, ValidationError

from headway.core import fault_points
from headway.core.errors import ConfigError
from headway.federation import http_api as api
from headway.federation.identity.admission import NotAdmitted
from headway.federation.identity.request_signature import RUN, SEQUENCE, name_to_header
from headway.federation.serving.assignments import Assignments, ReplyArrived
from headway.federation.serving.event_loop import close_server, run_loop
from headway.federation.serving.http_bodies import (
    BODY_S,
    DISK,
    Handler,
    answer_problems,
    body_of,
    check_signed,
    json_of,
    peer_certificate,
)
from headway.federation.serving.members import Members
from headway.federation.serving.refusals import Refused

B = TypeVar("B", bound=BaseModel)
CERTIFICATES_AT_A_TIME = 256  # so that an answer stays far below the largest body
PART = 1 << 17  # bytes of a body that are written at a time
BUFFER = 1 << 14  # bytes of a connection from which no more is read until they are taken
LISTENING = {
    errno.EADDRINUSE: "Choose another port (--port), or stop what uses this one.",
    errno.EACCES: "Choose a port above 1023 (--port), or give the server the right to this one.",
}  # what to do about a port, by the error
DECISION_S = 20.0  # how long the end of an upload waits for the run's decision before the client is to ask again


class Uploads(Protocol):
    """The spool, as the server uses it: see `federation.spool`."""

    def received(self, upload: str) -> int:
        """The bytes that are there of an upload."""
        ...

    def append(self, upload: str, offset: int, data: bytes, *, most: int | None = None, client: str = "") -> int:
        """Adds bytes to an upload, which may have so many at most; how many are there."""
        ...

    def finish(self, upload: str, size: int, digest: str) -> Path:
        """The file of a whole upload, on disk."""
        ...

    def path(self, digest: str) -> Path:
        """The file of these contents."""
        ...


class Caller(Protocol):
    """Decides which client calls: see `federation.identity`."""

    def authenticate(
        self, method: str, path: str, headers: Any, body_sha256: str | None, peer_certificate: bytes | None
    ) -> str:
        """The name of the client."""
        ...


class Desk(Protocol):
    """The job, as the HTTP server asks about it: see `JobDesk`."""

    def description(self) -> api.JobDescription | None:
        """The job; `None` while there is none."""
        ...

    def join(self, client: str, request: api.JoinRequest) -> None:
        """Takes in a client whose facts agree with the job's; raises `Refused` otherwise."""
        ...


class HttpServer:
    """Serves the clients of a job.

    routes: further handlers, of the status and the dashboard, as (method, path, handler), which see to their own
    access.
    """

    def __init__(
        self,
        desk: Desk,
        members: Members,
        assignments: Assignments,
        uploads: Uploads,
        admission: Caller,
        routes: list[tuple[str, str, Handler]] | None = None,
    ) -> None:
        self.desk, self.members, self.assignments = desk, members, assignments
        self.uploads, self.admission, self.routes = uploads, admission, routes or []
        self.address: tuple[str, int] = ("", 0)
        self._thread: threading.Thread | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._end: asyncio.Event | None = None
        self._writing: dict[str, web.Request] = {}  # by upload, the call that writes to it

    # life -----------------------------------------------------------------------------------------------

    def serve(self, desk: Desk, members: Members, assignments: Assignments, uploads: Uploads) -> None:
        """Serves the clients of another job from now on, at the same address."""
        self.desk, self.members, self.assignments, self.uploads = desk, members, assignments, uploads

    def start(self, host: str, port: int, context: ssl.SSLContext | None = None) -> None:
        """Listens, in a thread of its own; `address` then is where.

        Raises:
            ConfigError: if the port is in use, or there is no such address here.
        """
        trouble: list[OSError] = []
        begun = threading.Event()

        async def serve() -> None:
            self._loop, self._end = asyncio.get_running_loop(), asyncio.Event()
            runner = web.AppRunner(
                self.application(),
                access_log=None,
                shutdown_timeout=2.0,
                keepalive_timeout=75.0,
                auto_decompress=False,  # a small body may become a large one
                read_bufsize=BUFFER,
            )
            await runner.setup()
            try:
                site = web.TCPSite(runner, host, port, ssl_context=context, backlog=1024)
                try:
                    await site.start()
                except OSError as error:
                    trouble.append(error)
                    return
                self.address = runner.addresses[0][:2]
                begun.set()
                await self._end.wait()
            finally:
                await close_server(runner)
                begun.set()

        self._thread = threading.Thread(target=run_loop, args=(serve(),), name="http", daemon=True)
        self._thread.start()
        begun.wait()
        if trouble:
            self._thread.join()
            mend = LISTENING.get(trouble[0].errno or 0, "Choose an address of this machine (--host).")
            raise ConfigError(f"the server cannot listen at {host}:{port}: {trouble[0].strerror or trouble[0]}. {mend}")

    def stop(self) -> None:
        """Closes all connections."""
        self.assignments.end()
        if self._loop is not None and self._end is not None and not self._loop.is_closed():
            with contextlib.suppress(RuntimeError):
                self._loop.call_soon_threadsafe(self._end.set)
        if self._thread is not None:
            self._thread.join()

    def application(self) -> web.Application:
        """The application with all routes."""
        app = web.Application(middlewares=[answer_problems], client_max_size=api.CHUNK)
        app[DISK] = lambda reason: self.members.on_disk_trouble(reason)  # of the job at present
        add = app.router.add_route
        add("GET", api.HEALTH, self._health)
        add("GET", api.JOB, self._job)
        add("POST", api.JOIN, self._join)
        add("GET", api.CERTIFICATES, self._certificates)
        add("POST", api.DECLINE, self._decline)
        add("POST", api.LEAVE, self._leave)
        add("POST", api.WORK, self._work)
        add("POST", api.HEARTBEAT, self._work)
        app.router.add_get(api.MESSAGE, self._message)
        add("HEAD", api.REPLY, self._received)
        add("PUT", api.REPLY, self._append)
        add("POST", api.COMPLETE, self._complete)
        for method, path, handler in self.routes:
            add(method, path, handler)
        return app

    # clients --------------------------------------------------------------------------------------------

    async def _health(self, request: web.Request) -> web.Response:
        return web.json_response({"status": "ok", "state": self.assignments.state})

    async def _job(self, request: web.Request) -> web.Response:
        self._caller(request)
        job = self.desk.description()
        if job is None:
            raise Refused("busy", "the server has no job at present: ask again later.")
        return json_of(job)

    async def _join(self, request: web.Request) -> web.Response:
        client, body = await self._called(request, api.JoinRequest)
        await asyncio.get_running_loop().run_in_executor(None, self.desk.join, client, body)
        return json_of(self._state(client, ()))

    async def _certificates(self, request: web.Request) -> web.Response:
        self._caller(request)
        held, more = self.members.certificates(request.query.get("after", ""), CERTIFICATES_AT_A_TIME)
        return json_of(api.Certificates(certificates=held, more=more))

    async def _decline(self, request: web.Request) -> web.Response:
        client, body = await self._called(request, api.Problem)
        self.members.decline(client, body.message)
        return web.json_response({})

    async def _leave(self, request: web.Request) -> web.Response:
        client = self._caller(request)
        self.members.leave(client)
        return web.json_response({})

    async def _work(self, request: web.Request) -> web.Response:
        client, body = await self._called(request, api.WorkRequest)
        if body.job != self.assignments.job:
            raise Refused("gone", "the job has ended: ask for the present one.", self.assignments.job, body.job)
        if self.members.contact(client, body.activity, body.done) is None:
            raise _not_joined(client)
        self.assignments.settled(client, body.settled)
        if body.wait_s:
            await self.assignments.news(client, body.working, body.wait_s)
            self.members.contact(client)
        return json_of(self._state(client, body.working))

    async def _message(self, request: web.Request) -> web.StreamResponse:
        client = self._caller(request)
        digest = request.match_info["digest"]
        if len(digest) != 64 or not set(digest) <= set("0123456789abcdef"):
            raise Refused("malformed", "a message is named by the 64 hexadecimal digits of its digest.")
        path = self.uploads.path(digest)
        if not self.assignments.was_sent(client, digest) or not path.is_file():
            raise Refused("gone", "there is no such message any more.")
        try:
            first = request.http_range.start or 0
        except ValueError as error:
            raise Refused("malformed", f"the header Range: {error}.") from None
        self.members.add_bytes(client, down=max(0, path.stat().st_size - first))
        return web.FileResponse(path, headers={"Cache-Control": "private, max-age=31536000, immutable"})

    # replies --------------------------------------------------------------------------------------------

    async def _received(self, request: web.Request) -> web.Response:
        client = self._caller(request)
        assignment = self._open(client, request)
        return web.Response(headers={api.OFFSET: str(self.uploads.received(_upload(client, assignment)))})

    async def _append(self, request: web.Request) -> web.Response:
        length, offset = request.content_length, request.headers.get(api.OFFSET, "")
        if length is None or not offset.isdecimal() or len(offset) > 18:
            raise Refused("malformed", f"a piece needs a Content-Length and the header {api.OFFSET}.")
        if length > api.CHUNK:
            raise Refused("too_large", f"a piece has at most {api.CHUNK} bytes, found {length}.")
        client = self._caller(request)
        assignment = self._open(client, request)
        if int(offset) + length > assignment.limit:
            raise Refused(
                "too_large",
                f"the reply may have {assignment.limit} bytes, found {int(offset) + length} and more.",
            )
        name = _upload(client, assignment)
        if (before := self._writing.get(name)) is not None and before.transport is not None:
            before.transport.abort()  # of a connection that the client has lost, and the server not yet
        self._writing[name] = request
        try:
            await self._write(request, client, name, int(offset), assignment.limit)
        finally:
            if self._writing.get(name) is request:
                del self._writing[name]
        return web.json_response({}, headers={api.OFFSET: str(self.uploads.received(name))})

    async def _write(self, request: web.Request, client: str, name: str, offset: int, most: int) -> None:
        """Writes a piece as it comes in; what came of a piece that broke off is kept.  most: bytes of the whole."""
        there = self.uploads.received(name)
        if offset != there:
            raise Refused("mismatch", "the piece does not begin where the upload ends.", str(there), str(offset))
        digest, place, held = hashlib.sha256(), offset, bytearray()

        def keep() -> None:
            nonlocal place
            data = bytes(held)
            held.clear()
            digest.update(data)
            self.uploads.append(name, place, data, most=most, client=client)
            place += len(data)
            self.members.add_bytes(client, up=len(data))

        try:
            while part := await asyncio.wait_for(request.content.read(PART - len(held)), BODY_S):
                held += part
                if len(held) >= PART:
                    keep()
        finally:
            if held and self._writing.get(name) is request:
                keep()
        check_signed(request, digest.hexdigest())

    async def _complete(self, request: web.Request) -> web.Response:
        client, body = await self._called(request, api.Complete)
        name = request.match_info["assignment"]
        if (receipt := self.assignments.receipt(client, name)) is not None and receipt.digest == body.digest:
            return json_of(receipt)
        assignment = self._open(client, request)
        if body.size > assignment.limit:
            raise Refused("too_large", f"the reply may have {assignment.limit} bytes, found {body.size}.")
        loop, upload = asyncio.get_running_loop(), _upload(client, assignment)
        path = await loop.run_in_executor(None, self.uploads.finish, upload, body.size, body.digest)
        arrived = ReplyArrived(client, assignment, path, body.digest, body.size, body.message)
        decided = asyncio.wrap_future(self.assignments.arrived(arrived))
        done, _ = await asyncio.wait({decided}, timeout=DECISION_S)
        self.members.contact(client)
        if not done:
            return web.json_response({}, status=202)
        fault_points.at("before a reply is acknowledged")
        return json_of(decided.result())

    # helpers --------------------------------------------------------------------------------------------

    def _caller(self, request: web.Request) -> str:
        """The client that calls, by the head of its request alone."""
        certificate = peer_certificate(request)
        try:
            name = self.admission.authenticate(request.method, request.path_qs, request.headers, None, certificate)
        except NotAdmitted as refused:
            if SEQUENCE not in refused.headers:  # after which a client signs its call again
                self.members.refuse_call(refused.status)
            if self.members.get(refused.ended) is not None:  # no round waits for it
                self.members.decline(refused.ended, str(refused))
                self.members.leave(refused.ended)
            raise
        run = request.headers.get(RUN, "")
        if run not in ("", name_to_header(self.assignments.job)) and request.path != api.JOB:
            raise Refused("gone", "the request was signed for another job: ask for the present one.")
        return name

    async def _called(self, request: web.Request, model: type[B]) -> tuple[str, B]:
        """The caller and its body: the size is checked first, then the caller, then the schema."""
        if (request.content_length or 0) > api.BODY:
            raise Refused("too_large", f"a body has at most {api.BODY} bytes, found {request.content_length}.")
        client, raw = self._caller(request), await body_of(request)
        check_signed(request, hashlib.sha256(raw).hexdigest())
        try:
            return client, model.model_validate_json(raw)
        except ValidationError as error:
            first = error.errors(include_url=False, include_context=False, include_input=False)[0]
            where = ".".join(map(str, first["loc"])) or "the body"
            raise Refused("malformed", f"{where}: {first['msg']}") from None

    def _open(self, client: str, request: web.Request) -> api.Assignment:
        assignment = self.assignments.find(client, request.match_info["assignment"])
        if assignment is None and not self.assignments.is_unwanted():
            if self.members.get(client) is None:  # for which a run may be waiting before it opens any request
                raise _not_joined(client)
            raise Refused("busy", "no run is waiting for replies at present: ask again later.")
        if assignment is None:
            raise Refused("late", "the reply to this request is not wanted any more.")
        return assignment

    def _state(self, client: str, working: tuple[str, ...]) -> api.Work:
        held, board = self.assignments.of(client), self.assignments
        state, reason = board.show_state(client)
        gone = [name for name in working if held is None or held.assignment != name] if board.is_unwanted() else []
        withdrawn = tuple(
            name for name in gone if board.receipt(client, name) is None
        )  # of others the receipt is on its way
        member = self.members.get(client)
        aside = "" if member is None or not member.set_aside else f"set aside: {member.reason}"
        return api.Work(
            job=board.job,
            state=state,
            reason=(reason or aside)[:2000],
            assignment=held,
            withdrawn=withdrawn,
            verdicts=board.verdicts(client),
        )


def _not_joined(client: str) -> Refused:
    return Refused("unknown", f"client {client!r} has not joined since the server was started: join again.")


def _upload(client: str, assignment: api.Assignment) -> str:
    """The name of an upload in the spool, which is the same after a restart."""
    return hashlib.sha256(f"{client}\0{assignment.assignment}".encode()).hexdigest()

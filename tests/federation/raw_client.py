"""A client of the HTTP interface written against `federation/http_api.py` alone: for tests that misbehave on purpose.

It keeps one connection, sends what it is told to and returns what comes back, without judgement.
"""

from __future__ import annotations

import hashlib
import http.client
import json
import socket
import ssl
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import torch

from headway.core.update import Update
from headway.federation import http_api as api
from headway.protocol.messages import Reply, Scores, UpdateReply
from headway.protocol.wire_messages import Binding, decode_request, encode_reply

Sign = Callable[[str, str, bytes], Mapping[str, str]]  # method, path and body to headers


@dataclass(frozen=True)
class Response:
    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def kind(self) -> str:
        """The kind of the problem, if it is one."""
        return api.Problem.model_validate_json(self.body).kind


class RawClient:
    """One client, by name; sign: further headers of each call; context: of TLS."""

    def __init__(
        self,
        url: str,
        name: str,
        sign: Sign | None = None,
        context: ssl.SSLContext | None = None,
        timeout: float = 40.0,
    ) -> None:
        parts = urlsplit(url)
        self.host, self.port, self.tls = parts.hostname or "", parts.port or 443, parts.scheme == "https"
        self.name, self.sign, self.context, self.timeout = name, sign, context, timeout
        self.connection: http.client.HTTPConnection | None = None
        self.job_id = ""
        self.settled: tuple[tuple[int, int], ...] = ()  # verdicts that `assignment` has received

    def __enter__(self) -> RawClient:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        if self.connection is not None:
            self.connection.close()
            self.connection = None

    def socket(self) -> socket.socket:
        """A connection of its own to the server, for raw bytes."""
        plain = socket.create_connection((self.host, self.port), self.timeout)
        return self.context.wrap_socket(plain, server_hostname=self.host) if self.tls and self.context else plain

    def call(self, method: str, path: str, body: bytes = b"", headers: Mapping[str, str] | None = None) -> Response:
        """One call; the connection is made anew where it was closed."""
        own = {api.NODE: self.name, **(self.sign(method, path, body) if self.sign else {}), **(headers or {})}
        if body or method in ("POST", "PUT"):
            own.setdefault("Content-Length", str(len(body)))
        if self.connection is None:
            kind = http.client.HTTPSConnection if self.tls else http.client.HTTPConnection
            extra = {"context": self.context} if self.tls else {}
            self.connection = kind(self.host, self.port, timeout=self.timeout, **extra)
        try:
            self.connection.request(method, path, body or None, own)
            answer = self.connection.getresponse()
            return Response(answer.status, dict(answer.headers), answer.read())
        except (OSError, http.client.HTTPException):
            self.close()
            raise

    def post(self, path: str, body: api.Body | Mapping[str, Any] | bytes) -> Response:
        if isinstance(body, api.Body):
            body = body.model_dump_json().encode()
        return self.call("POST", path, body if isinstance(body, bytes) else json.dumps(body).encode())

    # an honest client ------------------------------------------------------------------------------------

    def job(self) -> api.JobDescription:
        answer = self.call("GET", api.JOB)
        assert answer.status == 200, answer
        return api.JobDescription.model_validate_json(answer.body)

    def join(self, train: int, test: int = 0, **more: Any) -> Response:
        """Joins with the facts that the server itself states."""
        job = self.job()
        self.job_id = job.job
        return self.post(api.JOIN, join_request(job, train, test, **more))

    def work(self, wait_s: float = 25.0, **more: Any) -> api.Work:
        answer = self.post(api.WORK, api.WorkRequest(job=self.job_id, wait_s=wait_s, **more))
        assert answer.status == 200, answer
        return api.Work.model_validate_json(answer.body)

    def assignment(self, kind: str = "train", tries: int = 20) -> api.Assignment:
        """The next assignment of this kind."""
        for _ in range(tries):
            work = self.work(5.0, settled=self.settled)
            if work.assignment is not None and work.assignment.kind == kind:
                return work.assignment
            assert work.state in ("waiting", "running"), work
            self.settled = tuple((verdict.round, verdict.attempt) for verdict in work.verdicts)
        raise AssertionError(f"no assignment to {kind}: {work}")

    def message(self, assignment: api.Assignment) -> bytes:
        return self._fetched(assignment.message)

    def private(self, assignment: api.Assignment) -> bytes:
        """The frame with the client's own tensors."""
        return self._fetched(assignment.private or "")

    def _fetched(self, digest: str) -> bytes:
        answer = self.call("GET", api.MESSAGE.format(digest=digest))
        assert answer.status == 200, answer
        assert hashlib.sha256(answer.body).hexdigest() == digest
        return answer.body

    def put(self, assignment: api.Assignment, data: bytes, offset: int = 0) -> Response:
        path = api.REPLY.format(assignment=assignment.assignment)
        return self.call("PUT", path, data, {api.OFFSET: str(offset)})

    def received(self, assignment: api.Assignment) -> int:
        answer = self.call("HEAD", api.REPLY.format(assignment=assignment.assignment))
        assert answer.status == 200, answer
        return int(answer.headers[api.OFFSET])

    def complete(self, assignment: api.Assignment, data: bytes, **more: Any) -> Response:
        body = {"size": len(data), "digest": hashlib.sha256(data).hexdigest(), "message": assignment.message} | more
        return self.post(api.COMPLETE.format(assignment=assignment.assignment), body)

    def send(self, assignment: api.Assignment, data: bytes, piece: int = api.CHUNK) -> Response:
        """Uploads a reply whole; the first answer that is not 200, or that to its end."""
        for offset in range(0, len(data), piece):
            answer = self.put(assignment, data[offset : offset + piece], offset)
            if answer.status != 200:
                return answer
        answer = self.complete(assignment, data)
        while answer.status == 202:
            answer = self.complete(assignment, data)
        return answer

    def answer(self, assignment: api.Assignment, weight: float, value: float = 0.0) -> Response:
        """An honest reply: an update whose coordinates all have this value, or scores."""
        return self.send(assignment, prepared(assignment, self.message(assignment), weight, value))


def join_request(job: api.JobDescription, train: int, test: int = 0, **more: Any) -> api.JoinRequest:
    schema = job.data_schema
    facts: dict[str, Any] = {"train": train, "test": test, "input_shape": tuple(schema.get("input_shape", ()))}
    classes, features = schema.get("classes"), schema.get("features", ())
    facts |= {"classes": tuple(classes) if classes else None, "features": tuple(map(str, features))}
    data = api.DataFacts(**facts | more.pop("data", {}))
    return api.JoinRequest(job=job.job, versions=job.versions, task=job.task, data=data, **more)


def prepared(assignment: api.Assignment, message: bytes, weight: float, value: float = 0.0) -> bytes:
    """The bytes of an honest reply to an assignment."""
    request, binding = decode_request(message, 1 << 40)
    return encode_reply(reply_to(assignment.kind, request.message.params, weight, value), binding)


def reply_to(kind: str, params: torch.Tensor, weight: float, value: float = 0.0) -> Reply:
    if kind != "train":
        return Scores({"loss": 1.0, "accuracy": 0.5}, int(weight))
    update = Update({"delta": torch.full_like(params, value)}, torch.tensor(weight, dtype=params.dtype))
    return UpdateReply(update, {"examples": weight, "steps": 1.0, "train_loss": 1.0})


def binding_of(assignment: api.Assignment) -> Binding:
    return Binding(assignment.round, assignment.attempt, assignment.ask)

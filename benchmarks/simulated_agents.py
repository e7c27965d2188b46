"""Agents that do not train: each answers with numbers of its own, hundreds or thousands of them in one process.

    python benchmarks/simulated_agents.py http://127.0.0.1:8471 --agents 500 --train 10

They are written against `headway.federation.http_api` alone, and keep its rules: every request is downloaded, every
reply is uploaded in pieces and completed, verdicts are acknowledged.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import json
import ssl
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field

import aiohttp
import torch

from headway.core.update import Update
from headway.federation import http_api as api
from headway.protocol.messages import Reply, Request, Scores, UpdateReply
from headway.protocol.wire_messages import Binding, decode_request, encode_reply

Sign = Callable[[str, str, str, bytes], Mapping[str, str]]  # the agent's name, method, path, body
PAUSE_S = 0.5


@dataclass
class Figures:
    """What happened: replies by kind and verdict, failures by kind, bytes, and the seconds of each upload."""

    replies: Counter[str] = field(default_factory=Counter)
    failures: Counter[str] = field(default_factory=Counter)
    up: int = 0
    down: int = 0
    seconds: list[float] = field(default_factory=list)
    states: Counter[str] = field(default_factory=Counter)
    polls: int = 0

    def text(self) -> str:
        times = sorted(self.seconds) or [0.0]
        return json.dumps(
            {
                "replies": dict(self.replies),
                "failures": dict(self.failures),
                "up": self.up,
                "down": self.down,
                "polls": self.polls,
                "upload_median_s": round(times[len(times) // 2], 3),
                "upload_longest_s": round(times[-1], 3),
                "states": dict(self.states),
            }
        )


class SimulatedAgents:
    """Agents of one server; weight: of their updates, the number of their training examples.

    value: of every coordinate of an update.  sign: further headers.  contexts: a TLS context for each agent, by name.
    """

    def __init__(
        self,
        url: str,
        names: list[str],
        train: int = 10,
        value: float = 0.001,
        sign: Sign | None = None,
        contexts: Mapping[str, ssl.SSLContext] | None = None,
    ) -> None:
        self.url, self.names, self.train, self.value = url, names, train, value
        self.sign, self.contexts = sign, contexts or {}
        self.figures = Figures()
        self.joined = 0
        self.places = {name: place for place, name in enumerate(names)}
        self._requests: dict[str, tuple[Request, Binding]] = {}

    async def run(self, at_once: int = 100, stop: asyncio.Event | None = None) -> Figures:
        """All agents until the job ends; at_once: how many connect at the same time."""
        gate = asyncio.Semaphore(at_once)
        connector = aiohttp.TCPConnector(limit=0, keepalive_timeout=120)
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=60, sock_read=120 + api.LONGEST_POLL_S)
        async with aiohttp.ClientSession(self.url, connector=connector, timeout=timeout) as session:
            agents = [asyncio.ensure_future(self._agent(session, name, gate)) for name in self.names]
            ends = asyncio.ensure_future(asyncio.wait(agents))
            waits = [ends] if stop is None else [ends, asyncio.ensure_future(stop.wait())]
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
            for each in [*waits, *agents]:
                each.cancel()
            await asyncio.gather(*waits, *agents, return_exceptions=True)
        return self.figures

    async def _agent(self, session: aiohttp.ClientSession, name: str, gate: asyncio.Semaphore) -> None:
        while True:
            try:
                async with gate:
                    status, raw = await self._call(session, name, "GET", api.JOB)
                    if status == 503:
                        await asyncio.sleep(PAUSE_S)
                        continue
                    job = api.JobDescription.model_validate_json(raw)
                    status, raw = await self._post(session, name, api.JOIN, join_request(job, self.train))
                    if status != 200:
                        self.figures.failures[f"join {status} {raw[:200].decode()}"] += 1
                        return
                self.joined += 1
                if await self._work(session, name, job):
                    return
            except (aiohttp.ClientError, TimeoutError, OSError) as error:
                self.figures.failures[type(error).__name__] += 1
                await asyncio.sleep(PAUSE_S)

    async def _work(self, session: aiohttp.ClientSession, name: str, job: api.JobDescription) -> bool:
        """Answers assignments; whether the job has ended."""
        settled: tuple[tuple[int, int], ...] = ()
        while True:
            wish = api.WorkRequest(job=job.job, wait_s=job.poll_s, settled=settled)
            status, raw = await self._post(session, name, api.WORK, wish)
            if status != 200:
                self.figures.failures[f"work {status}"] += 1
                return status == 410
            self.figures.polls += 1
            work = api.Work.model_validate_json(raw)
            settled = tuple((each.round, each.attempt) for each in work.verdicts)
            if work.state in ("finished", "failed", "stopped"):
                self.figures.states[f"{work.state} {work.reason}".strip()] += 1
                return True
            if work.assignment is not None:
                await self._answer(session, name, work.assignment)

    async def _answer(self, session: aiohttp.ClientSession, name: str, given: api.Assignment) -> None:
        data, digest = await self._reply(session, name, given)
        begun, path = time.monotonic(), api.REPLY.format(assignment=given.assignment)
        view = memoryview(data)
        for offset in range(0, len(data), api.CHUNK):
            piece = bytes(view[offset : offset + api.CHUNK])
            status, raw = await self._call(session, name, "PUT", path, piece, {api.OFFSET: str(offset)})
            if status != 200:
                self.figures.failures[f"piece {status} {raw[:100].decode()}"] += 1
                return
            self.figures.up += len(piece)
        end = api.Complete(size=len(data), digest=digest, message=given.message)
        while True:
            status, raw = await self._post(session, name, api.COMPLETE.format(assignment=given.assignment), end)
            if status != 202:
                break
        if status == 200:
            self.figures.seconds.append(time.monotonic() - begun)
            self.figures.replies[f"{given.kind} {api.Receipt.model_validate_json(raw).verdict}"] += 1
        else:
            self.figures.failures[f"complete {status} {raw[:100].decode()}"] += 1

    async def _reply(self, session: aiohttp.ClientSession, name: str, given: api.Assignment) -> tuple[bytes, str]:
        """An agent's reply and its digest: every agent downloads the request, and no two replies are alike."""
        parts = [p async for p in self._parts(session, name, given) if given.message not in self._requests]
        if given.message not in self._requests:
            self._requests = {given.message: decode_request(b"".join(parts), 1 << 40)}
        request, binding = self._requests[given.message]
        value = self.value * (1 + self.places[name] / len(self.places))
        data = encode_reply(reply_to(given.kind, request.message.params, self.train, value), binding)
        return data, hashlib.sha256(data).hexdigest()

    async def _parts(self, session: aiohttp.ClientSession, name: str, given: api.Assignment) -> AsyncIterator[bytes]:
        """The bytes of a request as they come in."""
        path = api.MESSAGE.format(digest=given.message)
        async with session.get(path, headers=self._headers(name, "GET", path, b""), ssl=self._ssl(name)) as answer:
            async for part in answer.content.iter_chunked(1 << 16):
                self.figures.down += len(part)
                yield part

    async def _post(self, session: aiohttp.ClientSession, name: str, path: str, body: api.Body) -> tuple[int, bytes]:
        return await self._call(session, name, "POST", path, body.model_dump_json().encode())

    async def _call(
        self,
        session: aiohttp.ClientSession,
        name: str,
        method: str,
        path: str,
        body: bytes = b"",
        headers: Mapping[str, str] | None = None,
    ) -> tuple[int, bytes]:
        own = self._headers(name, method, path, body) | (headers or {})
        async with session.request(method, path, data=body or None, headers=own, ssl=self._ssl(name)) as answer:
            return answer.status, await answer.read()

    def _headers(self, name: str, method: str, path: str, body: bytes) -> dict[str, str]:
        own = {api.NODE: name}
        return own | dict(self.sign(name, method, path, body)) if self.sign else own

    def _ssl(self, name: str) -> ssl.SSLContext | bool:
        return self.contexts.get(name, True)


def join_request(job: api.JobDescription, train: int) -> api.JoinRequest:
    """The request of an agent whose facts are those that the server states."""
    schema = job.data_schema
    classes = schema.get("classes")
    data = api.DataFacts(
        train=train,
        test=train,
        input_shape=tuple(schema.get("input_shape", ())),
        classes=tuple(classes) if classes else None,
        features=tuple(map(str, schema.get("features", ()))),
    )
    return api.JoinRequest(job=job.job, versions=job.versions, task=job.task, data=data)


def reply_to(kind: str, params: torch.Tensor, train: int, value: float) -> Reply:
    """A reply that no training was needed for."""
    if kind != "train":
        return Scores({"loss": 1.0, "accuracy": 0.5}, train)
    update = Update({"delta": torch.full_like(params, value)}, torch.tensor(float(train), dtype=params.dtype))
    return UpdateReply(update, {"examples": float(train), "steps": 1.0, "train_loss": 1.0})


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("url")
    parser.add_argument("--agents", type=int, default=10)
    parser.add_argument("--train", type=int, default=10)
    options = parser.parse_args()
    agents = SimulatedAgents(options.url, [f"agent-{number:05d}" for number in range(options.agents)], options.train)
    print(asyncio.run(agents.run()).text(), flush=True)


if __name__ == "__main__":
    main()

"""The way of requests to clients and of their replies back, as the thread of the run sees it."""

from __future__ import annotations

import queue
import signal
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, Protocol

from headway.core import stopping
from headway.core.update import Tensors
from headway.federation import http_api as api
from headway.federation.serving.assignments import Assignments, Event, ReplyArrived
from headway.federation.serving.members import Members, Outcome
from headway.protocol.by_client import joined_by_client
from headway.protocol.messages import Ask, Evaluate, Exchange, Measure, Message, Request, Train
from headway.protocol.wire_messages import Binding, encode_request, write_request

TURN_S = 0.2  # between two looks at the clock and at signals
Kind = Literal["train", "evaluate", "measure", "exchange", "settle"]
KINDS: Mapping[type[Request], Kind] = {
    Train: "train",
    Evaluate: "evaluate",
    Measure: "measure",
    Exchange: "exchange",
}
OUTCOMES: Mapping[str, Outcome] = {"late": "late", "stale": "late", "refused": "refused"}


class Files(Protocol):
    """The files of messages and replies, by the digests of their contents: see `federation.spool`."""

    def put(self, data: bytes) -> str:
        """Keeps these bytes; their digest."""
        ...

    def staged(self) -> AbstractContextManager[Path]:
        """A place for a file that is to be put."""
        ...

    def put_file(self, path: Path, *, move: bool = False, digest: str | None = None) -> str:
        """Keeps a file; its digest.  move: the file itself is taken."""
        ...

    def path(self, digest: str) -> Path:
        """The file of these contents."""
        ...


class RunClock:
    """The seconds since a run began, without the time in which the server was down.

    start: the seconds that had passed when the clock was made.
    """

    def __init__(self, start: float = 0.0) -> None:
        self._start, self._made = start, time.monotonic()

    def now(self) -> float:
        """The seconds since the run began."""
        return self._start + time.monotonic() - self._made

    def set(self, now: float) -> None:
        """Goes on from this time, if it is later than the clock's."""
        if now > self.now():
            self._start, self._made = now, time.monotonic()


@dataclass(frozen=True, slots=True)
class SentMessage:
    """The frame of a request that went out to a cohort: its digest and size, and what replies are bound to."""

    digest: str
    size: int
    round: int
    attempt: int
    ask: int

    @property
    def binding(self) -> Binding:
        """The exchange that a reply to it belongs to."""
        return Binding(self.round, self.attempt, self.ask)


class RequestChannel:
    """Sends requests to clients, and receives what happens there.

    sign: makes the server's signed receipt of one.
    """

    def __init__(
        self,
        members: Members,
        assignments: Assignments,
        files: Files,
        sign: Callable[[api.Receipt], api.Receipt] = lambda receipt: receipt,
    ) -> None:
        self.members, self.assignments, self.files, self.sign = members, assignments, files, sign
        self.clock = RunClock()
        self._interrupted = False

    def interrupt(self) -> None:
        """Has the thread of the run stop at its next wait, as a signal would."""
        self._interrupted = True

    def encode(self, ask: Ask) -> SentMessage:
        """The frame of a request, encoded once for the whole cohort, without what is for single clients."""
        request = replace(ask.request, private={})
        if isinstance(request, Train):
            request = replace(request, steps=None)
        with self.files.staged() as path:
            with path.open("wb") as file:
                written = write_request(file, request, ask.number)
            self.files.put_file(path, move=True, digest=written.digest)
        return SentMessage(written.digest, written.size, ask.round, ask.attempt, ask.number)

    def by_node(self, clients: Iterable[str]) -> dict[str, list[str]]:
        """Clients by the node through which they are reached: a relay, or each by itself."""
        nodes: dict[str, list[str]] = {}
        for client in clients:
            nodes.setdefault(self.members.node_of(client), []).append(client)
        return nodes

    def send(self, client: str, name: str, ask: Ask, sent: SentMessage, limit: int, behind: Sequence[str] = ()) -> None:
        """Gives a client a request; name: of the assignment.  limit: the largest number of bytes of the reply.

        behind: the clients that are asked through a relay.
        """
        own = joined_by_client(ask.of(behind).private, behind) if behind else ask.private.get(client, {})
        private, size = self._private(own, sent)
        assignment = api.Assignment(
            assignment=name,
            job=self.assignments.job,
            kind=KINDS[type(ask.request)],
            round=sent.round,
            attempt=sent.attempt,
            ask=sent.ask,
            message=sent.digest,
            size=sent.size,
            private=private,
            private_size=size,
            steps=ask.steps.get(client),
            limit=limit,
            clients=tuple(behind),
        )
        self.assignments.open(client, assignment)

    def event(self, seconds: float = TURN_S) -> Event | None:
        """The next event, for which it waits so long at most, and not longer than signals may wait."""
        stopping.check()
        if self._interrupted:
            raise stopping.Stopped(signal.SIGTERM)
        self.assignments.listen()
        try:
            return self.assignments.events.get(timeout=max(0.0, min(seconds, TURN_S)))
        except queue.Empty:
            return None

    def decide(
        self,
        arrived: ReplyArrived,
        verdict: Literal["accepted", "late", "stale", "refused", "answered"],
        reason: str = "",
    ) -> bool:
        """Gives a client the receipt of its reply; whether the client is set aside by it."""
        assignment = arrived.assignment
        receipt = api.Receipt(
            job=assignment.job,
            client=arrived.client,
            round=assignment.round,
            attempt=assignment.attempt,
            assignment=assignment.assignment,
            digest=arrived.digest,
            size=arrived.size,
            verdict=verdict,
            reason=reason[:2000],
            at=self.clock.now(),
        )
        aside = verdict in OUTCOMES and self.members.count(arrived.client, OUTCOMES[verdict], reason)
        self.assignments.answer(arrived, self.sign(receipt))
        return aside

    def _private(self, tensors: Tensors, sent: SentMessage) -> tuple[str | None, int]:
        """The frame of a client's own tensors, if there are some: its digest and size."""
        if not tensors:
            return None, 0
        empty = Exchange(Message(next(iter(tensors.values())).new_empty(0)), sent.round, sent.attempt, private=tensors)
        data = encode_request(empty, sent.ask)
        return self.files.put(data), len(data)

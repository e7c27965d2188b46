"""The open requests to clients, between the thread of the run, which makes them, and that of the HTTP server."""

from __future__ import annotations

import asyncio
import queue
import threading
from collections import deque
from collections.abc import Callable, Collection, Iterable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from headway.federation.http_api import Assignment, Receipt, RoundVerdict
from headway.federation.serving.refusals import Refused

State = Literal["waiting", "running", "finished", "failed", "stopped", "paused"]
SENT = 8  # messages that a client was sent last, which it may fetch
KEPT = 10_000  # receipts of answered assignments that are remembered in memory
ENDED = ("finished", "failed", "stopped")  # states in which a job's run takes no replies


@dataclass(frozen=True, slots=True)
class ReplyArrived:
    """A reply that lies on disk, whole.

    path: of its bytes.  verdict: is given the receipt, once the run has decided about the reply.
    """

    client: str
    assignment: Assignment
    path: Path
    digest: str
    size: int
    message: str
    verdict: Future[Receipt] = field(default_factory=Future)

    @property
    def key(self) -> tuple[str, str]:
        """The client and the request: the requests of an exchange have one name for all clients."""
        return self.client, self.assignment.assignment


@dataclass(frozen=True, slots=True)
class MembersChanged:
    """A client has joined, left, returned or declined."""


Event = ReplyArrived | MembersChanged


class Assignments:
    """The requests that clients have not answered yet, at most one for each, and the verdicts that they await.

    events: what happens at clients, for the thread of the run.  job, state, reason: of the job, as clients are shown
    it.
    """

    def __init__(self) -> None:
        self.events: queue.SimpleQueue[Event] = queue.SimpleQueue()
        self.job, self.reason = "", ""
        self.state: State = "waiting"
        self._open: dict[str, Assignment] = {}
        self._verdicts: dict[str, dict[tuple[int, int, str], RoundVerdict]] = {}  # by node
        self._undelivered: set[str] = set()  # clients with verdicts that they have not received once
        self._shown: dict[str, State] = {}  # the state that each client was shown last
        self._receipts: dict[tuple[str, str], Receipt] = {}  # by client and request
        self._deciding: dict[tuple[str, str], ReplyArrived] = {}
        self._messages: dict[str, deque[str]] = {}  # the digests of what each client was sent last
        self._waiting: dict[str, asyncio.Future[None]] = {}  # of the open calls for work, by client
        self._listening = False  # whether a run takes replies
        self._complete = False  # whether all requests are open whose replies it wants
        self._lock = threading.RLock()

    # the thread of the run ------------------------------------------------------------------------------

    def set_state(self, state: State, reason: str = "") -> None:
        """The state of the job, which all clients are shown at their next contact; replies that its run has not decided
        about at its end are let go of."""
        undecided: list[ReplyArrived] = []
        with self._lock:
            self.state, self.reason = state, reason
            if state in ENDED:
                self._open.clear()
                undecided, self._deciding = list(self._deciding.values()), {}
        for arrived in undecided:
            _let_go(arrived, state)
        self._wake(list(self._waiting))

    def undecided(self) -> set[str]:
        """The digests of the replies that the run has not decided about."""
        with self._lock:
            return {arrived.digest for arrived in self._deciding.values()}

    def open(self, client: str, assignment: Assignment) -> None:
        """Gives a client a request, in the place of an earlier one; its reply may come before the run waits for it."""
        with self._lock:
            self._listening = True
            self._open[client] = assignment
            sent = self._messages.setdefault(client, deque(maxlen=SENT))
            sent.extend(digest for digest in (assignment.message, assignment.private) if digest and digest not in sent)
        self._wake([client])

    def withdraw(self, clients: Iterable[str]) -> None:
        """Takes back the requests to some clients, whose replies are no longer wanted."""
        clients = list(clients)
        with self._lock:
            for client in clients:
                self._open.pop(client, None)
        self._wake(clients)

    def withdraw_named(self, names: Collection[str]) -> None:
        """Takes back the requests of these names, from whichever clients have them."""
        with self._lock:
            held = [client for client, own in self._open.items() if own.assignment in names] if names else []
        self.withdraw(held)

    def add_verdicts(self, verdicts: Mapping[str, RoundVerdict], node_of: Callable[[str], str] = str) -> None:
        """Verdicts on rounds, which each client receives at its next contact, until it has carried them out.

        node_of: the node by which a client is reached.
        """
        nodes = {client: node_of(client) for client in verdicts}
        with self._lock:
            for client, verdict in verdicts.items():
                if (node := nodes[client]) != client:
                    verdict = verdict.model_copy(update={"client": client})
                self._verdicts.setdefault(node, {})[verdict.round, verdict.attempt, verdict.client] = verdict
                self._undelivered.add(node)
        self._wake(set(nodes.values()))

    def answer(self, arrived: ReplyArrived, receipt: Receipt) -> None:
        """The run's decision about a reply; a request that was answered is closed."""
        with self._lock:
            self._receipts[arrived.key] = receipt
            self._deciding.pop(arrived.key, None)
            while len(self._receipts) > KEPT:
                del self._receipts[next(iter(self._receipts))]
            if self._open.get(arrived.client) == arrived.assignment:
                del self._open[arrived.client]
        if not arrived.verdict.done():
            arrived.verdict.set_result(receipt)

    def listen(self) -> None:
        """A run takes replies from now on."""
        self._listening = True

    def begin(self) -> None:
        """All requests whose replies a run wants are open from now on: any other reply is late."""
        self._complete = True

    def end(self) -> None:
        """No run waits for replies any more; connections that wait are let go of, and their clients ask again later."""
        with self._lock:
            deciding, self._deciding = list(self._deciding.values()), {}
            self._listening = self._complete = False
        for arrived in deciding:
            _let_go(arrived, self.state)
        self._wake(list(self._waiting))

    # the thread of the HTTP server ----------------------------------------------------------------------

    def of(self, client: str) -> Assignment | None:
        """The request that a client has not answered."""
        with self._lock:
            return self._open.get(client)

    def open_clients(self) -> frozenset[str]:
        """The nodes with a request that they have not answered, and the clients behind those that are relays."""
        with self._lock:
            behind = (client for assignment in self._open.values() for client in assignment.clients)
            return frozenset([*self._open, *behind])

    def was_sent(self, client: str, digest: str) -> bool:
        """Whether a message is one of a client's last: it may fetch these, and nothing that others sent."""
        with self._lock:
            return digest in self._messages.get(client, ())

    def find(self, client: str, name: str) -> Assignment | None:
        """The open request of this name, if it is the client's."""
        with self._lock:
            found = self._open.get(client)
            return found if found is not None and found.assignment == name else None

    def arrived(self, arrived: ReplyArrived) -> Future[Receipt]:
        """Hands a reply to the run; the same for one that was handed over before."""
        with self._lock:
            if (known := self._deciding.get(arrived.key)) is not None and known.digest == arrived.digest:
                return known.verdict
            receipt = self._receipts.get(arrived.key)  # decided about while this call was on its way to here
            if receipt is not None and receipt.digest == arrived.digest:
                arrived.verdict.set_result(receipt)
                return arrived.verdict
            if not self._listening or self.state in ENDED:
                _let_go(arrived, self.state)
                return arrived.verdict
            self._deciding[arrived.key] = arrived
        self.events.put(arrived)
        return arrived.verdict

    def is_unwanted(self) -> bool:
        """Whether a reply to a request that is not open is late, rather than one that a run may still want."""
        with self._lock:
            return self._complete or self.state in ("finished", "failed")

    def receipt(self, client: str, name: str) -> Receipt | None:
        """The receipt of a reply that has been decided about."""
        with self._lock:
            return self._receipts.get((client, name))

    def shown(self, client: str) -> State | None:
        """The state of the job that a client was shown last."""
        with self._lock:
            return self._shown.get(client)

    def show_state(self, client: str) -> tuple[State, str]:
        """The state of the job and its reason, which the client is shown now."""
        with self._lock:
            self._shown[client] = self.state
            return self.state, self.reason

    def all_shown(self, clients: Iterable[str]) -> bool:
        """Whether all of these clients were shown the present state."""
        with self._lock:
            return all(self._shown.get(client) == self.state for client in clients)

    def verdicts(self, client: str) -> tuple[RoundVerdict, ...]:
        """The verdicts that a client has not carried out yet."""
        with self._lock:
            self._undelivered.discard(client)
            return tuple(self._verdicts.get(client, {}).values())

    def settled(self, client: str, rounds: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
        """Forgets verdicts that a client has carried out; those that were known."""
        with self._lock:
            own, found = self._verdicts.get(client, {}), []
            for tag in rounds:
                carried_out = [each for each in own if each[:2] == tag]
                found += [tag] * bool(carried_out)
                for each in carried_out:
                    del own[each]
            return found

    async def news(self, client: str, working: Collection[str], seconds: float) -> None:
        """Waits until there is something new for a client, for so long at most.

        working: the requests that it has in hand.
        """
        loop = asyncio.get_running_loop()
        with self._lock:
            held = self._open.get(client)
            if (
                client in self._undelivered
                or self.state in ENDED  # who asks still has not received that
                or self._shown.get(client, self.state) != self.state
                or (held is not None and held.assignment not in working)
            ):
                return
            before = self._waiting.get(client)
            self._waiting[client] = woken = loop.create_future()  # a small object, since thousands wait
        if before is not None:
            _end_wait(before)  # of a connection that is gone
        timer = loop.call_later(seconds, _end_wait, woken)
        try:
            await woken
        finally:
            timer.cancel()
            with self._lock:
                if self._waiting.get(client) is woken:
                    del self._waiting[client]

    def _wake(self, clients: Iterable[str]) -> None:
        with self._lock:
            woken = [self._waiting[client] for client in clients if client in self._waiting]
        for waiting in woken:
            if not (loop := waiting.get_loop()).is_closed():
                loop.call_soon_threadsafe(_end_wait, waiting)


def _end_wait(waiting: asyncio.Future[None]) -> None:
    """Ends an open call's wait, in the thread of its loop."""
    if not waiting.done():
        waiting.set_result(None)


def _let_go(arrived: ReplyArrived, state: State) -> None:
    """Answers a reply that no run decides about: once the run has finished it is late, before that the client hands it
    over again later."""
    if arrived.verdict.done():
        return
    if state == "finished":
        arrived.verdict.set_exception(Refused("late", "the run was over before the reply arrived."))
    else:
        arrived.verdict.set_exception(Refused("busy", "no run is waiting for replies at present: ask again later."))

"""The pool: which clients answered in time and which are late or lost, decided from events and times, without a clock.

A simulator feeds it a virtual clock and a server the real one, so that a deadline, an over-selection or a buffer that
was tuned in the one behaves the same in the other.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import astuple, dataclass, replace
from itertools import takewhile
from typing import Any, Literal

from headway.protocol.quorum import Quorum

Verdict = Literal["accepted", "late", "stale"]


@dataclass(frozen=True, slots=True)
class Ticket:
    """One ask to one client: its number among all asks, the round whose model went out, when, and the attempt."""

    number: int
    client: str
    round: int
    asked: float
    attempt: int = 0


@dataclass(frozen=True, slots=True)
class Arrival:
    """An update that counts: the ask it answers, when it came, and how many rounds the model has moved on since."""

    ticket: Ticket
    at: float
    age: int = 0


@dataclass(frozen=True, slots=True)
class LostClient:
    """An ask that came to nothing, when that was known, and why."""

    ticket: Ticket
    at: float
    reason: str


@dataclass(frozen=True, slots=True)
class Closed:
    """The end of a round: clients that count, in order of arrival, and asks without an answer since the last round."""

    round: int
    at: float
    counted: tuple[Arrival, ...]
    losses: tuple[LostClient, ...]


class RoundPool:
    """Asks, arrivals and losses of one server, round after round.

    `open` begins a round and returns the asks to send.  Arrivals and failures follow in the order of their times, those
    of one time by client, and `pass_time` when `due` has come.  Once `done`, `close` returns the clients that count.

    A client has at most one ask in flight, and is not asked while an update of its waits to count, so that no round
    counts two updates of one client.  Under `late="drop"` closing a round cancels what is still in flight, and an
    answer to that is late.  Under `late="keep"` it stays in flight, and counts in the round in which it comes, with its
    age, or in the next if that has enough; what is older than `max_age` is stale.  Every update counts at most once: an
    answer is known by its ticket, and a second one to the same ticket is late.

    Raises:
        AssertionError: time runs backwards, or a client is asked twice: a mistake of the caller.
    """

    def __init__(self, quorum: Quorum) -> None:
        self.quorum = quorum
        self.round = -1
        self.now = float("-inf")
        self.served: Counter[str] = Counter()  # updates that have counted, by client
        self._flying: dict[str, Ticket] = {}
        self._accepted: list[Arrival] = []
        self._losses: list[LostClient] = []
        self._reserve: list[str] = []
        self._wanted = 0
        self.deadline = math.inf  # of this round
        self._number = 0

    @property
    def busy(self) -> frozenset[str]:
        """The clients that have an ask in flight."""
        return frozenset(self._flying)

    @property
    def held(self) -> frozenset[str]:
        """The clients that have an ask in flight, or an update that waits to count."""
        return self.busy | {arrival.ticket.client for arrival in self._accepted}

    @property
    def asked(self) -> int:
        """The number of asks that have ever been made."""
        return self._number

    def renumber(self, number: int) -> None:
        """Numbers asks from here on, if this number was not reached."""
        self._number = max(self._number, number)

    def ticket_of(self, client: str) -> Ticket | None:
        """The ask that a client has in flight."""
        return self._flying.get(client)

    def may_ask(self, client: str) -> bool:
        """Whether a client is free, and has not been served as often as the cap allows."""
        if client in self._flying or any(arrival.ticket.client == client for arrival in self._accepted):
            return False
        return self.quorum.cap is None or self.served[client] < self.quorum.cap

    def open(self, round: int, cohort: Sequence[str], now: float, reserve: Iterable[str] = ()) -> tuple[Ticket, ...]:
        """Begins a round: the asks to send.

        reserve: the clients that are asked, in this order, instead of one that fails, if the quorum replaces.
        """
        self._pass(now)
        assert not (twice := self.held & set(cohort)), f"{', '.join(sorted(twice))} is asked twice"
        self.round, self._reserve = round, list(reserve)
        waiting, self._accepted = self._accepted, []
        for arrival in waiting:
            self._accept(arrival.ticket, arrival.at)
        tickets = tuple(self._ask(client) for client in cohort)
        most = len(self._flying) + len(self._accepted)
        self._wanted = most if self.quorum.count is None else min(self.quorum.count, most)
        self.deadline = math.inf if self.quorum.deadline_s is None else now + self.quorum.deadline_s
        return tickets

    def arrived(self, ticket: Ticket, now: float) -> Verdict:
        """The verdict on an update that has come: whether it may count; `close` decides."""
        self._pass(now)
        if self._flying.get(ticket.client) != ticket:
            return "late"
        if self.quorum.late == "drop" and (self._enough or now > self.deadline):
            return "late"  # it is still in flight, and is lost when the round is closed
        del self._flying[ticket.client]
        return self._accept(ticket, now)

    def failed(self, ticket: Ticket, now: float, reason: str) -> tuple[Ticket, ...]:
        """The asks to send after a client has failed: to itself again, or to another one."""
        self._pass(now)
        return self._lose(ticket, reason) if self._flying.get(ticket.client) == ticket else ()

    def pass_time(self, now: float) -> tuple[Ticket, ...]:
        """The asks to send after time has passed; a client that has not answered for too long is lost."""
        self._pass(now)
        lost = list(takewhile(lambda ticket: self._lost_at(ticket) <= now, self._flying.values()))
        reason = f"it has not answered for {self.quorum.lost_after_s:g} s"
        return tuple(fresh for ticket in sorted(lost, key=_name) for fresh in self._lose(ticket, reason))

    def due(self) -> float:
        """The latest time for a call of `pass_time`, if nothing happens before; infinite if none is needed."""
        oldest = next(iter(self._flying.values()), None)  # asks are held in the order in which they were made
        return self.deadline if oldest is None else min(self.deadline, self._lost_at(oldest))

    @property
    def done(self) -> bool:
        """Whether the round is over: enough have answered, the deadline has passed, or no client is left."""
        return self._enough or self.now >= self.deadline or not self._flying

    def close(self) -> Closed:
        """Ends the round.  Updates beyond the count wait for the next, if late ones are kept."""
        assert self.done
        counting, self._accepted = self._accepted[: self._wanted], self._accepted[self._wanted :]
        self._wanted = 0  # until the next round begins no client is asked
        counted = tuple(replace(a, age=self.round - a.ticket.round) for a in counting)
        self.served.update(arrival.ticket.client for arrival in counted)
        if self.quorum.late == "drop":
            for ticket in sorted(self._flying.values(), key=_name):
                self._losses.append(LostClient(ticket, self.now, "the round was over before it answered"))
            self._flying.clear()
        losses, self._losses = tuple(self._losses), []
        return Closed(self.round, self.now, counted, losses)

    @property
    def flying(self) -> tuple[Ticket, ...]:
        """The asks in flight."""
        return tuple(self._flying.values())

    @property
    def accepted(self) -> tuple[Ticket, ...]:
        """The asks whose updates may count when the round is closed."""
        return tuple(arrival.ticket for arrival in self._accepted)

    @property
    def open_rounds(self) -> set[int]:
        """The rounds whose asks may still be answered, or have been by updates that wait to count."""
        return {t.round for t in self._flying.values()} | {a.ticket.round for a in self._accepted}

    @property
    def open_asks(self) -> set[int]:
        """The numbers of these asks."""
        return {t.number for t in self._flying.values()} | {a.ticket.number for a in self._accepted}

    def to_state(self) -> dict[str, Any]:
        """The state after a round in plain values; `from_state` restores it."""
        return {
            "now": self.now,
            "number": self._number,
            "served": dict(self.served),
            "flying": [astuple(ticket) for ticket in self.flying],
            "accepted": [[astuple(arrival.ticket), arrival.at] for arrival in self._accepted],
        }

    def from_state(self, state: Mapping[str, Any]) -> None:
        """Restores the state of another pool after a round."""
        self.now, self._number = state["now"], state["number"]
        self.served = Counter(state["served"])
        self._flying = {ticket.client: ticket for ticket in (Ticket(*each) for each in state["flying"])}
        self._accepted = [Arrival(Ticket(*each), at) for each, at in state["accepted"]]

    @property
    def _enough(self) -> bool:
        return len(self._accepted) >= self._wanted

    def _accept(self, ticket: Ticket, at: float) -> Verdict:
        age, most = self.round - ticket.round, self.quorum.max_age
        if most is not None and age > most:
            self._losses.append(LostClient(ticket, at, f"its model was {age} rounds old, and at most {most} may be"))
            return "stale"
        self._accepted.append(Arrival(ticket, at))
        return "accepted"

    def _ask(self, client: str, attempt: int = 0) -> Ticket:
        assert client not in self._flying, f"{client} is asked twice"
        ticket = Ticket(self._number, client, self.round, self.now, attempt)
        self._number += 1
        self._flying[client] = ticket
        return ticket

    def _lose(self, ticket: Ticket, reason: str) -> tuple[Ticket, ...]:
        """Counts an ask as lost; the asks to send to that client again, or to another, while the round needs them."""
        del self._flying[ticket.client]
        self._losses.append(LostClient(ticket, self.now, reason))
        if self._enough or self.now >= self.deadline:
            return ()
        if ticket.round == self.round and ticket.attempt < self.quorum.retries:
            return (self._ask(ticket.client, ticket.attempt + 1),)
        while self.quorum.replace and self._reserve:
            if self.may_ask(client := self._reserve.pop(0)):
                return (self._ask(client),)
        return ()

    def _lost_at(self, ticket: Ticket) -> float:
        return ticket.asked + self.quorum.lost_after_s

    def _pass(self, now: float) -> None:
        assert now >= self.now, f"time runs backwards, from {self.now} to {now}"
        self.now = now


def _name(ticket: Ticket) -> str:
    return ticket.client

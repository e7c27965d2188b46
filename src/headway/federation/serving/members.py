"""The members of a federation: the clients that have joined, what each does, and what became of its replies."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from headway.federation.http_api import DataFacts, JoinRequest

Outcome = Literal["counted", "late", "refused", "lost"]
LEASE_S = 90.0  # without any contact for so long, a client counts as gone
SET_ASIDE_AFTER = 3  # refused updates one after another, after which a client is asked no more

SHOWN = (
    "name",
    "activity",
    "done",
    "reason",
    "declined",
    "left",
    "set_aside",
    "bytes_up",
    "bytes_down",
    "via",
    "relays",
)  # in the status


@dataclass(slots=True)
class Member:
    """A client that has joined.

    contact: when it was last in contact, by the monotonic clock.  activity, done: its own account of its work.
    outcomes: how many of its replies counted, were late, refused or lost; in_a_row: refusals since the last that
    counted.  reason: of the last that did not count.  declined: why it does not take part in the job.  via: the relay
    behind which it is; relays: whether it is one itself, and no client.
    """

    name: str
    facts: JoinRequest
    joined: float
    contact: float
    activity: str = ""
    done: float | None = None
    outcomes: dict[Outcome, int] = field(
        default_factory=lambda: dict.fromkeys(("counted", "late", "refused", "lost"), 0)
    )
    in_a_row: int = 0
    reason: str = ""
    declined: str = ""
    left: bool = False
    set_aside: bool = False
    via: str = ""
    relays: bool = False
    bytes_up: int = 0
    bytes_down: int = 0

    @property
    def data(self) -> DataFacts:
        """The facts of its data."""
        return self.facts.data


class Members:
    """The clients of a server, shared by its HTTP thread and the thread of the run.

    lease_s: the seconds without contact after which a client counts as gone.  on_change: called, without the lock,
    when a client joins, leaves or returns.
    """

    def __init__(
        self,
        lease_s: float = LEASE_S,
        set_aside_after: int = SET_ASIDE_AFTER,
        on_change: Callable[[], None] = lambda: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.lease_s, self.set_aside_after, self.on_change, self.clock = lease_s, set_aside_after, on_change, clock
        self.on_late: Callable[[str, str], None] = lambda name, reason: None  # given each late reply, and why
        self.on_disk_trouble: Callable[[str], None] = lambda reason: None  # given why the disk takes no reply
        self.refused_calls: Counter[int] = Counter()  # that were not admitted, by the status of the answer
        self._members: dict[str, Member] = {}
        self._declined: dict[str, str] = {}  # by clients that never joined
        self._certificates: dict[str, str] = {}  # at a relay, of all clients of its server
        self._last: JoinRequest | None = None  # whose versions and task those that join with the same ones share
        self._started = clock()
        self._lock = threading.RLock()

    def join(self, name: str, facts: JoinRequest) -> Member:
        """Adds a client, or renews the facts of one that joins again; a relay with the clients behind it."""
        with self._lock:
            before = len(self._members)
            known = self._join(name, facts, "")
            behind = {each.client: each for each in facts.members}
            for client, each in behind.items():
                own = {"data": each.data, "members": (), "certificate": each.certificate}
                self._join(client, facts.model_copy(update=own), name)
            for member in self._members.values() if known.relays else ():  # those that it had, and has no longer
                if member.via == name and member.name not in behind:
                    member.left = True
            known.relays = bool(behind)
            if len(self._members) > before:
                self._members = dict(sorted(self._members.items()))
        self.on_change()
        return known

    def _join(self, name: str, facts: JoinRequest, via: str) -> Member:
        now, last = self.clock(), self._last
        if last is not None and (last.versions, last.task) == (facts.versions, facts.task):
            facts = facts.model_copy(update={"versions": last.versions, "task": last.task})
        self._last = facts
        self._declined.pop(name, None)
        if (known := self._members.get(name)) is None:
            known = self._members[name] = Member(name, facts, now, now)
        known.facts, known.contact, known.left, known.declined, known.via = facts, now, False, "", via
        return known

    def node_of(self, name: str) -> str:
        """The node by which a client is reached: a relay, or the client itself."""
        with self._lock:
            member = self._members.get(name)
            return name if member is None or not member.via else member.via

    def relays(self, name: str) -> bool:
        """Whether a node is a relay."""
        with self._lock:
            member = self._members.get(name)
            return member is not None and member.relays

    def elsewhere(self, name: str, via: str) -> str | None:
        """By which other node a client is connected at present, as a phrase; `None` if it is not.

        via: the relay by which it would join; empty for the client itself.
        """
        with self._lock:
            member = self._members.get(name)
            if member is None or member.via == via or not self._present(member):
                return None
            return f"by the relay {member.via!r}" if member.via else "by itself"

    def contact(self, name: str, activity: str | None = None, done: float | None = None) -> Member | None:
        """Notes a contact; `None` for a client that has not joined."""
        with self._lock:
            member = self._members.get(name)
            if member is None or member.left:
                return None
            gone = self.clock() - member.contact > self.lease_s
            member.contact = self.clock()
            if activity is not None:
                member.activity, member.done = activity, done
        if gone:
            self.on_change()
        return member

    def decline(self, name: str, reason: str) -> None:
        """Notes why a client does not take part."""
        with self._lock:
            if (member := self._members.get(name)) is None:
                self._declined[name] = reason
            else:
                member.declined = reason
        self.on_change()

    def leave(self, name: str) -> None:
        """A client leaves; it may join again."""
        with self._lock:
            if (member := self._members.get(name)) is not None:
                member.left, member.activity = True, ""
        self.on_change()

    def count(self, name: str, outcome: Outcome, reason: str = "") -> bool:
        """Counts the outcome of a reply; whether the client is set aside by it."""
        with self._lock:
            if (member := self._members.get(name)) is None:
                return False
            member.outcomes[outcome] += 1
            if outcome == "counted":
                member.in_a_row = 0
                return False
            member.reason = reason
            member.in_a_row += outcome == "refused"
            aside = outcome == "refused" and member.in_a_row >= self.set_aside_after and not member.set_aside
            member.set_aside = member.set_aside or aside
        if outcome == "late":
            self.on_late(name, reason)
        return aside

    def refuse_call(self, status: int) -> None:
        """Counts a call of nobody who may call, or that came too often."""
        with self._lock:
            self.refused_calls[status] += 1

    def add_bytes(self, name: str, up: int = 0, down: int = 0) -> None:
        """Counts bytes of a client."""
        with self._lock:
            if (member := self._members.get(name)) is not None:
                member.bytes_up += up
                member.bytes_down += down
                member.contact = self.clock()

    def get(self, name: str) -> Member | None:
        """A client that has joined."""
        with self._lock:
            return self._members.get(name)

    def silent(self, names: Collection[str]) -> dict[str, str]:
        """Those of some clients that are gone, and why."""
        with self._lock:
            found = {}
            for name in names:
                member = self._members.get(name)
                if member is None:
                    if self.clock() - self._started > self.lease_s:
                        found[name] = "it has not joined since the server was started"
                elif member.left:
                    found[name] = "it has left"
                elif not self._present(member):
                    found[name] = f"it has not been in contact for {self.lease_s:g} s"
            return found

    def available(self) -> tuple[str, ...]:
        """The clients that may be asked, sorted: in contact, taking part, and not set aside."""
        with self._lock:
            return tuple(
                name
                for name, member in self._members.items()
                if self._present(member) and not (member.declined or member.set_aside or member.relays)
            )

    def names(self) -> tuple[str, ...]:
        """All clients that have ever joined, sorted."""
        with self._lock:
            return tuple(self._members)

    def snapshot(self) -> list[dict[str, Any]]:
        """All clients in plain values, for the status."""
        now = self.clock()
        with self._lock:
            rows = []
            for member in self._members.values():
                row = {name: getattr(member, name) for name in SHOWN}
                sizes = (0, 0) if member.data.hidden else (member.data.train, member.data.test)
                row |= {"outcomes": dict(member.outcomes), "train": sizes[0], "test": sizes[1]}
                rows.append({**row, "present": self._present(member), "silent_s": now - member.contact})
            return rows + [{"name": name, "present": False, "declined": why} for name, why in self._declined.items()]

    def declined(self) -> dict[str, str]:
        """The clients that take no part, and why."""
        with self._lock:
            joined = {name: member.declined for name, member in self._members.items() if member.declined}
            return joined | self._declined

    def certificates(self, after: str, most: int) -> tuple[dict[str, str], bool]:
        """The certificates of clients whose names come after one, at most so many; and whether there are more."""
        with self._lock:
            own = {name: member.facts.certificate for name, member in self._members.items() if member.facts.certificate}
            held = self._certificates | own
            names = sorted(name for name in held if name > after)
            return {name: held[name] for name in names[:most]}, len(names) > most

    def add_certificates(self, certificates: Mapping[str, str]) -> None:
        """Adds certificates of clients that have joined elsewhere, by name."""
        with self._lock:
            self._certificates |= certificates

    def facts(self) -> Mapping[str, DataFacts]:
        """The facts of the data of each client."""
        with self._lock:
            return {name: member.data for name, member in self._members.items() if not member.relays}

    def _present(self, member: Member) -> bool:
        if member.via and not member.left:
            relay = self._members.get(member.via)
            return relay is not None and self._present(relay)
        return not member.left and self.clock() - member.contact <= self.lease_s

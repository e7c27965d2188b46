"""The sum of a round whose updates lie on disk: a group of the cohort is summed once all its clients are decided.

Groups are a pure function of the sorted cohort, so the bits do not depend on the order of arrival; the exact sum is
paid once for each group.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from headway.core.errors import FrameError
from headway.observe.drift import DriftMeter
from headway.protocol.messages import Answer, Ask, SumReply, UpdateReply
from headway.protocol.reports import Reports
from headway.server.collector import GroupResult, UpdateCollector, answered
from headway.server.group_summer import GroupSummer, StoredUpdate


class GroupedSum:
    """The sum over one round, fed with its clients in any order; used from one thread.

    Memory: the sums of the groups, the exact total, and one update at a time; see `SumMemory`.

    collector: decodes, lifts and sums updates.  ask: the round's; groups: its cohort in groups, each summed in float64
    in the given order (`engines.grouping.groups_of`); a client that is in none, such as one that was asked instead of
    another, is summed at the end.  meter: of the drift, where it is measured.  summer: what sums the groups, where some
    were summed before.
    """

    def __init__(
        self,
        collector: UpdateCollector,
        ask: Ask,
        groups: Iterable[Sequence[str]],
        meter: DriftMeter | None = None,
        summer: GroupSummer | None = None,
    ) -> None:
        self.collector, self.ask = collector, ask
        self.summer = summer or GroupSummer(collector, ask, meter=meter)
        self.parts = list[Reports]()
        self._groups = [tuple(group) for group in groups]
        self._place = {client: place for place, group in enumerate(self._groups) for client in group}
        self._undecided = [set(group) for group in self._groups]
        self._stored: dict[str, StoredUpdate] = {}

    @property
    def undecided(self) -> frozenset[str]:
        """The clients that are neither accepted nor dropped."""
        return frozenset().union(*self._undecided)

    def awaits(self, client: str) -> bool:
        """Whether a client is neither accepted nor dropped, nor in a group that was summed before."""
        return client not in self._place or client in self._undecided[self._place[client]]

    def check(self, client: str, reply: UpdateReply, examples: int | None = None) -> float:
        """The norm of an update's delta, after all checks of the guard, so that an accepted update is never refused
        as it is summed.

        Raises:
            UpdateRejected: if it is not what was promised.
        """
        return self.collector.check_received(self.ask, client, reply.update, examples)

    def accept(self, client: str, stored: StoredUpdate) -> None:
        """Takes a client's update, which is read when its group is summed; sums the group if no other is missing."""
        self._stored[client] = stored
        if client in self._place:
            self._decide(client)

    def accept_sum(self, reply: SumReply) -> None:
        """Takes the sum that a relay has made over several clients, once `Promise.check_sum` has passed; its reports
        are on those of them that are in it, and on the others.

        Raises:
            FrameError: if it holds a client that the round does not wait for.
        """
        if strangers := set(reply.reports.clients) - self.undecided:
            raise FrameError(f"a sum holds {min(strangers)!r}, which the round does not wait for.")
        self.summer.add_sum(reply.total)
        self.parts.append(reply.reports)
        for client in reply.reports.clients:
            self._decide(client)

    def take(self, group: Sequence[str], result: GroupResult) -> None:
        """Takes the sum of a whole group that was made before, by the same summer's rules."""
        for client in group:
            self._undecided[self._place[client]].discard(client)
        self.summer.add(result)
        self.parts += result.parts

    def drop(self, client: str, reports: Reports | None = None) -> None:
        """Goes on without a client; reports: the one on it, if there is to be one."""
        if reports is not None:
            self.parts.append(reports)
        self._decide(client)

    def answer(self) -> Answer:
        """The answer of the round; clients that are undecided still are dropped."""
        for client in sorted(self.undecided):
            self.drop(client)
        others, size = sorted(self._stored), max(map(len, self._groups), default=1)
        for start in range(0, len(others), size):
            self._sum(others[start : start + size])
        return answered(self.summer.total(), self.parts, self.summer.meter)

    def _decide(self, client: str) -> None:
        """Notes a decision about a client; sums its group, if it was the last."""
        place = self._place[client]
        assert client in self._undecided[place], f"{client!r} is decided twice"
        self._undecided[place].remove(client)
        if not self._undecided[place]:
            self._sum(self._groups[place])

    def _sum(self, group: Sequence[str]) -> None:
        """Adds the sum of a group."""
        stored = {client: self._stored.pop(client) for client in group if client in self._stored}
        if stored:
            result = self.summer.group(stored)
            self.summer.add(result)
            self.parts += result.parts

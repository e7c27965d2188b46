"""The sum of a round whose updates lie on disk: a group of the cohort is summed once all its clients are decided.

Groups are a pure function of the sorted cohort, so the bits do not depend on the order of arrival; the exact sum is
paid once for each group.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from headway.core.errors import FrameError, UpdateRejected
from headway.observe.drift import DriftMeter
from headway.protocol.messages import Answer, Ask, SumReply, UpdateReply
from headway.protocol.reports import Reports
from headway.protocol.sums import ExactTotal
from headway.server.collector import GroupResult, UpdateCollector, answered


@dataclass(frozen=True, slots=True)
class StoredUpdate:
    """An accepted update that lies on disk.

    read: the reply, read anew.  seconds, bytes_up, bytes_down: what it took.  norm: of its delta, if it is known from
    its check.
    """

    read: Callable[[], UpdateReply]
    seconds: float = 0.0
    bytes_up: int = 0
    bytes_down: int = 0
    norm: float | None = None


class GroupedSum:
    """The sum over one round, fed with its clients in any order; used from one thread.

    Memory: the sum of one group, the exact total, and one update at a time, whatever the number of clients.

    collector: decodes, lifts and sums updates.  ask: the round's; groups: its cohort in groups, each summed in float64
    in the given order (`engines.grouping.groups_of`); a client that is in none, such as one that was asked instead of
    another, is summed at the end.  meter: of the drift, where it is measured.
    """

    def __init__(
        self, collector: UpdateCollector, ask: Ask, groups: Iterable[Sequence[str]], meter: DriftMeter | None = None
    ) -> None:
        self.collector, self.ask, self.meter = collector, ask, meter
        self.total, self.parts = ExactTotal(), list[Reports]()
        self.rejected: dict[str, str] = {}  # reasons, of clients whose update was found to be wrong as it was summed
        self._groups = [tuple(group) for group in groups]
        self._place = {client: place for place, group in enumerate(self._groups) for client in group}
        self._undecided = [set(group) for group in self._groups]
        self._stored: dict[str, StoredUpdate] = {}

    @property
    def undecided(self) -> frozenset[str]:
        """The clients that are neither accepted nor dropped."""
        return frozenset().union(*self._undecided)

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
        self.total.merge(reply.total)
        self.parts.append(reply.reports)
        for client in reply.reports.clients:
            self._decide(client)

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
        return answered(self.total, self.parts, self.meter)

    def _decide(self, client: str) -> None:
        """Notes a decision about a client; sums its group, if it was the last."""
        place = self._place[client]
        assert client in self._undecided[place], f"{client!r} is decided twice"
        self._undecided[place].remove(client)
        if not self._undecided[place]:
            self._sum(self._groups[place])

    def _sum(self, group: Sequence[str]) -> None:
        """Adds the sum of a group."""
        result = GroupResult(meter=self.meter)
        for client in group:
            if (stored := self._stored.pop(client, None)) is not None:
                self.parts.append(self._count(client, stored, result))
        self.total.add_group(result.group)

    def _count(self, client: str, stored: StoredUpdate, result: GroupResult) -> Reports:
        """Adds a client's update to the result of its group; its report."""
        reply = stored.read()
        update, figures = reply.update, reply.figures
        costs = stored.seconds, stored.bytes_up, stored.bytes_down
        try:
            norm = stored.norm
            if norm is None:
                norm = self.collector.guard.check(update, client)
            self.collector.count_received(self.ask, client, update, result)
        except UpdateRejected as refusal:
            self.rejected[client] = refusal.reason
            return Reports([client], "rejected", 0, 0, None, *costs, reasons=refusal.reason)
        return self.collector.reports_of([client], costs, *numbers_of(figures, norm, float(update.weight)))


def numbers_of(figures: Mapping[str, float], norm: float, weight: float) -> tuple[int, int, float, float, float]:
    """The numbers of a report: examples, steps, norm, loss and weight."""
    examples, steps = int(figures.get("examples", 0)), int(figures.get("steps", 0))
    return examples, steps, norm, figures.get("train_loss", 0.0), weight

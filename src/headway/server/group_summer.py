"""The sum of a group of stored updates, and the total over groups: of whole vectors, or in blocks of columns.

Groups are a pure function of the sorted cohort.  Within a group the numbers of a column are added in float64 in the
order of the clients; over groups they are added exactly.  Both are done column by column, so that the bits do not
depend on how many columns are summed at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from headway.core.errors import UpdateRejected
from headway.core.update import Update
from headway.numerics.exact_sum import ExactSum
from headway.observe.drift import DriftMeter
from headway.protocol.messages import Ask, UpdateReply
from headway.protocol.reports import Reports
from headway.protocol.sums import ExactTotal, GroupSum
from headway.server.collector import GroupResult, UpdateCollector
from headway.server.sum_memory import SumMemory


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


class GroupSummer:
    """Sums groups of stored updates of one round, and the groups.

    collector: decodes, lifts and sums updates.  ask: the round's.  memory: of the sum; its vectors are kept until the
    end of the round.  meter: of the drift, where it is measured.
    """

    def __init__(
        self,
        collector: UpdateCollector,
        ask: Ask,
        memory: SumMemory | None = None,
        meter: DriftMeter | None = None,
    ) -> None:
        self.collector, self.ask, self.meter = collector, ask, meter
        self.memory = memory or SumMemory()
        self._total, self._kept = ExactTotal(), list[GroupSum]()
        self.columns = self.memory.columns(collector.guard.lengths)
        self.note: str | None = None  # why whole vectors are summed although they take more than the memory
        if self.columns is not None and (why := collector.needs_whole_vectors(ask)) is not None:
            self.note = (
                f"the sum takes more memory than federation.memory allows, since {why}: whole vectors are summed."
            )
            self.columns = None

    def group(self, updates: Mapping[str, StoredUpdate]) -> GroupResult:
        """The sum of a group in the order in which its updates are given, with a report on each."""
        result = GroupResult(meter=self.meter)
        if self.columns is not None:
            self._add_columns(self.columns, updates, result)
            return result
        for client, stored in updates.items():
            reply = stored.read()
            try:
                norm = self._checked(client, stored, reply)
                self.collector.count_received(self.ask, client, reply.update, result)
            except UpdateRejected as refusal:
                result.parts.append(_rejected(client, stored, refusal.reason))
            else:
                result.parts.append(self._report(client, stored, reply, norm))
        result.group.vectors = self.memory.kept(result.group.vectors)
        return result

    def add(self, result: GroupResult) -> None:
        """Adds the sum of a group to the total."""
        if self.columns is None:
            self._total.add_group(result.group)
        else:
            self._kept.append(result.group)

    def add_sum(self, total: ExactTotal) -> None:
        """Adds the sum of a relay to the total, which is then of whole vectors."""
        self._total.merge(total)

    def total(self) -> ExactTotal:
        """The total over all that was added."""
        groups, self._kept = self._kept, []
        if self.columns is None or self._total.vectors:
            for group in groups:
                self._total.add_group(group)
            return self._total
        for group in groups:
            self._total.merge(group.total)
        for name in sorted({name for group in groups for name in group.vectors}):
            terms = [group.vectors[name] for group in groups if name in group.vectors]
            self._total.rounded[name] = self._rounded(terms, self.columns)
        return self._total

    def _rounded(self, terms: Sequence[Tensor], columns: int) -> Tensor:
        """The exact sum of vectors, rounded to float64, a block of columns at a time."""
        value = self.memory.vector(len(terms[0]))
        for start in range(0, len(value), columns):
            here, exact = slice(start, start + columns), ExactSum()
            for term in terms:
                exact.add(term[here])
            value[here] = exact.value()
        return value

    def _add_columns(self, columns: int, updates: Mapping[str, StoredUpdate], result: GroupResult) -> None:
        """Adds updates to a group, a block of columns of all of them at a time."""
        counted: dict[str, Update] = {}
        for client, stored in updates.items():
            reply = stored.read()
            try:
                norm = self._checked(client, stored, reply)
            except UpdateRejected as refusal:
                result.parts.append(_rejected(client, stored, refusal.reason))
                continue
            counted[client] = reply.update
            result.parts.append(self._report(client, stored, reply, norm))
        group, first = result.group, True
        lengths = self.collector.guard.lengths if counted else {}
        group.vectors = {name: self.memory.vector(length) for name, length in lengths.items()}
        for start in range(0, max(lengths.values(), default=0), columns):
            here = slice(start, start + columns)
            for client, update in counted.items():
                term = self.collector.lifted_columns(self.ask, client, update, here)
                for name, part in term.vectors.items():
                    group.vectors[name][here] += part
                if first:
                    group.add_numbers(term)
            first = False

    def _checked(self, client: str, stored: StoredUpdate, reply: UpdateReply) -> float:
        """The norm of an update's delta, after its check, where that was not made before.

        Raises:
            UpdateRejected: if it is not what was promised.
        """
        return self.collector.guard.check(reply.update, client) if stored.norm is None else stored.norm

    def _report(self, client: str, stored: StoredUpdate, reply: UpdateReply, norm: float) -> Reports:
        costs = stored.seconds, stored.bytes_up, stored.bytes_down
        return self.collector.reports_of([client], costs, *numbers_of(reply.figures, norm, float(reply.update.weight)))


def _rejected(client: str, stored: StoredUpdate, reason: str) -> Reports:
    """The report on an update that was found to be wrong as it was summed."""
    costs = stored.seconds, stored.bytes_up, stored.bytes_down
    return Reports([client], "rejected", 0, 0, None, *costs, reasons=reason)


def numbers_of(figures: Mapping[str, float], norm: float, weight: float) -> tuple[int, int, float, float, float]:
    """The numbers of a report: examples, steps, norm, loss and weight."""
    examples, steps = int(figures.get("examples", 0)), int(figures.get("steps", 0))
    return examples, steps, norm, figures.get("train_loss", 0.0), weight

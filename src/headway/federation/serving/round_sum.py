"""The sum of the updates of a round, read from the spool a group at a time, as soon as a group is complete."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from headway.core import stopping
from headway.engines.grouping import GROUP, groups_of
from headway.federation.serving.request_channel import TURN_S
from headway.federation.serving.server_setup import ServerSetup
from headway.federation.serving.training_round import ReplyReader, RoundRecord
from headway.protocol.messages import Answer, Ask, SumReply
from headway.protocol.quorum import Quorum
from headway.protocol.round_pool import Ticket
from headway.protocol.wire_files import MAPPED
from headway.server.collector import GroupResult
from headway.server.group_summer import GroupSummer, StoredUpdate
from headway.server.grouped_sum import GroupedSum
from headway.server.step_memory import StepMemory
from headway.server.sum_memory import SumMemory
from headway.server.vector_files import VectorFiles

PIECE = 1 << 20  # bytes of a vector from which it stays in its file, where columns are summed


@dataclass(frozen=True)
class SumOptions:
    """How a round is summed.

    group: how many clients are summed in float64 before the exact sum is paid.  memory: bytes that the sum may take.
    folder: of the files of vectors beyond it.
    """

    group: int = GROUP
    memory: float = math.inf
    folder: Path | None = None


class RoundSum:
    """The sum of a round: groups are summed beside the round, in a thread, in whatever order they are complete.

    Groups are those of the clients that count, in the order of their names.  A group is summed early where no client
    before its end is lost; if one is lost later, the groups after it are others, and are summed when the round is
    closed.  Where a quorum takes the first updates only, or keeps late ones, all are summed at the close.
    """

    def __init__(self, setup: ServerSetup, reader: ReplyReader, options: SumOptions) -> None:
        self.setup, self.reader, self.options = setup, reader, options
        self._summer: GroupSummer | None = None  # of a round whose groups are summed early
        self._executor: ThreadPoolExecutor | None = None
        self._sums: dict[tuple[str, ...], Future[GroupResult]] = {}
        self._files = None if options.folder is None else VectorFiles(options.folder)
        if self._files is not None:
            self._files.clear()

    @property
    def step_memory(self) -> StepMemory | None:
        """The memory of the step after the sum, within the same limit; `None` where there is none."""
        return None if self._files is None else StepMemory(self.options.memory, self._files)

    def begin(self, ask: Ask, quorum: Quorum, record: RoundRecord, in_flight: Callable[[str], bool]) -> None:
        """A round begins; in_flight: whether a client of it is still waited for."""
        self.close()
        self._record, self._in_flight = record, in_flight
        self._accepted: dict[str, Ticket] = {}
        if quorum.late == "keep" or quorum.count is not None or quorum.replace:
            return
        self._summer = self._summer_of(ask, measure=True)
        self._cohort = sorted(ask.cohort)
        self._groups = [tuple(group) for group in groups_of(self._cohort, {}, group=self.options.group)]
        self._place = {client: place for place, group in enumerate(self._groups) for client in group}
        self._missing = [len(group) for group in self._groups]
        self._first_lost = len(self._groups)  # the group with the first client that is known to be lost
        self._decided, self._run = 0, list[str]()  # of the sorted cohort, and of its clients those not in a group yet

    def accepted(self, ticket: Ticket) -> None:
        """Takes an update that lies in the spool and counts."""
        self._accepted[ticket.client] = ticket
        if self._summer is None or (place := self._place.get(ticket.client)) is None:
            return
        self._missing[place] -= 1
        if not self._missing[place] and place < self._first_lost:
            self._submit(self._groups[place])
        self._walk()

    def lost(self, client: str) -> None:
        """A client has come to nothing."""
        if self._summer is not None and client in self._place and not self._in_flight(client):
            self._first_lost = min(self._first_lost, self._place[client])
            self._walk()

    def answer(self, ask: Ask, tickets: Mapping[str, Ticket], measure: bool) -> Answer:
        """The answer of the clients that count; ask: to them, each with its own message and round."""
        summer = self._summer or self._summer_of(ask, measure)
        if not measure:
            summer.meter = None
        groups = [tuple(group) for group in groups_of(ask.cohort, {}, group=self.options.group)]
        summed = GroupedSum(self.setup.collector, ask, groups, summer=summer)
        for group in groups:
            if group in self._sums and all(self._accepted.get(client) == tickets[client] for client in group):
                summed.take(group, self._wait(self._sums[group]))
        relayed: dict[str, list[str]] = {}
        for client in ask.cohort:
            if (ticket := tickets[client]).number in self._record.summed:
                relayed.setdefault(self._record.replies[ticket.number], []).append(client)
            elif summed.awaits(client):
                summed.accept(client, self._stored(ticket))
        for digest, clients in sorted(relayed.items()):
            reply = self.reader.sum(digest, self._record.messages[tickets[clients[0]].round].binding)
            assert isinstance(reply, SumReply)
            counted = reply.reports.with_status("counted")
            assert set(counted.clients) == set(clients), "a sum counts as a whole"
            summed.accept_sum(SumReply(reply.total, counted))
        answer = summed.answer()
        notes = [] if summer.note is None else [summer.note]
        if summer.columns is not None and (why := self.setup.collector.chain.whole_step(self.setup.flows)) is not None:
            notes.append(f"the server's step takes more memory than federation.memory allows, since {why}.")
        if measure and self.setup.measure and summer.meter is None:
            notes.append(
                "drift is not measured, since the sum of the updates takes more memory than federation.memory allows."
            )
        self.close()
        return replace(answer, notes=(*answer.notes, *notes))

    def close(self) -> None:
        """Lets go of what was summed."""
        if self._executor is not None:
            self._executor.shutdown(wait=True, cancel_futures=True)
        self._executor, self._summer, self._sums = None, None, {}

    def _summer_of(self, ask: Ask, measure: bool) -> GroupSummer:
        """What sums the groups of a round."""
        memory = SumMemory(self.options.memory, self._files)
        large = memory.columns(self.setup.guard.lengths) is not None
        meter = self.setup.meter(ask) if measure and not large else None
        return GroupSummer(self.setup.collector, ask, memory, meter)

    def _walk(self) -> None:
        """Goes on over the sorted cohort to the first client that is undecided, and sums the groups before it."""
        while self._decided < len(self._cohort) and not self._in_flight(client := self._cohort[self._decided]):
            self._decided += 1
            if client in self._accepted:
                self._run.append(client)
            if len(self._run) == self.options.group:
                self._submit(tuple(self._run))
                self._run = []

    def _submit(self, group: tuple[str, ...]) -> None:
        """Has a group summed beside the round."""
        if group in self._sums:
            return
        assert self._summer is not None
        if self._executor is None:
            self._executor = ThreadPoolExecutor(1, "sum")
        stored = {client: self._stored(self._accepted[client]) for client in group}
        self._sums[group] = self._executor.submit(self._summer.group, stored)

    def _stored(self, ticket: Ticket) -> StoredUpdate:
        """The accepted update of a ticket."""
        digest, sent = self._record.replies[ticket.number], self._record.messages[ticket.round]
        size = self.reader.path(digest).stat().st_size
        mapped = PIECE if self._summer is not None and self._summer.columns is not None else MAPPED
        return StoredUpdate(partial(self.reader.update, digest, sent.binding, mapped), 0.0, size, sent.size)

    @staticmethod
    def _wait(future: Future[GroupResult]) -> GroupResult:
        """The sum of a group; signals are seen to while it is made."""
        while not future.done():
            wait([future], TURN_S)
            stopping.check()
        return future.result()

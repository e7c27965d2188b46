"""A round in workers, wherever these are: units go to whoever is free, the lost are replaced, sums are collected."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import ClassVar, Literal

import torch
from torch import Tensor

from headway.core import stopping
from headway.core.errors import ConfigError, HeadwayError
from headway.core.flow import EngineFacts
from headway.engines.autotune.execution_plan import ExecutionPlan
from headway.engines.autotune.planner import MeasuredPlan, default_store, make_plan, threads_at
from headway.engines.engine import Job
from headway.engines.group_runner import GroupRunner
from headway.engines.grouping import GROUP, groups_of
from headway.engines.local import LocalEngine
from headway.observe.drift import DriftMeter
from headway.protocol.messages import Answer, Ask
from headway.protocol.reports import Reports
from headway.protocol.sums import ExactTotal
from headway.server.collector import GroupResult, answered

SHARES = 16  # units that a cohort is divided into, as long as none has more than `GROUP` clients
LIVES = 3  # a unit whose workers die so often is not tried again
LOSSES = 12  # nor is one whose workers are lost so often with their machines


class Lost(Exception):
    """A worker has ended, or cannot be reached."""


class MachineLost(Lost):
    """A worker is lost with its machine, whatever it was at."""


@dataclass(frozen=True)
class Unit:
    """Clients that are summed together, and the place of the first of them in the cohort."""

    clients: list[str]
    first: int


@dataclass(frozen=True)
class WorkerTask:
    """What a worker says of a unit.

    rows: each client's own update, for an aggregator that needs the whole cohort; the worker keeps the sum otherwise.
    drift, weights, paths: what the meter was told of each client.  notes: what happened that was not asked for.
    """

    reports: Reports
    rows: ExactTotal | None = None
    drift: Mapping[str, Tensor] = field(default_factory=dict)
    weights: Mapping[str, float] = field(default_factory=dict)
    paths: Mapping[str, dict[str, float]] = field(default_factory=dict)
    notes: Sequence[str] = ()


class WorkerHandle(ABC):
    """One worker, seen from here: what it is at, and what it has summed in this round."""

    named: ClassVar[str]

    def __init__(self, number: int) -> None:
        self.number = number
        self.busy: Unit | None = None
        self.since = 0.0  # when it was given what it is at
        self.summed: list[Unit] = []

    @abstractmethod
    def give(self, ask: Ask, unit: Unit) -> None:
        """Lets it begin with a unit.

        Raises:
            Lost: if it has ended.
        """

    @abstractmethod
    def work(self, unit: Unit) -> WorkerTask | None:
        """Waits for the unit; `None` if that failed there.

        Raises:
            Lost: if it has ended.
        """

    @abstractmethod
    def total(self) -> ExactTotal | None:
        """What its units since the last such question add up to; `None` if it cannot say.

        Raises:
            Lost: if it has ended.
        """

    @abstractmethod
    def bury(self) -> str:
        """Lets go of one that is lost; how it ended, as a phrase."""


class WorkerTotals:
    """The worker's own side: runs units, and keeps what they add up to."""

    def __init__(self, groups: GroupRunner) -> None:
        self.groups, self.total = groups, ExactTotal()
        self.meter: tuple[int, DriftMeter | None] = (-1, None)

    def run(self, ask: Ask, cohort: int) -> GroupResult:
        """Trains the clients of the ask, of so many in the round; torch's own generator is left as it was found."""
        if self.meter[0] != ask.round:
            self.meter = (ask.round, self.groups.setup.meter(ask, cohort))
        before = torch.get_rng_state()
        done = self.groups.run(ask, ask.cohort, {}, self.meter[1])
        torch.set_rng_state(before)
        return done

    def take(self) -> ExactTotal:
        """The sum until now; the next one starts from nothing."""
        total, self.total = self.total, ExactTotal()
        return total


class WorkerEngine(LocalEngine):
    """Clients in workers that are given units and return one exact sum a round; what is common to all kinds of them.

    title: of the engine.  worker: one and several of them, in words.
    """

    title: ClassVar[str]
    worker: ClassVar[tuple[str, str]]

    def __init__(
        self,
        workers: int | None,
        lanes: int | Literal["auto"],
        drift: bool,
        low_rank: bool | None,
        channels_last: bool | None,
        compiled: bool | None,
    ) -> None:
        super().__init__(drift, lanes, low_rank=low_rank, channels_last=channels_last, compiled=compiled)
        if workers is not None and (isinstance(workers, bool) or not isinstance(workers, int) or workers < 1):
            raise ConfigError(f"workers must be a whole number from 1, found {workers!r}.")
        self.workers = workers or 1
        self.crew: list[WorkerHandle] = []
        self.here: str | None = None

    @property
    def facts(self) -> EngineFacts:
        """Keeps memory; every client answers at once.  The number of workers is no part of it."""
        width = self._way.lanes
        return EngineFacts(self.title if width == 1 else f"{self.title}, lanes of {width}")

    @abstractmethod
    def prepare(self, ask: Ask) -> None:
        """Makes ready for a round."""

    @abstractmethod
    def hire(self, number: int, instead: bool = False) -> WorkerHandle:
        """A new worker; instead: of one that was lost."""

    @abstractmethod
    def ready(self, busy: Sequence[WorkerHandle]) -> Iterable[WorkerHandle]:
        """Waits until one of these has something to say; those that have."""

    @abstractmethod
    def kill(self) -> None:
        """Stops the workers at once, whatever they are at."""

    def open(self, job: Job) -> None:
        """Makes ready; the workers start with the first round."""
        super().open(job)
        chain = job.algorithm.chain
        self.here = None
        if chain.protocol is not None:
            self.here = f"{chain.protocol[0]} exchanges secrets with each client"
        elif self.execution.setup.flows[-1].number == "ring":
            self.here = "updates are whole numbers"

    def _measured(self, cohort: int, clients: int) -> MeasuredPlan:
        """The fastest plan for one worker's part of a cohort, and of so many clients."""
        part, all_rounds = -(-cohort // self.workers), -(-clients // self.workers)
        return make_plan(self.groups, part, 1, self.wish, default_store(), all_rounds)

    @property
    def _threads_said(self) -> list[str]:
        """A worker always has one."""
        return []

    def _set_threads(self, threads: int) -> None:
        """Each worker has one thread; this process keeps its own."""

    def _use(self, way: ExecutionPlan) -> None:
        """What is compiled here is for one thread, as workers have it that are forked."""
        with threads_at(1):
            super()._use(way)

    @property
    def summary(self) -> str:
        """How many workers, and what each does."""
        if self.here is not None:
            return f"in this process, since {self.here}"
        one, several = self.worker
        each = f"1 {one}" if self.workers == 1 else f"{self.workers} {several}, each"
        return f"{each}: {super().summary or 'clients one at a time'}"

    def _train(self, ask: Ask) -> Answer:
        if self.here is not None or not ask.cohort:
            return super()._train(ask)
        self.prepare(ask)
        try:
            return RoundDispatcher(self, ask).run()
        except BaseException:
            self.kill()  # what they were at belongs to no round any more
            raise


class RoundDispatcher:
    """One round: units go to whoever is free, the largest clients first."""

    def __init__(self, engine: WorkerEngine, ask: Ask) -> None:
        self.engine, self.asked = engine, ask
        self.waiting: deque[Unit] = deque()
        place = 0
        for clients in groups_of(ask.cohort, engine.job.data.train, engine.groups.width, spread(len(ask.cohort))):
            self.waiting.append(Unit(clients, place))
            place += len(clients)
        self.whole = engine.job.algorithm.chain.aggregator.whole_cohort
        self.deaths: dict[tuple[int, bool], int] = {}  # by unit, and whether with the machine
        self.total, self.meter = ExactTotal(), engine.execution.setup.meter(ask)
        self.reports: dict[int, Reports] = {}
        self.notes: list[str] = []
        self.replaced: list[str] = []  # sentences about workers that were lost

    def run(self) -> Answer:
        """Trains everybody; the answer."""
        engine = self.engine
        while len(engine.crew) < min(engine.workers, len(self.waiting)):
            engine.crew.append(engine.hire(len(engine.crew)))
        for hand in list(engine.crew):
            hand.summed = []
            self._give(hand)
        self._work()
        while not all(self._collect(hand) for hand in engine.crew):
            self._work()
        for note in self.notes:
            engine.execution.fallbacks.add(note)  # which keeps what several workers have in common once
        notes = [*engine.execution.fallbacks.take(), *self.replaced]
        return replace(answered(self.total, self.reports.values(), self.meter), notes=notes)

    def _give(self, hand: WorkerHandle) -> None:
        """The next unit to a worker, if there is one."""
        if not self.waiting:
            return
        hand.busy, hand.since = self.waiting.popleft(), time.monotonic()
        try:
            hand.give(self.asked, hand.busy)
        except Lost as lost:
            self._replace(hand, lost)

    def _work(self) -> None:
        """Until no worker is at anything."""
        while busy := [hand for hand in self.engine.crew if hand.busy is not None]:
            for hand in self.engine.ready(busy):
                assert hand.busy is not None
                try:
                    work = hand.work(hand.busy)
                except Lost as lost:
                    self._replace(hand, lost)
                    continue
                unit, hand.busy = hand.busy, None
                self._take(hand, unit, work)
                self._give(hand)

    def _take(self, hand: WorkerHandle, unit: Unit, work: WorkerTask | None) -> None:
        """What a worker says of a unit."""
        if work is None:
            self._here(unit)
            return
        hand.summed.append(unit)
        self.reports[unit.first] = work.reports
        self.notes += work.notes
        if work.rows is not None:
            self.total.merge(work.rows)
        if self.meter is not None:
            self.meter.rows |= work.drift
            self.meter.weights |= work.weights
            self.meter.paths |= work.paths

    def _here(self, unit: Unit) -> None:
        """Runs a unit in this process, where what fails can be looked at."""
        stopping.check()
        done = self.engine.groups.run(self.asked, unit.clients, {}, self.meter)
        self.total.add_group(done.group)
        self.reports[unit.first] = Reports.joined(done.parts)

    def _collect(self, hand: WorkerHandle) -> bool:
        """Adds what a worker has summed; False if it is lost and its units wait again."""
        if self.whole or not hand.summed:
            return True
        try:
            total = hand.total()
        except Lost as lost:
            self._replace(hand, lost)
            return False
        units_, hand.summed = hand.summed, []
        if total is None:
            for unit in units_:
                self._here(unit)
        else:
            self.total.merge(total)
        return True

    def _replace(self, hand: WorkerHandle, why: Lost) -> None:
        """A worker has died: another takes its place, and what it had summed waits again."""
        how = hand.bury()
        self.engine.crew.remove(hand)
        lost = [*(() if hand.busy is None else (hand.busy,)), *([] if self.whole else hand.summed)]
        if hand.busy is not None:
            key = hand.busy.first, isinstance(why, MachineLost)
            deaths = self.deaths[key] = self.deaths.get(key, 0) + 1
            if deaths >= (LOSSES if key[1] else LIVES):
                raise HeadwayError(_gave_up(hand.named, deaths, hand.busy.clients, how))
        again = [client for unit in lost for client in unit.clients]
        self.replaced.append(
            f"{hand.named} ended {how}; another took its place"
            + (f", and trained {some_of(again)} again." if again else ".")
        )
        self.waiting.extendleft(reversed(lost))
        fresh = self.engine.hire(hand.number, instead=True)
        self.engine.crew.append(fresh)
        self._give(fresh)


def spread(cohort: int) -> int:
    """How many clients are summed together: few enough to keep many workers busy, and a matter of the cohort alone.

    >>> [spread(cohort) for cohort in (10, 100, 5000)]
    [1, 7, 64]
    """
    return min(-(-cohort // SHARES), GROUP)


def _gave_up(named: str, deaths: int, clients: Sequence[str], how: str) -> str:
    caused = "SIGKILL often means that memory has run out: use fewer workers or lanes, or none, to see what fails."
    if "exit code" in how:
        caused = "Something in the model, the loss or the data ends the process, such as os._exit: see what is called."
    return f"{named} ended {deaths} times while it trained {some_of(clients)}, the last time {how}. {caused}"


def some_of(clients: Sequence[str]) -> str:
    """The names of the clients, or of the first of many."""
    return ", ".join(clients[:3]) + (f" and {len(clients) - 3} more" if len(clients) > 3 else "")

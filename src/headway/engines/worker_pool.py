"""A round in workers: groups of clients go to free workers, lost workers are replaced, sums are collected."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import ClassVar

import torch
from torch import Tensor

from headway.client.evaluation import Window
from headway.core import stopping
from headway.core.errors import ConfigError, HeadwayError
from headway.core.update import Tensors
from headway.data.dataset.client_index import ClientIndex
from headway.engines.evaluation_shares import shares_of
from headway.engines.group_runner import GroupRunner
from headway.engines.grouping import GROUP, groups_of
from headway.engines.local_clients import LocalClients
from headway.model.module_checks import undisturbed
from headway.observe.drift import DriftMeter
from headway.protocol.messages import Answer, Ask, Evaluate, Measure, Train
from headway.protocol.reports import Reports
from headway.protocol.sums import ExactTotal
from headway.server.collector import GroupResult, answered

SHARES = 16  # units that a cohort is divided into, as long as none has more than `GROUP` clients
MOST_FAILURES = 3  # a unit whose workers die so often is not tried again
MOST_MACHINE_LOSSES = 12  # nor is one whose workers are lost so often with their machines


class Lost(Exception):
    """A worker has ended, or cannot be reached."""


class MachineLost(Lost):
    """A worker is lost with its machine, whatever it was at."""


@dataclass(frozen=True)
class Unit:
    """Clients that are summed together, and the place of the first of them in the cohort.

    window: of clients that are evaluated, those with a result.
    """

    clients: list[str]
    first: int
    window: Window | None = None


@dataclass(frozen=True)
class WorkerResult:
    """A worker's result for a group of clients.

    rows: each client's own update, for an aggregator that needs the whole cohort; the worker keeps the sum otherwise.
    drift, weights, paths: what the meter holds of each client.  notes: sentences about fallbacks.
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
    def give(self, ask: Ask, unit: Unit, secrets: Mapping[str, Tensors]) -> None:
        """Lets it begin with a unit; secrets: of its clients, in the exchanges of a protocol, with which it masks what
        they send, and which it keeps no longer.

        Raises:
            Lost: if it has ended.
        """

    @abstractmethod
    def work(self, unit: Unit) -> WorkerResult | None:
        """Waits for the unit; `None` if that failed there.

        Raises:
            Lost: if it has ended.
        """

    @abstractmethod
    def total(self) -> ExactTotal | None:
        """The sum of its groups since the last such call; `None` if that failed there.

        Raises:
            Lost: if it has ended.
        """

    @abstractmethod
    def dispose(self) -> str:
        """Lets go of one that is lost; how it ended, as a phrase."""


class WorkerTotals:
    """The worker's own side: runs units, and keeps what they add up to."""

    def __init__(self, groups: GroupRunner) -> None:
        self.groups, self.local, self.total = groups, LocalClients(groups), ExactTotal()
        self.meter: tuple[int, DriftMeter | None] = (-1, None)

    def run(self, ask: Ask, cohort: int, secrets: Mapping[str, Tensors]) -> GroupResult:
        """Trains the clients of the ask, of so many in the round; torch's own generator is left as it was found.

        secrets: of the exchanges of a protocol, by client."""
        if self.meter[0] != ask.round:
            self.meter = (ask.round, self.groups.setup.meter(ask, cohort))
        before = torch.get_rng_state()
        done = self.groups.run(ask, ask.cohort, secrets, self.meter[1])
        torch.set_rng_state(before)
        return done

    def evaluate(self, ask: Ask, window: Window) -> Reports:
        """The reports of a request to evaluate or to measure."""
        return self.local.answer(ask, window).reports

    def take(self) -> ExactTotal:
        """The sum until now; the next one starts from nothing."""
        total, self.total = self.total, ExactTotal()
        return total


class WorkerPool(ABC):
    """Workers of one kind, and how they are made ready, asked, waited for and ended.

    worker: one and several of them, in words.  handles: of those that there are.
    """

    worker: ClassVar[tuple[str, str]]

    def __init__(self, workers: int) -> None:
        self.workers = workers
        self.handles: list[WorkerHandle] = []

    @abstractmethod
    def prepare(self, ask: Ask) -> None:
        """Makes ready for a round."""

    @abstractmethod
    def prepare_evaluation(self, ask: Ask) -> bool:
        """Makes ready to evaluate or to measure; False if workers cannot."""

    @abstractmethod
    def hire(self, number: int, instead: bool = False) -> WorkerHandle:
        """A new worker; instead: of one that was lost."""

    @abstractmethod
    def ready(self, busy: Sequence[WorkerHandle]) -> Iterable[WorkerHandle]:
        """Waits until one of these has an answer; those that have."""

    @abstractmethod
    def kill(self) -> None:
        """Stops the workers at once, whatever they are at."""


def checked_workers(workers: int | None) -> int | None:
    """The number of workers.

    Raises:
        ConfigError: if it is not a whole number from 1.
    """
    if workers is not None and (isinstance(workers, bool) or not isinstance(workers, int) or workers < 1):
        raise ConfigError(f"workers must be a whole number from 1, found {workers!r}.")
    return workers


class WorkerClients:
    """Clients in workers: requests to train, evaluate and measure are answered there, the others in this process.

    local: the clients in this process, for what workers cannot do.
    """

    def __init__(self, local: LocalClients, pool: WorkerPool) -> None:
        self.local, self.pool = local, pool
        setup = local.setup
        whole = setup.job.algorithm.chain.aggregator.whole_cohort
        self.local_reason: str | None = None
        if whole and setup.flows[-1].number == "ring":
            self.local_reason = "each client's whole numbers are needed by themselves"

    def summary(self, plan: str) -> str:
        """The number of workers, and the plan of each."""
        if self.local_reason is not None:
            return f"in this process, since {self.local_reason}"
        one, several = self.pool.worker
        each = f"1 {one}" if self.pool.workers == 1 else f"{self.pool.workers} {several}, each"
        return f"{each}: {plan or 'clients one at a time'}"

    def answer(self, ask: Ask) -> Answer:
        """The answer to an ask."""
        if self.local_reason is not None or not ask.cohort or not self._prepared(ask):
            return self.local.answer(ask)
        with undisturbed(self.local.setup.flat_module):
            try:
                with self.local.setup.device.training():
                    answer = RoundDispatcher(self.pool, self.local, ask).run()
            except BaseException:
                self.pool.kill()  # what they were at belongs to no round any more
                raise
        if isinstance(ask.request, Train):
            self.local.spend(ask)
        return answer

    def _prepared(self, ask: Ask) -> bool:
        """Makes the workers ready for an ask; False if it is answered in this process."""
        match ask.request:
            case Train():
                self.pool.prepare(ask)
                return True
            case Evaluate():  # metrics over all clients' examples together need all outputs in one place
                return not self.local.setup.job.task.pooled_scorers and self.pool.prepare_evaluation(ask)
            case Measure():
                return self.pool.prepare_evaluation(ask)
        return False


class RoundDispatcher:
    """One round: groups go to free workers, the largest clients first."""

    def __init__(self, pool: WorkerPool, local: LocalClients, ask: Ask) -> None:
        self.pool, self.local, self.asked = pool, local, ask
        self.waiting: deque[Unit] = deque()
        self.trains = isinstance(ask.request, Train)
        self.waiting.extend(self._training_units() if self.trains else self._evaluation_units())
        self.whole = local.setup.job.algorithm.chain.aggregator.whole_cohort
        self.failures: dict[tuple[int, bool], int] = {}  # by unit, and whether with the machine
        self.total, self.meter = ExactTotal(), local.setup.meter(ask) if self.trains else None
        self.reports: dict[int, Reports] = {}
        self.notes: list[str] = []
        self.replaced: list[str] = []  # sentences about workers that were lost

    def _training_units(self) -> Iterator[Unit]:
        """The groups of the cohort, each summed by one worker."""
        cohort, place = self.asked.cohort, 0
        train, width = self.local.setup.job.data.train, self.local.groups.width
        for clients in groups_of(cohort, train, width, spread(len(cohort))):
            yield Unit(clients, place)
            place += len(clients)

    def _evaluation_units(self) -> Iterator[Unit]:
        """The shares of the cohort, each evaluated by one worker."""
        data, cohort = self.local.setup.job.data, self.asked.cohort
        held = ClientIndex.of(data.test if isinstance(self.asked.request, Evaluate) else data.train)
        for clients, first, window in shares_of(cohort, held.sizes_of(cohort)):
            yield Unit(clients, first, window)

    def run(self) -> Answer:
        """The answer of the whole cohort."""
        pool, fallbacks = self.pool, self.local.execution.fallbacks
        while len(pool.handles) < min(pool.workers, len(self.waiting)):
            pool.handles.append(pool.hire(len(pool.handles)))
        for handle in list(pool.handles):
            handle.summed = []
            self._give(handle)
        self._work()
        while not all(self._collect(handle) for handle in pool.handles):
            self._work()
        for note in self.notes:
            fallbacks.add(note)  # which keeps what several workers have in common once
        notes = [*fallbacks.take(), *self.replaced]
        if not self.trains:  # in the order of the cohort, in which means are taken
            return Answer(reports=Reports.joined([self.reports[first] for first in sorted(self.reports)]), notes=notes)
        return replace(answered(self.total, self.reports.values(), self.meter), notes=notes)

    def _give(self, handle: WorkerHandle) -> None:
        """The next unit to a worker, if there is one."""
        if not self.waiting:
            return
        handle.busy, handle.since = self.waiting.popleft(), time.monotonic()
        try:
            own = self.local.secrets if self.trains else {}
            handle.give(self.asked, handle.busy, {c: own[c] for c in handle.busy.clients if c in own})
        except Lost as lost:
            self._replace(handle, lost)

    def _work(self) -> None:
        """Works until no worker is busy."""
        while busy := [handle for handle in self.pool.handles if handle.busy is not None]:
            for handle in self.pool.ready(busy):
                assert handle.busy is not None
                try:
                    work = handle.work(handle.busy)
                except Lost as lost:
                    self._replace(handle, lost)
                    continue
                unit, handle.busy = handle.busy, None
                self._take(handle, unit, work)
                self._give(handle)

    def _take(self, handle: WorkerHandle, unit: Unit, work: WorkerResult | None) -> None:
        """Adds a worker's result for a group to the round."""
        if work is None:
            self._here(unit)
            return
        self.reports[self._place(unit)] = work.reports
        if not self.trains:
            return
        handle.summed.append(unit)
        self.notes += work.notes
        if work.rows is not None:
            self.total.merge(work.rows)
        if self.meter is not None:
            self.meter.rows |= work.drift
            self.meter.weights |= work.weights
            self.meter.paths |= work.paths

    def _here(self, unit: Unit) -> None:
        """Runs a group in this process, where an error can be reported with its cause."""
        stopping.check()
        if unit.window is not None:
            ask = self.asked.of(unit.clients)
            self.reports[self._place(unit)] = self.local.answer(ask, unit.window).reports
            return
        done = self.local.groups.run(self.asked, unit.clients, self.local.secrets, self.meter)
        self.total.add_group(done.group)
        self.reports[unit.first] = Reports.joined(done.parts)

    def _place(self, unit: Unit) -> int:
        """The place in the cohort of the first client with a report."""
        return unit.first + (0 if unit.window is None else unit.window.first)

    def _collect(self, handle: WorkerHandle) -> bool:
        """Adds what a worker has summed; False if it is lost and its units wait again."""
        if self.whole or not handle.summed:
            return True
        try:
            total = handle.total()
        except Lost as lost:
            self._replace(handle, lost)
            return False
        units, handle.summed = handle.summed, []
        if total is None:
            for unit in units:
                self._here(unit)
        else:
            self.total.merge(total)
        return True

    def _replace(self, handle: WorkerHandle, why: Lost) -> None:
        """A worker has died: another takes its place, and what it had summed waits again."""
        how = handle.dispose()
        self.pool.handles.remove(handle)
        lost = [*(() if handle.busy is None else (handle.busy,)), *([] if self.whole else handle.summed)]
        if handle.busy is not None:
            key = handle.busy.first, isinstance(why, MachineLost)
            failures = self.failures[key] = self.failures.get(key, 0) + 1
            if failures >= (MOST_MACHINE_LOSSES if key[1] else MOST_FAILURES):
                raise HeadwayError(_gave_up(handle.named, failures, handle.busy.clients, how))
        again = [client for unit in lost for client in unit.clients]
        self.replaced.append(
            f"{handle.named} ended {how}; another took its place"
            + (f", and trained {some_of(again)} again." if again else ".")
        )
        self.waiting.extendleft(reversed(lost))
        fresh = self.pool.hire(handle.number, instead=True)
        self.pool.handles.append(fresh)
        self._give(fresh)


def spread(cohort: int) -> int:
    """How many clients are summed together: few enough to keep many workers busy, and a matter of the cohort alone.

    >>> [spread(cohort) for cohort in (10, 100, 5000)]
    [1, 7, 64]
    """
    return min(-(-cohort // SHARES), GROUP)


def _gave_up(named: str, failures: int, clients: Sequence[str], how: str) -> str:
    caused = "SIGKILL often means that memory has run out: use fewer workers or lanes, or none, to see what fails."
    if "exit code" in how:
        caused = "Something in the model, the loss or the data ends the process, such as os._exit: see what is called."
    return f"{named} ended {failures} times while it trained {some_of(clients)}, the last time {how}. {caused}"


def some_of(clients: Sequence[str]) -> str:
    """The names of the clients, or of the first of many."""
    return ", ".join(clients[:3]) + (f" and {len(clients) - 3} more" if len(clients) > 3 else "")

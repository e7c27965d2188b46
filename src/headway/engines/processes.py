"""The Processes engine: worker processes that train units of clients and return one sum each."""

from __future__ import annotations

import json
import os
import signal
import sys
import warnings
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from multiprocessing import Pipe
from multiprocessing.connection import Connection, wait
from typing import Any, Literal

from headway.core.ask import Answer, Ask, ClientReport
from headway.core.errors import ConfigError, HeadwayError
from headway.core.flow import EngineFacts
from headway.core.total import Total
from headway.engines.engine import Job
from headway.engines.local import LocalEngine
from headway.engines.planner import Plan, default_store, make_plan
from headway.engines.units import GROUP, units, with_drift
from headway.engines.worker import Areas, read_reports, read_rows, read_total, start

SHARES = 16  # units that a cohort is divided into, as long as none has more than `GROUP` clients
LIVES = 3  # a unit whose workers die so often is not tried again


@dataclass(frozen=True)
class _Unit:
    """Clients that are summed together, and the place of the first of them in the cohort."""

    clients: list[str]
    first: int


@dataclass
class _Hand:
    """One worker: its process, this end of its pipe, what it is at, and what it has summed in this round."""

    number: int
    pid: int
    pipe: Connection
    busy: _Unit | None = None
    summed: list[_Unit] = field(default_factory=list)

    def ask(self, request: dict[str, Any]) -> None:
        self.pipe.send_bytes(json.dumps(request).encode())

    def answer(self) -> dict[str, Any]:
        reply: dict[str, Any] = json.loads(self.pipe.recv_bytes())
        return reply


class ProcessEngine(LocalEngine):
    """Clients in worker processes on this machine, each with one thread, over shared memory.

    The data are loaded once.  A worker returns one exact sum a round, so the result has the same bits for any number
    of workers; one that dies is replaced, its clients train again, and the result does not change.  What fails in a
    worker is run again in this process, where it fails under your debugger.

    workers: how many processes; `None` for one per core.  lanes, drift: as in `LocalEngine`.

    Raises:
        ConfigError: for a number below 1; when opened, where processes cannot be forked.
    """

    def __init__(
        self, workers: int | None = None, *, lanes: int | Literal["auto"] = "auto", drift: bool = True
    ) -> None:
        super().__init__(drift, lanes)
        if workers is not None and (isinstance(workers, bool) or not isinstance(workers, int) or workers < 1):
            raise ConfigError(f"workers must be a whole number from 1, found {workers!r}.")
        self.workers = workers or cores()
        self.hands: list[_Hand] = []
        self.areas: Areas | None = None

    @property
    def facts(self) -> EngineFacts:
        """Keeps memory; every client answers at once.  The number of workers is no part of it."""
        side = "" if self._width == 1 else f", lanes of {self._width}"
        return EngineFacts(f"Processes{side}")

    def open(self, job: Job) -> None:
        """Makes ready; the workers start with the first round."""
        if not hasattr(os, "fork") or sys.platform == "darwin":
            raise ConfigError(
                "worker processes share the data by forking, which this system does not do safely: leave workers out."
            )
        super().open(job)
        job.memory.declare(self.runner.runner.first_memory())
        chain = job.algorithm.chain
        self.here: str | None = None
        if chain.protocol is not None:
            self.here = f"{chain.protocol[0]} exchanges secrets with each client"
        elif self.runner.flows[-1].number == "ring":
            self.here = "updates are whole numbers"

    def _measured(self, cohort: int) -> Plan:
        """The fastest plan for one worker's part of a cohort."""
        return make_plan(self.runner, -(-cohort // self.workers), 1, default_store())

    def _set_threads(self, threads: int) -> None:
        """Each worker has one thread; this process keeps its own."""

    @property
    def spoken(self) -> str:
        """How many workers, and what each does."""
        if self.here is not None:
            return f"in this process, since {self.here}"
        each = "1 worker process" if self.workers == 1 else f"{self.workers} worker processes, each"
        return f"{each}: {super().spoken or 'clients one at a time'}"

    def close(self) -> None:
        """Stops the workers."""
        for hand in self.hands:
            hand.pipe.close()
        for hand in self.hands:
            _reap(hand.pid)
        self.hands, self.areas = [], None

    def _train(self, ask: Ask) -> Answer:
        if self.here is not None or not ask.cohort:
            return super()._train(ask)
        if self.areas is None or not self.areas.fit(ask):
            self.close()
            self.areas = Areas.of(ask, self.runner, self.workers)
        self.areas.broadcast.write(ask.message)
        round_ = _Round(self, ask, self.areas)
        try:
            return round_.run()
        except BaseException:
            self.kill()  # what they were at belongs to no round any more
            raise

    def hire(self, number: int) -> _Hand:
        """A new worker."""
        assert self.areas is not None
        ours, theirs = Pipe()
        with warnings.catch_warnings():  # Python warns that threads are not there after a fork: none is needed
            warnings.simplefilter("ignore", DeprecationWarning)
            sys.stdout.flush()
            pid = start(number, theirs, self.runner, self.areas, [ours, *(hand.pipe for hand in self.hands)])
        theirs.close()
        return _Hand(number, pid, ours)

    def kill(self) -> None:
        """Stops the workers at once, whatever they are at."""
        for hand in self.hands:
            os.kill(hand.pid, signal.SIGKILL)
        self.close()


class _Round:
    """One round: units go to whoever is free, the largest clients first."""

    def __init__(self, engine: ProcessEngine, ask: Ask, areas: Areas) -> None:
        self.engine, self.asked, self.areas = engine, ask, areas
        self.waiting: deque[_Unit] = deque()
        place = 0
        for clients in units(ask.cohort, engine.job.data.train, engine.runner.width, spread(len(ask.cohort))):
            self.waiting.append(_Unit(clients, place))
            place += len(clients)
        self.deaths: dict[int, int] = {}
        self.total, self.meter = Total(), engine.runner.meter(ask)
        self.reports: dict[int, list[ClientReport]] = {}

    def run(self) -> Answer:
        """Trains everybody; the answer."""
        engine = self.engine
        while len(engine.hands) < min(engine.workers, len(self.waiting)):
            engine.hands.append(engine.hire(len(engine.hands)))
        for hand in engine.hands:
            hand.summed = []
            self._give(hand)
        self._work()
        while not all(self._collect(hand) for hand in engine.hands):
            self._work()
        reports = sorted((r for each in self.reports.values() for r in each), key=lambda report: report.client)
        if self.meter is None:
            return Answer(total=self.total, reports=tuple(reports))
        cohort, clients = self.meter.figures()
        return Answer(total=self.total, reports=tuple(with_drift(reports, clients)), figures=cohort)

    def _give(self, hand: _Hand) -> None:
        """The next unit to a worker, if there is one."""
        if not self.waiting:
            return
        hand.busy, ask = self.waiting.popleft(), self.asked
        request = {"unit": hand.busy.clients, "first": hand.busy.first, "cohort": len(ask.cohort)}
        try:
            hand.ask({**request, "round": ask.round, "attempt": ask.attempt})
        except OSError:
            self._replace(hand)

    def _work(self) -> None:
        """Until no worker is at anything."""
        while busy := [hand for hand in self.engine.hands if hand.busy is not None]:
            for pipe in wait([hand.pipe for hand in busy]):
                hand = next(hand for hand in busy if hand.pipe is pipe)
                try:
                    reply = hand.answer()
                except (EOFError, OSError):
                    self._replace(hand)
                    continue
                unit, hand.busy = hand.busy, None
                assert unit is not None
                self._take(hand, unit, reply)
                self._give(hand)

    def _take(self, hand: _Hand, unit: _Unit, reply: dict[str, Any]) -> None:
        """What a worker says of a unit."""
        if "failed" in reply:
            self._here(unit)
            return
        hand.summed.append(unit)
        self.reports[unit.first] = read_reports(reply)
        if self.areas.rows:
            self.total.merge(read_rows(reply, unit.clients, unit.first, self.areas.rows))
        if self.meter is not None and self.areas.drift is not None:
            drift = self.areas.drift
            rows = {client: drift[place] for place, client in enumerate(unit.clients, unit.first)}
            self.meter.rows |= {client: row for client, row in rows.items() if client in reply["weights"]}
            self.meter.weights |= reply["weights"]
            self.meter.paths |= reply["paths"]

    def _here(self, unit: _Unit) -> None:
        """Runs a unit in this process, where what fails can be looked at."""
        done = self.engine.runner.run(self.asked, unit.clients, {}, self.meter)
        self.total.add_group(done.group)
        self.reports[unit.first] = done.reports

    def _collect(self, hand: _Hand) -> bool:
        """Adds what a worker has summed; False if it is lost and its units wait again."""
        if self.areas.rows or not hand.summed:
            return True
        try:
            hand.ask({"sum": True})
            reply = hand.answer()
        except (EOFError, OSError):
            self._replace(hand)
            return False
        units_, hand.summed = hand.summed, []
        if "failed" in reply:
            for unit in units_:
                self._here(unit)
        else:
            self.total.merge(read_total(reply, self.areas.sums[hand.number]))
        return True

    def _replace(self, hand: _Hand) -> None:
        """A worker has died: another takes its place, and what it had summed waits again."""
        how = _reap(hand.pid)
        hand.pipe.close()
        self.engine.hands.remove(hand)
        lost = [*(() if hand.busy is None else (hand.busy,)), *([] if self.areas.rows else hand.summed)]
        if hand.busy is not None:
            deaths = self.deaths[hand.busy.first] = self.deaths.get(hand.busy.first, 0) + 1
            if deaths >= LIVES:
                raise HeadwayError(_gave_up(hand.busy.clients, how))
        self.waiting.extendleft(reversed(lost))
        fresh = self.engine.hire(hand.number)
        self.engine.hands.append(fresh)
        self._give(fresh)


def spread(cohort: int) -> int:
    """How many clients are summed together: few enough to keep many workers busy, and a matter of the cohort alone.

    >>> [spread(cohort) for cohort in (10, 100, 5000)]
    [1, 7, 64]
    """
    return min(-(-cohort // SHARES), GROUP)


def cores() -> int:
    """How many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _reap(pid: int) -> str:
    """Waits for a process to end; how it ended, as a phrase."""
    try:
        _, status = os.waitpid(pid, 0)
    except ChildProcessError:
        return "for a reason that is not known"
    if os.WIFSIGNALED(status):
        return f"by signal {signal.Signals(os.WTERMSIG(status)).name}"
    return f"with exit code {os.waitstatus_to_exitcode(status)}"


def _gave_up(clients: Sequence[str], how: str) -> str:
    who = ", ".join(clients[:3]) + (f" and {len(clients) - 3} more" if len(clients) > 3 else "")
    return (
        f"a worker process ended {LIVES} times while it trained {who}, the last time {how}. SIGKILL often means that "
        "memory has run out: use fewer workers or lanes, or none, to see what fails."
    )

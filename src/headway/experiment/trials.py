"""The runs that a comparison is made of: each in a folder of its own, so that none is lost and any can be looked at."""

from __future__ import annotations

import math
import multiprocessing
import os
import re
import statistics
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from itertools import accumulate
from multiprocessing.queues import SimpleQueue
from pathlib import Path

from headway.core import stopping
from headway.core.errors import HeadwayError, RunFolderError
from headway.experiment.run import Run
from headway.experiment.runfile import LastData, RunFile
from headway.observe.journal import Journal
from headway.observe.run_folder import JOURNAL

Ticks = SimpleQueue[tuple[str, int]]
Probe = Callable[[Run], Mapping[str, float]]  # figures of a run that has ended
TAIL = 10  # the rounds at the end that a final value is the mean of
RUNS = "runs"


@dataclass(frozen=True)
class Trial:
    """One run of one method at one seed, round by round.

    values: the headline metric after each evaluated round; losses, bytes_total and simulated_s: the training loss in
    it, and what had been sent and how much simulated time had passed at its end.  A run without a clock has no times.
    clients: each client's metric, as its mean over the last rounds.  failure: why it stopped early, if it did.
    seconds: of training and aggregation in a round, on average.  figures: what was asked of the run at its end.
    """

    method: str
    seed: int
    rounds: tuple[int, ...]
    values: tuple[float, ...]
    losses: tuple[float, ...]
    bytes_total: tuple[int, ...]
    clients: Mapping[str, float]
    failure: str | None = None
    simulated_s: tuple[float, ...] = ()
    seconds: float = field(default=math.nan, compare=False)
    figures: Mapping[str, float] = field(default_factory=dict)

    @property
    def final(self) -> float:
        """The mean over the last rounds; NaN for a run that failed."""
        return math.nan if self.failure else statistics.fmean(self.values[-TAIL:])

    @property
    def spread(self) -> float:
        """The standard deviation over the last rounds."""
        tail = self.values[-TAIL:]
        known = len(tail) > 1 and not self.failure and all(map(math.isfinite, tail))
        return statistics.stdev(tail) if known else math.nan

    def within(self, budget: float, spent: Sequence[float]) -> float:
        """The value of `final` if the run had ended with its last evaluation at which no more than a budget was spent.

        spent: `bytes_total` or `simulated_s`.  NaN if the first evaluation comes too late.
        """
        known = [value for value, total in zip(self.values, spent, strict=True) if total <= budget]
        return statistics.fmean(known[-TAIL:]) if known and not self.failure else math.nan

    def reached(self, target: float, lower: bool, spent: Sequence[float]) -> float:
        """The amount of `rounds`, `bytes_total` or `simulated_s` spent when the target was first met; else infinite."""
        for value, total in zip(self.values, spent, strict=True):
            if (value <= target) if lower else (value >= target):
                return total
        return math.inf


def tail_of(runs: Iterable[tuple[int, ...]]) -> str:
    """The rounds that final values are the mean of, in words; of runs that ended by a clock they are not the same.

    >>> tail_of([(1, 2, 3), (1, 2, 3)])
    'rounds 1 to 3'
    """
    tails = {rounds[-TAIL:] for rounds in runs if rounds}
    if len(tails) != 1:
        return f"the last {TAIL} evaluations of each run"
    (rounds,) = tails
    return f"rounds {rounds[0]} to {rounds[-1]}"


@dataclass(frozen=True)
class TrialJob:
    """A trial that is to be run in a folder, or gone on with where the folder has part of it.

    metric: what its values are; by default the one that decides in the run.  probe: what else is asked of the run at
    its end, where it did not fail; it crosses to a worker process.
    """

    method: str
    runfile: RunFile
    seed: int
    folder: Path
    metric: str | None = None
    probe: Probe | None = None


def trial_folder(folder: Path, method: str, seed: int) -> Path:
    """The folder in which a comparison keeps a trial.

    >>> trial_folder(Path("c"), "fedavg+ecgr", 0).as_posix()
    'c/runs/fedavg+ecgr-s0'
    """
    plain = re.sub(r"[^\w.+=,-]+", "_", method)
    return folder / RUNS / f"{plain}-s{seed}"


def run_trials(
    runfiles: Mapping[str, RunFile],
    seeds: Sequence[int],
    workers: int,
    folder: Path,
    metric: str | None = None,
    probes: Mapping[str, Probe] | None = None,
) -> Iterator[Trial | tuple[str, int]]:
    """Runs every method at every seed, and yields (method, seed) after each round and each trial at its end.

    What the folder holds of an earlier call is gone on with, not run again.  A trial runs on one thread whatever
    the number of workers, so its numbers do not depend on it.  probes: of methods, what is asked of their runs.

    Raises:
        RunFolderError: if the folder holds another run under a trial's name.
    """
    jobs = [
        TrialJob(method, runfile, seed, trial_folder(folder, method, seed), metric, (probes or {}).get(method))
        for seed in seeds
        for method, runfile in runfiles.items()
    ]
    yield from in_processes(jobs, workers)


def in_processes(jobs: Sequence[TrialJob], workers: int) -> Iterator[Trial | tuple[str, int]]:
    """The steps and trials of all jobs, as they come."""
    if workers == 1:
        last = LastData()
        for job in jobs:
            yield from _steps(job, last)
        return
    context = multiprocessing.get_context("spawn")
    ticks: Ticks = context.SimpleQueue()
    before = os.environ.get("OMP_NUM_THREADS")
    os.environ["OMP_NUM_THREADS"] = "1"  # for the workers; a spinning thread would steal the other's core
    pool = ProcessPoolExecutor(workers, mp_context=context, initializer=_begin, initargs=(ticks, os.getpid()))
    try:
        pending: set[Future[Trial]] = {pool.submit(_in_worker, job) for job in jobs}
        while pending:
            stopping.check()
            done, pending = wait(pending, timeout=stopping.TICK_S, return_when=FIRST_COMPLETED)
            while not ticks.empty():
                yield ticks.get()
            for future in done:
                yield future.result()
    except BrokenProcessPool as error:
        raise HeadwayError(
            "a worker process ended before its work was done, perhaps for want of memory: try --workers 1."
        ) from error
    finally:
        for process in list((getattr(pool, "_processes", None) or {}).values()):
            if pending:
                process.terminate()
        pool.shutdown(wait=not pending, cancel_futures=True)
        if before is None:
            del os.environ["OMP_NUM_THREADS"]
        else:
            os.environ["OMP_NUM_THREADS"] = before


_LAST = LastData()  # of a worker process, which ends with the comparison


_ticks: list[Ticks] = []  # of a worker process: where it reports that a round is done


def _begin(ticks: Ticks, parent: int) -> None:
    """Makes a worker process ready: signals are the parent's to handle, and it ends with that."""
    stopping.in_child()
    stopping.end_with(parent)
    _ticks.append(ticks)


def _in_worker(job: TrialJob) -> Trial:
    try:
        for step in _steps(job, _LAST):
            if isinstance(step, Trial):
                return step
            _ticks[0].put(step)
    except HeadwayError as error:  # as a sentence, since what it carries may not cross to another process
        raise HeadwayError(f"{job.method}, seed {job.seed}: {error}") from None
    raise AssertionError


def _steps(job: TrialJob, last: LastData) -> Iterator[Trial | tuple[str, int]]:
    """The rounds of one trial, and the trial; a method that is refused or stops is one that failed."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(job.runfile.sections.run.threads or 1)
    try:
        try:
            run = job.runfile.with_seed(job.seed).start(job.folder, job.folder.exists(), last)
        except RunFolderError:
            raise
        except HeadwayError as error:
            yield failed_trial(job.method, job.seed, str(error))
            return
        try:
            for _ in range(run.state.round):
                yield job.method, job.seed
            failure = None
            try:
                for _report in run:
                    yield job.method, job.seed
            except RunFolderError:
                raise
            except HeadwayError as error:
                failure = str(error)
            yield read_trial(job, run, failure)
        finally:
            run.close()
    finally:
        torch.set_num_threads(threads)


def failed_trial(method: str, seed: int, failure: str) -> Trial:
    """A trial that came to no round, and why."""
    return Trial(method, seed, (), (), (), (), {}, failure)


def read_trial(job: TrialJob, run: Run, failure: str | None) -> Trial:
    """The trial that a run's journal records."""
    name = job.metric or run.facts.headline
    journal = Journal(job.folder / JOURNAL)
    try:
        scope = "clients" if run.data.central is None else "central"
        known = dict(journal.series(scope, name))
        rows = [row for row in journal.rows("rounds") if row["round"] <= run.rounds]
        spent = accumulate(row["bytes_up"] + row["bytes_down"] for row in rows)
        totals = dict(zip((row["round"] for row in rows), spent, strict=True))
        losses = {row["round"]: row["train_loss"] for row in rows}
        times = dict(journal.series("clock", "ended_s"))
        rounds = sorted(known.keys() & totals.keys())
        clients = journal.client_means(name, rounds[-TAIL:])
    finally:
        journal.close()
    if not rounds and failure is None:
        why = run.facts.undefined.get(name)
        failure = f"{name} is not defined: {why}." if why else f"{name} was not defined in any round."
    elif failure is None and not all(math.isfinite(known[round_]) for round_ in rounds[-TAIL:]):
        failure = f"{name} is not finite in the last rounds."
    return Trial(
        job.method,
        job.seed,
        rounds=tuple(rounds),
        values=tuple(known[round_] for round_ in rounds),
        losses=tuple(math.nan if losses[round_] is None else losses[round_] for round_ in rounds),
        bytes_total=tuple(totals[round_] for round_ in rounds),
        clients=clients,
        failure=failure,
        simulated_s=tuple(times[round_] for round_ in rounds) if times else (),
        seconds=statistics.fmean(row["seconds"] for row in rows) if rows else math.nan,
        figures=job.probe(run) if job.probe is not None and failure is None else {},
    )

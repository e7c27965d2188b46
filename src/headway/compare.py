"""Comparing methods: the same data, partitions and initial models, over several seeds."""

from __future__ import annotations

import math
import multiprocessing
import os
import statistics
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from typing import Any

from headway.core.errors import Diverged, HeadwayError
from headway.data import described
from headway.run import LOWER_IS_BETTER
from headway.runfile import RunFile

TAIL = 10  # the rounds at the end that a final value is the mean of


@dataclass(frozen=True)
class Trial:
    """One run of one method at one seed, round by round.

    values: the headline metric after each evaluated round.  worst: the lowest client's metric over the last
    rounds, and `clients` that of each.  failure: why it stopped early, if it did.
    """

    method: str
    seed: int
    rounds: tuple[int, ...]
    values: tuple[float, ...]
    losses: tuple[float, ...]
    bytes_total: tuple[int, ...]
    clients: Mapping[str, float]
    failure: str | None = None

    @property
    def final(self) -> float:
        """The mean over the last rounds; NaN for a run that failed."""
        return math.nan if self.failure else statistics.fmean(self.values[-TAIL:])

    @property
    def spread(self) -> float:
        """The standard deviation over the last rounds."""
        tail = self.values[-TAIL:]
        return statistics.stdev(tail) if len(tail) > 1 and not self.failure else math.nan

    def reached(self, target: float, lower: bool) -> tuple[int, int] | None:
        """The first round at which the target is met, and the bytes until then."""
        for round_, value, total in zip(self.rounds, self.values, self.bytes_total, strict=True):
            if (value <= target) if lower else (value >= target):
                return round_, total
        return None


@dataclass(frozen=True)
class Summary:
    """What the trials of one method say together."""

    method: str
    mean: float
    half_width: float
    spread: float
    worst: float
    rounds_to_target: float | None
    bytes_to_target: float | None
    bytes_a_round: float
    failures: int


@dataclass(frozen=True)
class Comparison:
    """All trials, and what follows from them.  drawn: whether each seed draws the clients' data anew."""

    name: str
    metric: str
    central: bool
    trials: tuple[Trial, ...]
    methods: tuple[str, ...]
    seeds: int
    target: float
    stated_target: bool
    description: str = ""
    drawn: bool = False

    @property
    def lower_is_better(self) -> bool:
        """Whether a small value is a good one."""
        return self.metric in LOWER_IS_BETTER

    def of(self, method: str) -> list[Trial]:
        """The trials of a method, by seed."""
        return sorted((t for t in self.trials if t.method == method), key=lambda t: t.seed)

    def summaries(self) -> list[Summary]:
        """One line per method, in the order asked for."""
        return [self._summary(method) for method in self.methods]

    def ranked(self) -> list[Summary]:
        """The methods of which every seed finished, the best first."""
        whole = [s for s in self.summaries() if not s.failures]
        return sorted(whole, key=lambda s: s.mean, reverse=not self.lower_is_better)

    def sentence(self) -> str:
        """What the reader is looking at, in one sentence that says no more than the numbers do."""
        ranked = self.ranked()
        if not ranked:
            return "Every method failed at some seed, so none can be called better."
        first = ranked[0]
        where = "on the central test set" if self.central else "over the clients' own test parts"
        word = "lowest" if self.lower_is_better else "highest"
        when = f"over rounds {self._tail[0]} to {self._tail[1]}"
        head = f"Mean {self.metric} {where}, {when}: {first.method} is {word} with {first.mean:.4f}"
        if self.seeds == 1:
            return f"{head}, from one seed, which says nothing of chance: use --seeds 5 or more."
        low, high = first.mean - first.half_width, first.mean + first.half_width
        head += f" (95 % interval {low:.4f} to {high:.4f}, {self.seeds} seeds)"
        if len(ranked) == 1:
            return f"{head}."
        alike = [s.method for s in ranked[1:] if not self.differs(first.method, s.method)]
        if not alike:
            return f"{head}, ahead of every other method (paired by seed, at 95 % for all {len(ranked) - 1} together)."
        ahead = [s.method for s in ranked[1:] if s.method not in alike]
        told = f"; paired by seed it is ahead of {_listed(ahead)}, but" if ahead else ", but"
        return f"{head}{told} {self.seeds} seeds do not tell it apart from {_listed(alike)}."

    def differs(self, one: str, other: str) -> bool:
        """Whether the paired difference between two methods has an interval without zero.

        The level is 95 % for the best method against all others together (Bonferroni).
        """
        pairs = [a.final - b.final for a, b in zip(self.of(one), self.of(other), strict=True)]
        mean, half = interval(pairs, 1 - 0.05 / max(len(self.methods) - 1, 1))
        return math.isfinite(half) and abs(mean) > half

    @property
    def _tail(self) -> tuple[int, int]:
        """The first and the last of the rounds that final values are the mean of."""
        rounds = next(t.rounds for t in self.trials if not t.failure)
        return rounds[-TAIL:][0], rounds[-1]

    def _summary(self, method: str) -> Summary:
        """The seeds together.  If one of them failed, no value is given: the others would flatter the method."""
        trials = self.of(method)
        failures = sum(t.failure is not None for t in trials)
        whole = [] if failures else trials
        mean, half = interval([t.final for t in whole])
        reached = [t.reached(self.target, self.lower_is_better) for t in whole]
        rounds, spent = (_median(each[place] if each is not None else math.inf for each in reached) for place in (0, 1))
        worst = [(max if self.lower_is_better else min)(t.clients.values()) for t in whole if t.clients]
        return Summary(
            method,
            mean,
            half,
            _mean(t.spread for t in whole),
            _mean(worst),
            rounds,
            spent,
            _mean(t.bytes_total[-1] / t.rounds[-1] for t in trials if t.rounds),
            failures,
        )


def _mean(values: Iterable[float]) -> float:
    """The mean; NaN of nothing."""
    known = list(values)
    return statistics.fmean(known) if known else math.nan


def interval(values: Sequence[float], level: float = 0.95) -> tuple[float, float]:
    """The mean and the half width of its interval by Student's t; NaN where there are too few values.

    >>> mean, half = interval([1.0, 2.0, 3.0])
    >>> round(mean, 3), round(half, 3)
    (2.0, 2.484)
    """
    if len(values) < 2:
        return (values[0] if values else math.nan), math.nan
    from scipy import stats

    quantile = float(stats.t.ppf((1 + level) / 2, len(values) - 1))
    return statistics.fmean(values), quantile * statistics.stdev(values) / math.sqrt(len(values))


def run_trials(runfiles: Mapping[str, RunFile], seeds: int, workers: int) -> Iterator[Trial | tuple[str, int]]:
    """Runs every method at every seed, and yields (method, seed) after each round and each trial at its end.

    A trial runs on one thread whatever the number of workers, so its numbers do not depend on it.
    """
    jobs = [(method, runfile, seed) for seed in range(seeds) for method, runfile in runfiles.items()]
    if workers == 1:
        for job in jobs:
            yield from _steps(*job)
        return
    context = multiprocessing.get_context("spawn")
    ticks = context.Manager().Queue()
    before = os.environ.get("OMP_NUM_THREADS")
    os.environ["OMP_NUM_THREADS"] = "1"  # for the workers; a spinning thread would steal the other's core
    pool = ProcessPoolExecutor(workers, mp_context=context)
    try:
        pending: set[Future[Trial]] = {pool.submit(_in_worker, job, ticks) for job in jobs}
        while pending:
            done, pending = wait(pending, timeout=0.2, return_when=FIRST_COMPLETED)
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


def _in_worker(job: tuple[str, RunFile, int], ticks: Any) -> Trial:
    try:
        for step in _steps(*job):
            if isinstance(step, Trial):
                return step
            ticks.put(step)
    except HeadwayError as error:  # as a sentence, since what it carries may not cross to another process
        raise HeadwayError(f"{job[0]}, seed {job[2]}: {error}") from None
    raise AssertionError


def _steps(method: str, runfile: RunFile, seed: int) -> Iterator[Trial | tuple[str, int]]:
    """The rounds of one trial, and the trial."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(runfile.sections.run.threads or 1)
    try:
        run = runfile.with_seed(seed).start()
        name = run.task.headline
        rounds, values, losses, totals, tails = [], [], [], [], []
        total, failure = 0, None
        try:
            for report in run:
                total += report.bytes_up + report.bytes_down
                if (value := report.headline(name)) is not None:
                    rounds.append(report.round)
                    values.append(value)
                    losses.append(report.train_loss if report.train_loss is not None else math.nan)
                    totals.append(total)
                    tails.append({client: scores[name] for client, scores in report.evaluation.items()})
                yield method, seed
        except Diverged as error:
            failure = str(error)
        if not values and failure is None:
            failure = f"{name} was not defined in any round: it needs test examples (data.test_share, central_share)."
        clients = _tail_means(tails[-TAIL:])
        yield Trial(method, seed, tuple(rounds), tuple(values), tuple(losses), tuple(totals), clients, failure)
    finally:
        torch.set_num_threads(threads)


def _tail_means(tails: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Each client's mean over the last rounds; a client for which the metric is not defined is left out."""
    means = {client: statistics.fmean(tail[client] for tail in tails) for client in (tails[-1] if tails else {})}
    return {client: mean for client, mean in means.items() if not math.isnan(mean)}


def gather(name: str, runfiles: Mapping[str, RunFile], trials: Sequence[Trial], target: float | None) -> Comparison:
    """The comparison of finished trials.  Without a target, it is 95 % of the best method's mean final value.

    Raises:
        HeadwayError: if no trial finished.
    """
    first = next(iter(runfiles.values()))
    experiment = first.build()
    metric = experiment.task.headline
    lower = metric in LOWER_IS_BETTER
    finals = [_mean(t.final for t in trials if t.method == method) for method in runfiles]
    known = [value for value in finals if not math.isnan(value)] or [t.final for t in trials if not t.failure]
    if not known:
        failed = next(t for t in trials if t.failure)
        raise HeadwayError(
            f"no run finished, so nothing can be compared; {failed.method} stopped like this: {failed.failure}"
        )
    best = (min if lower else max)(known)
    stated = target is not None
    if target is None:
        target = best / 0.95 if lower else best * 0.95
    partition = first.sections.data.partition
    how = described(partition, first.sections.data.shift)
    description = ", ".join([experiment.data.name, f"{len(experiment.data.clients)} clients", *how])
    seeds = len({t.seed for t in trials})
    return Comparison(
        name,
        metric,
        experiment.data.central is not None,
        tuple(trials),
        tuple(runfiles),
        seeds,
        target,
        stated,
        description,
        drawn=partition is not None or first.sections.data.source == "synthetic",
    )


def _median(values: Iterable[float]) -> float | None:
    """The median over seeds, where a seed that never got there counts as infinitely late."""
    known = list(values)
    middle = statistics.median_low(known) if known else math.inf
    return middle if math.isfinite(middle) else None


def _listed(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"

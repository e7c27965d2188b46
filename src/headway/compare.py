"""Comparing methods: the same data, partitions and initial models, over several seeds."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from headway.core.errors import HeadwayError
from headway.data import described
from headway.run import LOWER_IS_BETTER
from headway.runfile import RunFile
from headway.trials import TAIL, Trial


@dataclass(frozen=True)
class Tuned:
    """How a method's numbers were chosen: of `tried` settings `chosen` did best, by `score` on held-out examples."""

    tried: int
    chosen: Mapping[str, object]
    score: float


@dataclass(frozen=True)
class Summary:
    """What the trials of one method say together.

    at_budget: the mean value at equal bytes.  difference, difference_half: to the first method, paired by seed, with
    half the width of its 95 % interval; NaN for the first method itself, and where it cannot be had.
    """

    method: str
    mean: float
    half_width: float
    spread: float
    worst: float
    rounds_to_target: float | None
    bytes_to_target: float | None
    bytes_a_round: float
    at_budget: float
    failures: int
    difference: float = math.nan
    difference_half: float = math.nan


@dataclass(frozen=True)
class Comparison:
    """All trials, and what follows from them.

    target: the value whose rounds and bytes are counted.  budget: the bytes at which methods are compared at equal
    cost.  drawn: whether each seed draws the clients' data anew.  bounds: the trials of each client alone and of
    pooled training, where they were run.  tuned: how methods got their numbers; one that is not named is untuned.
    """

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
    budget: float = math.inf
    bounds: Mapping[str, tuple[Trial, ...]] = field(default_factory=dict)
    tuned: Mapping[str, Tuned] = field(default_factory=dict)

    @property
    def lower_is_better(self) -> bool:
        """Whether a small value is a good one."""
        return self.metric in LOWER_IS_BETTER

    @property
    def unequal_bytes(self) -> bool:
        """Whether some method sends more in a round than another, so that equal bytes are another question."""
        spent = [summary.bytes_a_round for summary in self.summaries() if not math.isnan(summary.bytes_a_round)]
        return bool(spent) and (
            max(spent) > 1.01 * min(spent) or self.budget < max(t.bytes_total[-1] for t in self._whole)
        )

    @property
    def _whole(self) -> list[Trial]:
        return [trial for trial in self.trials if not trial.failure]

    def of(self, method: str) -> list[Trial]:
        """The trials of a method, by seed."""
        return sorted((t for t in self.trials if t.method == method), key=lambda t: t.seed)

    def summaries(self) -> list[Summary]:
        """One line per method, in the order asked for."""
        return [self._summary(method) for method in self.methods]

    def ranked(self) -> list[Summary]:
        """The methods of which every seed finished, the best first."""
        return self._sorted(lambda summary: summary.mean)

    def sentence(self) -> str:
        """What the reader is looking at, in one sentence that says no more than the numbers do."""
        ranked = self.ranked()
        if not ranked:
            return "Every method failed at some seed, so none can be called better."
        where = "on the central test set" if self.central else "over the clients' own test parts"
        when = f"over rounds {self._tail[0]} to {self._tail[1]}"
        head = f"Mean {self.metric} {where}, {when}: "
        return head + self._verdict([(s.method, s.mean) for s in ranked], lambda trial: trial.final)

    def budget_sentence(self) -> str | None:
        """The same at equal bytes; None where that is the same question."""
        ranked = [s for s in self._sorted(lambda summary: summary.at_budget) if not math.isnan(s.at_budget)]
        if not self.unequal_bytes:
            return None
        if not ranked:
            return "no method can send a round."
        return self._verdict([(s.method, s.at_budget) for s in ranked], lambda trial: trial.within(self.budget))

    def differs(self, one: str, other: str, value: Callable[[Trial], float] = lambda trial: trial.final) -> bool:
        """Whether the paired difference between two methods has an interval without zero.

        The level is 95 % for the best method against all others together (Bonferroni).
        """
        pairs = [value(a) - value(b) for a, b in zip(self.of(one), self.of(other), strict=True)]
        mean, half = interval(pairs, 1 - 0.05 / max(len(self.methods) - 1, 1))
        return math.isfinite(half) and abs(mean) > half

    def gap_sentence(self) -> str | None:
        """How much of the way from each client alone to pooled training the best method goes."""
        ranked = self.ranked()
        if not self.bounds or not ranked:
            return None
        alone, pooled = (_mean(t.final for t in self.bounds[name]) for name in ("alone", "pooled"))
        best = ranked[0]
        head = f"Each client alone reaches {alone:.4f}, pooled training {pooled:.4f}, {best.method} {best.mean:.4f}"
        gain = (alone - pooled) if self.lower_is_better else (pooled - alone)
        if not gain > 0:
            return f"{head}: pooling the data brings nothing here, so there is no gap to close."
        share = (best.mean - alone) / (pooled - alone)
        if share > 1:
            return f"{head}: beyond what pooling the data would bring."
        if share < 0:
            return f"{head}: the federation is worse than none."
        return f"{head}: {share * 100:.0f} % of the way from the first to the second."

    def _verdict(self, ranked: Sequence[tuple[str, float]], value: Callable[[Trial], float]) -> str:
        """Who is best by a value of trials, by how sure a margin."""
        word = "lowest" if self.lower_is_better else "highest"
        (best, mean), others = ranked[0], [method for method, _ in ranked[1:]]
        head = f"{best} is {word} with {mean:.4f}"
        if self.seeds == 1:
            return f"{head}, from one seed, which says nothing of chance: use --seeds 5 or more."
        _, half = interval([value(trial) for trial in self.of(best)])
        head += f" (95 % interval {mean - half:.4f} to {mean + half:.4f}, {self.seeds} seeds)"
        if not others:
            return f"{head}."
        alike = [method for method in others if not self.differs(best, method, value)]
        if not alike:
            sure = f"95 % for all {len(others)} together" if len(others) > 1 else "95 %"
            return f"{head}, ahead of every other method (paired by seed, at {sure})."
        ahead = [method for method in others if method not in alike]
        told = f"; paired by seed it is ahead of {_listed(ahead)}, but" if ahead else ", but"
        return f"{head}{told} {self.seeds} seeds do not tell it apart from {_listed(alike)}."

    def _sorted(self, value: Callable[[Summary], float]) -> list[Summary]:
        whole = [s for s in self.summaries() if not s.failures]
        return sorted(whole, key=value, reverse=not self.lower_is_better)

    @property
    def _tail(self) -> tuple[int, int]:
        """The first and the last of the rounds that final values are the mean of."""
        rounds = self._whole[0].rounds
        return rounds[-TAIL:][0], rounds[-1]

    def _summary(self, method: str) -> Summary:
        """The seeds together.  If one of them failed, no value is given: the others would flatter the method."""
        trials = self.of(method)
        failures = sum(t.failure is not None for t in trials)
        whole = [] if failures else trials
        mean, half = interval([t.final for t in whole])
        reached = [t.reached(self.target, self.lower_is_better) for t in whole]
        rounds, spent = (_median(each[place] if each is not None else math.inf for each in reached) for place in (0, 1))
        difference, difference_half = self._ahead_of_first(method)
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
            _mean(t.within(self.budget) for t in whole),
            failures,
            difference,
            difference_half,
        )

    def _ahead_of_first(self, method: str) -> tuple[float, float]:
        """The paired difference of final values to the first method's."""
        first, mine = self.of(self.methods[0]), self.of(method)
        alike = [t.seed for t in first] == [t.seed for t in mine]
        if method == self.methods[0] or not alike or any(t.failure for t in (*first, *mine)):
            return math.nan, math.nan
        return interval([a.final - b.final for a, b in zip(mine, first, strict=True)])


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


def gather(
    name: str,
    runfiles: Mapping[str, RunFile],
    trials: Sequence[Trial],
    target: float | None,
    budget: float | None = None,
    *,
    bounds: Mapping[str, tuple[Trial, ...]] | None = None,
    tuned: Mapping[str, Tuned] | None = None,
) -> Comparison:
    """The comparison of finished trials.

    Without a target, it is 95 % of the best method's mean final value; without a budget, it is what the method
    that sends least has sent at the end.

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
    partition = first.sections.data.partition
    how = described(partition, first.sections.data.shift)
    description = ", ".join([experiment.data.name, f"{len(experiment.data.clients)} clients", *how])
    return Comparison(
        name,
        metric,
        experiment.data.central is not None,
        tuple(trials),
        tuple(runfiles),
        len({t.seed for t in trials}),
        target=(best / 0.95 if lower else best * 0.95) if target is None else target,
        stated_target=target is not None,
        description=description,
        drawn=partition is not None or first.sections.data.source == "synthetic",
        budget=min(t.bytes_total[-1] for t in trials if not t.failure) if budget is None else budget,
        bounds=bounds or {},
        tuned=tuned or {},
    )


def _median(values: Iterable[float]) -> float | None:
    """The median over seeds, where a seed that never got there counts as infinitely late."""
    known = list(values)
    middle = statistics.median_low(known) if known else math.inf
    return middle if math.isfinite(middle) else None


def _listed(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"

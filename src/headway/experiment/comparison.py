"""Comparing methods: the same data, partitions and initial models, over several seeds."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from headway.core.errors import ConfigError, HeadwayError
from headway.data import described
from headway.experiment.best_model import LOWER_IS_BETTER
from headway.experiment.runfile import RunFile
from headway.experiment.trials import Trial, tail_of
from headway.model.metrics import measured_on
from headway.numerics.units import time_text
from headway.observe.text import listed


@dataclass(frozen=True)
class Tuned:
    """The choice of a method's numbers: of `tried` settings `chosen` did best, by `score` on held-out examples."""

    tried: int
    chosen: Mapping[str, object]
    score: float


@dataclass(frozen=True)
class Summary:
    """The figures of one method over its trials.

    at_budget, at_time: the mean value at equal bytes, and at equal simulated time; seconds are those of a simulated
    clock, and none where a run has none.  difference, difference_half: to the first method, paired by seed, with
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
    seconds_to_target: float | None = None
    seconds_a_round: float = math.nan
    at_time: float = math.nan


@dataclass(frozen=True)
class Comparison:
    """All trials, and what follows from them.

    target: the value whose rounds, bytes and seconds are counted.  budget: the bytes at which methods are compared at
    equal cost; time_budget: the seconds of the simulated clock.  drawn: whether each seed draws the clients' data anew.
    bounds: the trials of each client alone and of pooled training, where they were run.  tuned: how methods got their
    numbers; one that is not named is untuned.
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
    time_budget: float = math.inf

    @property
    def lower_is_better(self) -> bool:
        """Whether a small value is a good one."""
        return self.metric in LOWER_IS_BETTER

    @property
    def unequal_bytes(self) -> bool:
        """Whether some method sends more in a round than another, so that equal bytes are another question."""
        a_round = [summary.bytes_a_round for summary in self.summaries()]
        return _unequal(a_round, self.budget, [t.bytes_total[-1] for t in self._whole])

    @property
    def clocked(self) -> bool:
        """Whether all runs have simulated time."""
        return bool(self._whole) and all(trial.simulated_s for trial in self._whole)

    @property
    def unequal_time(self) -> bool:
        """Whether some method's rounds take longer than another's, so that equal time is another question."""
        a_round = [summary.seconds_a_round for summary in self.summaries()]
        return self.clocked and _unequal(a_round, self.time_budget, [t.simulated_s[-1] for t in self._whole])

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
        """The result in one sentence that claims no more than the numbers show."""
        ranked = self.ranked()
        if not ranked:
            return "Every method failed at some seed, so none can be called better."
        where = measured_on(self.metric, self.central)
        when = f"over {tail_of(trial.rounds for trial in self._whole)}"
        head = f"Mean {self.metric} {where}, {when}: "
        return head + self._verdict([(s.method, s.mean) for s in ranked], lambda trial: trial.final)

    def failure_sentences(self) -> list[str]:
        """The methods that did not finish at every seed, and why the first of their seeds did not."""
        sentences = []
        for method in self.methods:
            failed = [trial for trial in self.of(method) if trial.failure]
            if failed:
                count = f" at {len(failed)} of {len(self.of(method))} seeds" if len(self.of(method)) > 1 else ""
                sentences.append(f"{method} failed{count}, and is not ranked: {failed[0].failure}")
        return sentences

    def budget_sentence(self) -> str | None:
        """The same at equal bytes; None where that is the same question."""
        if not self.unequal_bytes:
            return None
        means = {summary.method: summary.at_budget for summary in self.ranked()}
        return self._at_equal(means, self.budget, lambda trial: trial.bytes_total, "send a round")

    def time_sentence(self) -> str | None:
        """The same at equal simulated time; None where that is the same question, or runs have no clock."""
        if not self.unequal_time:
            return None
        means = {summary.method: summary.at_time for summary in self.ranked()}
        return self._at_equal(means, self.time_budget, lambda trial: trial.simulated_s, "finish a round")

    def differs(self, one: str, other: str, value: Callable[[Trial], float] = lambda trial: trial.final) -> bool:
        """Whether the paired difference between two methods has an interval without zero.

        The level is 95 % for the best method against all others together (Bonferroni).
        """
        pairs = [value(a) - value(b) for a, b in zip(self.of(one), self.of(other), strict=True)]
        mean, half = interval(pairs, 1 - 0.05 / max(len(self.methods) - 1, 1))
        # seeds that all differ by the same, as few test examples make them, leave the chance unknown
        return math.isfinite(half) and abs(mean) > half > 1e-9 * abs(mean)

    def gap_sentence(self) -> str | None:
        """The share of the gap between each client alone and pooled training that the best method closes."""
        ranked = self.ranked()
        if not self.bounds or not ranked:
            return None
        alone, pooled = (_mean(t.final for t in self.bounds[name]) for name in ("alone", "pooled"))
        best = ranked[0]
        if math.isnan(alone) or math.isnan(pooled):
            return None
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

    def _at_equal(
        self, means: Mapping[str, float], budget: float, spent: Callable[[Trial], Sequence[float]], what: str
    ) -> str:
        """The best method within a budget, those that cannot do `what` within it, and those that do not use it up."""
        known = {method: mean for method, mean in means.items() if not math.isnan(mean)}
        if not known:
            return f"no method can {what}."
        ranked = sorted(known.items(), key=lambda each: each[1], reverse=not self.lower_is_better)
        unable = [method for method in means if method not in known]
        early = [m for m in known if any(spent(t)[-1] * (1 + 1 / t.rounds[-1]) < budget for t in self.of(m))]
        return (
            self._verdict(ranked, lambda trial: trial.within(budget, spent(trial)))
            + (f" {listed(unable)} cannot {what} in it." if unable else "")
            + (f" The runs of {listed(early)} end a round or more before it." if early else "")
        )

    def _verdict(self, ranked: Sequence[tuple[str, float]], value: Callable[[Trial], float]) -> str:
        """The best method by a value of trials, and how certain its margin is."""
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
        lead = f"; paired by seed it is ahead of {listed(ahead)}, but" if ahead else ", but"
        return f"{head}{lead} {self.seeds} seeds do not tell it apart from {listed(alike)}."

    def _sorted(self, value: Callable[[Summary], float]) -> list[Summary]:
        whole = [s for s in self.summaries() if not s.failures]
        return sorted(whole, key=value, reverse=not self.lower_is_better)

    def _summary(self, method: str) -> Summary:
        """The seeds together.  If one of them failed, no value is given: the others would flatter the method."""
        trials = self.of(method)
        failures = sum(t.failure is not None for t in trials)
        whole = [] if failures else trials
        mean, half = interval([t.final for t in whole])
        difference, difference_half = self._ahead_of_first(method)
        timed = whole if self.clocked else []
        worst = [(max if self.lower_is_better else min)(t.clients.values()) for t in whole if t.clients]
        return Summary(
            method,
            mean,
            half,
            _mean(t.spread for t in whole),
            _mean(worst),
            self._to_target(whole, lambda trial: trial.rounds),
            self._to_target(whole, lambda trial: trial.bytes_total),
            _mean(t.bytes_total[-1] / t.rounds[-1] for t in trials if t.rounds),
            _mean(t.within(self.budget, t.bytes_total) for t in whole),
            failures,
            difference,
            difference_half,
            self._to_target(timed, lambda trial: trial.simulated_s),
            _mean(t.simulated_s[-1] / t.rounds[-1] for t in trials if t.simulated_s),
            _mean(t.within(self.time_budget, t.simulated_s) for t in timed),
        )

    def _to_target(self, whole: Sequence[Trial], spent: Callable[[Trial], Sequence[float]]) -> float | None:
        """The median over seeds of what was spent until the target, where most of them reached it."""
        return _median(trial.reached(self.target, self.lower_is_better, spent(trial)) for trial in whole)

    def _ahead_of_first(self, method: str) -> tuple[float, float]:
        """The paired difference of final values to the first method's."""
        first, mine = self.of(self.methods[0]), self.of(method)
        alike = [t.seed for t in first] == [t.seed for t in mine]
        if method == self.methods[0] or not alike or any(t.failure for t in (*first, *mine)):
            return math.nan, math.nan
        return interval([a.final - b.final for a, b in zip(mine, first, strict=True)])


def _unequal(a_round: Sequence[float], budget: float, ends: Sequence[float]) -> bool:
    """Whether methods spend differently in a round, or a budget cuts a run short."""
    spent = [each for each in a_round if not math.isnan(each)]
    return bool(spent) and (max(spent) > 1.01 * min(spent) or budget < max(ends, default=0.0))


def _mean(values: Iterable[float]) -> float:
    """The mean; NaN of nothing."""
    known = list(values)
    return statistics.fmean(known) if known else math.nan


def interval(values: Sequence[float], level: float = 0.95) -> tuple[float, float]:
    """The mean and the half width of its interval by Student's t; NaN where there are too few values, or no numbers.

    >>> mean, half = interval([1.0, 2.0, 3.0])
    >>> round(mean, 3), round(half, 3)
    (2.0, 2.484)
    """
    if len(values) < 2 or not all(map(math.isfinite, values)):
        return (values[0] if len(values) == 1 else math.nan), math.nan
    from scipy import stats

    quantile = float(stats.t.ppf((1 + level) / 2, len(values) - 1))
    return statistics.fmean(values), quantile * statistics.stdev(values) / math.sqrt(len(values))


@dataclass(frozen=True)
class Limits:
    """The points at which methods are compared, `None` for those that follow from the trials.

    target: a value whose rounds and bytes are counted; else 95 % of the best method's mean final value.
    budget: bytes; else what the method that sends least has sent at the end.
    time_budget: simulated seconds; else the time at which the first run ends.
    """

    target: float | None = None
    budget: float | None = None
    time_budget: float | None = None


def gather(
    name: str,
    runfiles: Mapping[str, RunFile],
    trials: Sequence[Trial],
    limits: Limits = Limits(),
    *,
    bounds: Mapping[str, tuple[Trial, ...]] | None = None,
    tuned: Mapping[str, Tuned] | None = None,
    metric: str | None = None,
    refused: Sequence[str] = (),
) -> Comparison:
    """The comparison of finished trials.

    metric: the metric of the values; `None` for the task's first.  refused: methods that have trials and no run file.

    Raises:
        HeadwayError: if no trial finished.
        ConfigError: if a time budget is stated in which some run cannot finish a round.
    """
    target, budget, time_budget = limits.target, limits.budget, limits.time_budget
    if time_budget is not None:
        _check_time(trials, time_budget)
    first = next(iter(runfiles.values()))
    experiment = first.build()
    metric = metric or experiment.task.headline
    lower = metric in LOWER_IS_BETTER
    methods = (*runfiles, *refused)
    finals = [_mean(t.final for t in trials if t.method == method) for method in methods]
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
        methods,
        len({t.seed for t in trials}),
        target=(best / 0.95 if lower else best * 0.95) if target is None else target,
        stated_target=target is not None,
        description=description,
        drawn=partition is not None or first.sections.data.source == "synthetic",
        budget=least_spent(t.bytes_total for t in trials if not t.failure) if budget is None else budget,
        time_budget=least_spent(t.simulated_s for t in trials if not t.failure) if time_budget is None else time_budget,
        bounds=bounds or {},
        tuned=tuned or {},
    )


def least_spent(totals: Iterable[Sequence[float]]) -> float:
    """The smallest amount that a run has spent at its end; infinite if no client counted."""
    return min((total[-1] for total in totals if total), default=math.inf)


def _check_time(trials: Sequence[Trial], budget: float) -> None:
    """Refuses a time in which some run does not get as far as its first evaluation."""
    late = [t for t in trials if not t.failure and t.simulated_s[0] > budget]
    if late:
        first = max(late, key=lambda trial: trial.simulated_s[0])
        raise ConfigError(
            f"{first.method} cannot finish a round in {time_text(budget)} of simulated time: at seed {first.seed} "
            f"its first value comes after {time_text(first.simulated_s[0])}. Give a longer --budget-time; the "
            "runs are kept, and with --out and their folder none is trained again."
        )


def _median(values: Iterable[float]) -> float | None:
    """The median over seeds, where a seed that never got there counts as infinitely late."""
    known = list(values)
    middle = statistics.median_low(known) if known else math.inf
    return middle if math.isfinite(middle) else None

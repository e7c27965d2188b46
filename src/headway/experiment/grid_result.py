"""The result of a grid of rules and attacks: the worst case of a rule, its cost, and the sentence that follows."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from headway.experiment.attack_grid_section import MEAN, NO_ATTACK
from headway.experiment.trials import Trial
from headway.model.metrics import POOLED

SHARES = ("accuracy", "balanced_accuracy", "intersection_over_union", "auroc")  # shown in percent


@dataclass(frozen=True)
class Cell:
    """A run of the grid: a rule under an attack, in a setting: a way to divide the data, and a kind of clients."""

    rule: str
    attack: str
    setting: str

    @property
    def method(self) -> str:
        """The name of its trials."""
        return f"{self.rule} under {self.attack}, {self.setting}"


@dataclass(frozen=True)
class GridFacts:
    """The facts of a grid that its values do not hold.

    metric: what was measured.  where: on which examples.  attackers: their names.  clients: how many there are in all.
    from_round: the first round of the attack, from 1.  partitions, kinds: of the data and of clients, whose pairs are
    the settings.  left_out: rules and attacks that were not run, and why.
    """

    name: str
    data: str
    metric: str
    where: str
    attackers: tuple[str, ...]
    clients: int
    from_round: int
    knows: str
    rounds: int
    seeds: int
    partitions: tuple[str, ...]
    kinds: tuple[str, ...] = ("",)
    left_out: tuple[str, ...] = ()

    @property
    def measure(self) -> str:
        """The metric's name in words."""
        return self.metric.replace("_", " ")

    @property
    def known(self) -> str:
        """The updates that the attackers know."""
        return "all updates" if self.knows == "everyone" else "their own updates"

    def text(self, value: float) -> str:
        """A value of the metric: of one that is a share, in percent."""
        if math.isnan(value):
            return ""
        return f"{100 * value:.1f} %" if self._is_share else f"{value:.3f}"

    def difference(self, value: float) -> str:
        """A difference of the metric, without its sign."""
        if self._is_share:
            return f"{100 * abs(value):.1f} percentage points of {self.measure}"
        return f"{abs(value):.3f} of {self.measure}"

    @property
    def _is_share(self) -> bool:
        return self.metric.removeprefix(POOLED) in SHARES


def setting_name(partition: str, kind: str) -> str:
    """The name of a setting.

    >>> setting_name("iid", ""), setting_name("iid", "ECGR")
    ('iid', 'iid, ECGR clients')
    """
    return f"{partition}, {kind} clients" if kind else partition


@dataclass(frozen=True)
class GridResult:
    """The values of a grid: of each cell the mean over the seeds; of a run that diverged, the worst there is: 0, or
    the lowest of all runs, where larger is better, and infinity where it is not.

    by_seed: the value of each seed.  higher: whether larger values are better.  failures: of cells, why a run has none.
    backdoors: of cells, the success rate of each backdoor.  seconds: of cells, those of a round.
    """

    rules: tuple[str, ...]
    attacks: tuple[str, ...]
    settings: tuple[str, ...]
    values: Mapping[Cell, float]
    failures: Mapping[Cell, str]
    higher: bool = True
    by_seed: Mapping[Cell, Mapping[int, float]] = field(default_factory=dict)
    backdoors: Mapping[Cell, Mapping[str, float]] = field(default_factory=dict)
    seconds: Mapping[Cell, float] = field(default_factory=dict)

    @classmethod
    def of(cls, cells: Sequence[Cell], trials: Iterable[Trial], higher: bool) -> GridResult:
        """The result of these trials."""
        by_method: dict[str, list[Trial]] = {}
        for trial in trials:
            by_method.setdefault(trial.method, []).append(trial)
        finals = [0.0, *(trial.final for found in by_method.values() for trial in found if not trial.failure)]
        worst = min(finals) if higher else math.inf
        own = {cell: by_method[cell.method] for cell in cells if cell.method in by_method}
        by_seed = {
            cell: {trial.seed: worst if trial.failure else trial.final for trial in found}
            for cell, found in own.items()
        }
        failed = {cell: [trial.failure for trial in found if trial.failure] for cell, found in own.items()}
        names = [tuple(dict.fromkeys(getattr(cell, part) for cell in cells)) for part in ("rule", "attack", "setting")]
        return cls(
            names[0],
            names[1],
            names[2],
            {cell: statistics.fmean(found.values()) for cell, found in by_seed.items()},
            {cell: reasons[0] for cell, reasons in failed.items() if reasons},
            higher,
            by_seed,
            {cell: _mean_figures(found) for cell, found in own.items()},
            {cell: _mean(trial.seconds for trial in found) for cell, found in own.items()},
        )

    def value(self, rule: str, attack: str, setting: str) -> float:
        """The value of a cell; NaN where there is none."""
        return self.values.get(Cell(rule, attack, setting), math.nan)

    def worst(self, rule: str, setting: str | None = None) -> tuple[float, str]:
        """The worst value of a rule over the attacks, and which attack that is; over all settings, if none is given."""
        found = [
            (self.value(rule, attack, place), attack)
            for attack in self.attacks
            for place in ([setting] if setting else self.settings)
        ]
        known = [pair for pair in found if not math.isnan(pair[0])]
        if not known:
            return math.nan, ""
        return min(known) if self.higher else max(known)

    def diverged(self, rule: str, attack: str | None = None) -> bool:
        """Whether a run of a rule, under an attack if one is given, came to no value."""
        return any(cell.rule == rule and attack in (None, cell.attack) for cell in self.failures)

    def is_whole(self, rule: str) -> bool:
        """Whether a rule was run in every cell, without which its worst case is not known."""
        return all(Cell(rule, attack, place) in self.values for attack in self.attacks for place in self.settings)

    def best_rule(self) -> str:
        """The rule whose worst value is best, of those that were run in every cell; of equal ones the first.  One of
        which a run diverged comes after all others."""
        known = [rule for rule in self.rules if self.is_whole(rule)]
        sign = -1 if self.higher else 1
        return min(known, key=lambda rule: (self.diverged(rule), sign * self.worst(rule)[0])) if known else ""

    def costs(self, rule: str) -> list[float]:
        """How much worse a rule is than the mean where nobody attacks, in each setting; NaN where one was not run."""
        sign = 1 if self.higher else -1
        return [sign * (self.value(MEAN, NO_ATTACK, p) - self.value(rule, NO_ATTACK, p)) for p in self.settings]

    def success(self, rule: str, attack: str, setting: str, backdoor: str) -> float:
        """The success rate of a backdoor in the models of a cell, as a share; NaN where it was not measured."""
        return self.backdoors.get(Cell(rule, attack, setting), {}).get(backdoor, math.nan)

    def seconds_of(self, rule: str) -> float:
        """The seconds of a round, on average where nobody attacks; over all attacks where that was not run."""
        quiet = [self.seconds.get(Cell(rule, NO_ATTACK, place), math.nan) for place in self.settings]
        return _mean(quiet if not math.isnan(_mean(quiet)) else (s for c, s in self.seconds.items() if c.rule == rule))


def _mean(values: Iterable[float]) -> float:
    known = [value for value in values if not math.isnan(value)]
    return statistics.fmean(known) if known else math.nan


def _mean_figures(trials: Sequence[Trial]) -> dict[str, float]:
    names = dict.fromkeys(name for trial in trials for name in trial.figures)
    return {name: _mean(trial.figures.get(name, math.nan) for trial in trials) for name in names}


def grid_sentence(result: GridResult, facts: GridFacts) -> str:
    """Which rule to switch on, and what it costs where nobody attacks, in one sentence."""
    rule = result.best_rule()
    if not rule:
        return "No rule of the grid came to a value under every attack."
    worst, attack = result.worst(rule)
    if result.diverged(rule):
        return f"No rule of the grid withstands these attacks: with each of them a run diverges ({rule}: {attack})."
    bound = "at least" if result.higher else "at most"
    case = "with nobody attacking" if attack == NO_ATTACK else attack
    number = f"{len(facts.attackers)} of {facts.clients} clients"
    words = f"with {number} attacking, the {facts.measure} is {bound} {facts.text(worst)} in every case tried here"
    if rule == MEAN:
        return f"Stay with averaging: {words} (worst: {case}), and no rule does better."
    words += f" (worst: {case})"
    averaging, its_attack = result.worst(MEAN)
    if not math.isnan(averaging):
        fallen = f"falls to {facts.text(averaging)}" if result.higher else f"rises to {facts.text(averaging)}"
        words += f", where averaging {'diverges' if result.diverged(MEAN, its_attack) else fallen} ({its_attack})"
    return f"Switch on {rule}: {words}, and {_price(result.costs(rule), facts)} when nobody attacks."


def _price(costs: Sequence[float], facts: GridFacts) -> str:
    """The cost of a rule in words, in the setting where it is highest."""
    if any(map(math.isnan, costs)):
        return "it was not measured what it costs"
    most = max(costs)
    if most <= 0:
        return "it costs nothing here"
    return f"it costs {'up to ' if len(costs) > 1 else ''}{facts.difference(most)}"


def backdoor_sentence(result: GridResult, facts: GridFacts) -> str:
    """How often a backdoor succeeds with averaging and with the rule of the sentence; empty where none was run."""
    rule = result.best_rule()
    parts = []
    for attack in result.attacks:
        rates = [_mean(result.success(each, attack, p, attack) for p in result.settings) for each in (MEAN, rule)]
        if not math.isnan(rates[1]) and rule != MEAN:
            before = "" if math.isnan(rates[0]) else f"{100 * rates[0]:.0f} % of the time with averaging and "
            parts.append(f"{attack} succeeds {before}{100 * rates[1]:.0f} % of the time with {rule}")
    return f"Planted in the model, {'; '.join(parts)}." if parts else ""

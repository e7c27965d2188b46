"""A grid of rules, attacks and partitions: the runs that show what each rule withstands, and what it costs."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from headway import stages
from headway.attacks import Attack
from headway.core.chain import Chain
from headway.core.errors import ConfigError, nearest
from headway.core.stage import Aggregator
from headway.experiment.attack_section import AttackSection
from headway.experiment.runfile import RunFile
from headway.experiment.trials import Trial

MEAN, NO_ATTACK, OWN = "Mean", "none", "as in the file"
RULES = (
    *(MEAN, "Median", "TrimmedMean", "Krum", "MultiKrum", "GeometricMedian", "CentredClipping"),
    *("NNM+Median", "NNM+Krum", "NNM+GeometricMedian"),
)
BEFORE = tuple(name for name in stages.__all__ if "then" in getattr(getattr(stages, name), "__dataclass_fields__", ()))
ATTACKS = (NO_ATTACK, "SignFlip", "LabelFlip", "ALIE", "InnerProduct", "FallOfEmpires", "Mimic")


@dataclass(frozen=True)
class Cell:
    """A run of the grid: a rule under an attack, with data divided in some way."""

    rule: str
    attack: str
    partition: str

    @property
    def method(self) -> str:
        """The name of its trials."""
        return f"{self.rule} under {self.attack}, {self.partition}"


@dataclass(frozen=True)
class GridResult:
    """The values of a grid: of each cell the mean over the seeds; of a run that diverged, the worst value there is.

    higher: whether larger values are better.  failures: of cells, why a run has none.
    """

    rules: tuple[str, ...]
    attacks: tuple[str, ...]
    partitions: tuple[str, ...]
    values: Mapping[Cell, float]
    failures: Mapping[Cell, str]
    higher: bool = True

    @classmethod
    def of(cls, cells: Sequence[Cell], trials: Iterable[Trial], higher: bool) -> GridResult:
        """The result of these trials."""
        by_method: dict[str, list[Trial]] = {}
        for trial in trials:
            by_method.setdefault(trial.method, []).append(trial)
        worst = 0.0 if higher else math.inf
        values, failures = {}, {}
        for cell in cells:
            own = by_method.get(cell.method, [])
            if failed := [trial.failure for trial in own if trial.failure]:
                failures[cell] = failed[0]
            if own:
                values[cell] = statistics.fmean(worst if trial.failure else trial.final for trial in own)
        names = [
            tuple(dict.fromkeys(getattr(cell, part) for cell in cells)) for part in ("rule", "attack", "partition")
        ]
        return cls(names[0], names[1], names[2], values, failures, higher)

    def value(self, rule: str, attack: str, partition: str) -> float:
        """The value of a cell; NaN where there is none."""
        return self.values.get(Cell(rule, attack, partition), math.nan)

    def worst(self, rule: str, partition: str | None = None) -> tuple[float, str]:
        """The worst value of a rule over the attacks, and which attack that is; over all partitions, if none is
        given."""
        found = [
            (self.value(rule, attack, place), attack)
            for attack in self.attacks
            for place in ([partition] if partition else self.partitions)
        ]
        known = [pair for pair in found if not math.isnan(pair[0])]
        if not known:
            return math.nan, ""
        return min(known) if self.higher else max(known)

    def best_rule(self) -> str:
        """The rule whose worst value is best; of equal ones the first."""
        known = [rule for rule in self.rules if not math.isnan(self.worst(rule)[0])]
        sign = -1 if self.higher else 1
        return min(known, key=lambda rule: sign * self.worst(rule)[0]) if known else ""

    def cost(self, rule: str) -> float:
        """How much worse a rule is than the mean where nobody attacks, on average over the partitions; NaN where one
        of them was not run."""
        lost = [self.value(MEAN, NO_ATTACK, p) - self.value(rule, NO_ATTACK, p) for p in self.partitions]
        return statistics.fmean(lost) if self.higher else -statistics.fmean(lost)

    def sentence(self, metric: str) -> str:
        """Which rule to switch on, and what it costs where nobody attacks, in one or two sentences."""
        rule = self.best_rule()
        if not rule:
            return "No run of the grid came to a value."
        value, attack = self.worst(rule)
        words = f"Switch on {rule}: in its worst case here ({attack}) the {metric} is {value:.3f}"
        mean_value, mean_attack = self.worst(MEAN)
        if rule == MEAN:
            return f"Stay with the mean: {words.removeprefix('Switch on Mean: ')}, and no other rule does better."
        if not math.isnan(mean_value):
            words += f", where the mean falls to {mean_value:.3f} ({mean_attack})"
        lost = self.cost(rule)
        if math.isnan(lost):
            return f"{words}."
        if lost <= 0:
            return f"{words}. Where nobody attacks it costs nothing here."
        return f"{words}. Where nobody attacks it costs {lost:.3f} of {metric}."


def grid_cells(rules: Sequence[str], attacks: Sequence[str], partitions: Iterable[str]) -> list[Cell]:
    """The cells, in the order in which they are run."""
    return [Cell(rule, attack, place) for place in partitions for rule in rules for attack in attacks]


def grid_file(runfile: RunFile, cell: Cell, partition: Mapping[str, Any] | None, count: int, knows: str) -> RunFile:
    """The run file of a cell: the rule in the place of the file's aggregator, the attack, the partition.

    count: how many clients attack, also the f of the rule.

    Raises:
        ConfigError, ChainRefused: for an unknown rule or attack, or where the rule does not fit the chain.
    """
    chain, algorithm = runfile.algorithm.chain, runfile.algorithm
    if cell.rule != MEAN:
        rule = rule_of(cell.rule, count)
        links = tuple(rule if isinstance(stage, Aggregator) else stage for stage in chain.stages)
        algorithm = replace(algorithm, chain=Chain(links))
    changes: dict[str, Any] = {"attack": None}
    if cell.attack != NO_ATTACK:
        Attack.registry.get(cell.attack)
        changes["attack"] = AttackSection.model_validate({"attack": cell.attack, "clients": count, "knows": knows})
    if partition is not None:
        changes["data"] = runfile.sections.data.model_copy(update={"partition": dict(partition)})
    return replace(runfile, sections=runfile.sections.model_copy(update=changes), algorithm=algorithm)


def rule_of(name: str, f: int) -> Aggregator:
    """The rule of a name for f attackers: a class, or a pre-aggregation and a rule with a plus between them.

    >>> rule_of("NNM+Krum", 2)
    NNM(f=2, then=Krum(f=2))

    Raises:
        ConfigError: if there is no such rule.
    """
    first, _, rest = name.partition("+")
    kind = getattr(stages, first, None)
    if not (isinstance(kind, type) and issubclass(kind, Aggregator) and kind.whole_cohort):
        known = [rule for rule in stages.__all__ if getattr(getattr(stages, rule), "whole_cohort", False)]
        raise ConfigError(f"there is no robust rule named {first!r}{nearest(first, known)}.")
    numbers: dict[str, Any] = {"f": f} if "f" in kind.__dataclass_fields__ else {}
    if rest:
        if "then" not in kind.__dataclass_fields__:
            raise ConfigError(f"{first} cannot stand before another rule: use {' or '.join(BEFORE)}, found {name!r}.")
        numbers["then"] = rule_of(rest, f)
    rule: Aggregator = kind(**numbers)
    return rule


def partition_of(text: str) -> dict[str, Any]:
    """A partition from the command line: its kind, and after a colon its numbers.

    >>> partition_of("dirichlet-niid:alpha=0.3")
    {'kind': 'dirichlet-niid', 'alpha': 0.3}

    Raises:
        ConfigError: if a number is none.
    """
    kind, _, rest = text.partition(":")
    found: dict[str, Any] = {"kind": kind}
    for part in filter(None, rest.split(",")):
        name, _, value = part.partition("=")
        try:
            found[name] = int(value) if value.lstrip("-").isdigit() else float(value)
        except ValueError:
            raise ConfigError(f"{text!r}: {name} needs a number, found {value!r}.") from None
    return found

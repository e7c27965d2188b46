"""A grid of rules, attacks, partitions and kinds of clients: the runs that show what each rule withstands."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from headway import stages
from headway.attacks import Attack, AttackPlan, Backdoor, SignFlip
from headway.attacks.kept_rows import check_chain
from headway.core.chain import Chain
from headway.core.errors import ConfigError, HeadwayError, nearest
from headway.core.stage import Aggregator, Stage
from headway.data import FederatedData
from headway.experiment.attack_grid_section import MEAN, NO_ATTACK, AttackGridSection
from headway.experiment.attack_section import AttackSection
from headway.experiment.backdoor_probe import BackdoorProbe
from headway.experiment.grid_result import Cell, GridFacts, setting_name
from headway.experiment.population import check_names
from headway.experiment.runfile import RunFile
from headway.model.metrics import measured_on
from headway.numerics.keys import Key

OWN = "as in the file"
BEFORE = tuple(name for name in stages.__all__ if "then" in getattr(getattr(stages, name), "__dataclass_fields__", ()))


@dataclass(frozen=True)
class Setting:
    """A way to divide the data, and a kind of clients: the stages before those of the file's chain.

    partition: `None` for the file's own.
    """

    partition: Mapping[str, Any] | None = None
    before: tuple[Stage, ...] = ()


@dataclass(frozen=True)
class GridPlan:
    """The runs of a grid.

    runfiles: by method.  probes: of methods, which backdoors are measured in their models.  left_out: rules and attacks
    that cannot be run with this file, and why.
    """

    cells: tuple[Cell, ...]
    runfiles: Mapping[str, RunFile]
    probes: Mapping[str, BackdoorProbe]
    left_out: tuple[str, ...]


def settings_of(section: AttackGridSection) -> dict[str, Setting]:
    """The settings of a grid, by name.

    Raises:
        ConfigError: for a partition or a stage that is none.
    """
    places = {text: partition_of(text) for text in section.partitions}
    partitions: dict[str, dict[str, Any] | None] = {**places} or {OWN: None}
    kinds = {name: tuple(map(Stage.registry.build, links)) for name, links in section.clients.items()} or {"": ()}
    return {
        setting_name(place, kind): Setting(partition, before)
        for place, partition in partitions.items()
        for kind, before in kinds.items()
    }


def grid_plan(runfile: RunFile, section: AttackGridSection, data: FederatedData) -> GridPlan:
    """The runs of a grid with this file.

    Raises:
        ConfigError: if no rule, or no attack, can be used with it.
    """
    count = attackers_of(section, len(data.clients))
    settings = settings_of(section)
    attacks, left_out = _usable(section, count, data)
    runfiles, refused, out = dict[str, RunFile](), dict[str, str](), set[tuple[str, str]]()
    cells = grid_cells(section.rules, attacks, settings)
    for cell in cells:
        try:
            made = grid_file(runfile, cell, settings[cell.setting], count, section)
            made.algorithm.flows(population=len(data.clients))
            if settings[cell.setting].partition is None:  # of these clients
                check_names(made.algorithm, data.clients)
            if cell.attack != NO_ATTACK:
                check_chain(made.algorithm.chain)
            runfiles[cell.method] = made
        except HeadwayError as error:
            refused[cell.rule] = str(error)
            out.add((cell.rule, cell.setting))
    runfiles = {c.method: runfiles[c.method] for c in cells if (c.rule, c.setting) not in out}
    if not runfiles:
        raise ConfigError(f"no rule can be used with this file: {next(iter(refused.values()))}")
    left_out += [f"{rule} is left out: {why}" for rule, why in refused.items()]
    known = {name: attack for name in attacks if isinstance(attack := attack_of(name), Backdoor)}
    probes = {
        cell.method: BackdoorProbe(known if cell.attack == NO_ATTACK else {cell.attack: known[cell.attack]})
        for cell in cells
        if known and (cell.attack == NO_ATTACK or cell.attack in known)
    }
    return GridPlan(tuple(c for c in cells if c.method in runfiles), runfiles, probes, tuple(left_out))


def grid_facts(
    runfile: RunFile, section: AttackGridSection, plan: GridPlan, metric: str, data: FederatedData
) -> GridFacts:
    """The facts of a grid with this file, measured by a metric."""
    count = attackers_of(section, len(data.clients))
    return GridFacts(
        name=runfile.name,
        data=data.name,
        metric=metric,
        where=measured_on(metric, data.central is not None),
        attackers=AttackPlan(SignFlip(), count=count).among(data.clients),
        clients=len(data.clients),
        from_round=section.from_round,
        knows=section.knows,
        rounds=runfile.sections.run.rounds,
        seeds=section.seeds,
        partitions=tuple(section.partitions) or (OWN,),
        kinds=tuple(section.clients) or ("",),
        left_out=plan.left_out,
    )


def attackers_of(section: AttackGridSection, clients: int) -> int:
    """How many clients attack: by default a fifth, and at least one."""
    return section.attackers or max(1, clients // 5)


def _usable(section: AttackGridSection, count: int, data: FederatedData) -> tuple[list[str], list[str]]:
    """The attacks that can be run on these data, and sentences on the others."""
    usable, left_out = [], []
    for name in section.attacks:
        attack = attack_of(name)
        try:
            if attack is not None:
                client = attack_section(name, count, section).plan().among(data.clients)[0]
                attack.poison(data.train_of(client), data.classes, Key.of(0, "a try"))
            usable.append(name)
        except ConfigError as error:
            left_out.append(f"{name} is left out: {error}")
    if not usable:
        raise ConfigError(f"no attack can be used with this file: {left_out[0]}")
    return usable, left_out


def grid_cells(rules: Sequence[str], attacks: Sequence[str], settings: Iterable[str]) -> list[Cell]:
    """The cells, in the order in which they are run."""
    return [Cell(rule, attack, place) for place in settings for rule in rules for attack in attacks]


def grid_file(runfile: RunFile, cell: Cell, setting: Setting, count: int, section: AttackGridSection) -> RunFile:
    """The run file of a cell: the rule in the place of the file's aggregator, the attack, the setting.  "Mean" is the
    file's own aggregator, where that is no robust rule.

    count: how many clients attack, also the f of the rule.

    Raises:
        ConfigError, ChainRefused: for an unknown rule or attack, or where the rule does not fit the chain.
    """
    links, algorithm = runfile.algorithm.chain.stages, runfile.algorithm
    own = cell.rule == MEAN and not runfile.algorithm.chain.aggregator.whole_cohort
    if not own:
        rule = stages.Mean(over="clients") if cell.rule == MEAN else rule_of(cell.rule, count)
        links = tuple(rule if isinstance(stage, Aggregator) else stage for stage in links)
    if setting.before or not own:
        algorithm = replace(algorithm, chain=Chain((*setting.before, *links)))
    changes: dict[str, Any] = {"attack": None, "attack_grid": AttackGridSection()}
    if cell.attack != NO_ATTACK:
        changes["attack"] = attack_section(cell.attack, count, section)
    if setting.partition is not None:
        changes["data"] = runfile.sections.data.model_copy(update={"partition": dict(setting.partition)})
    return replace(runfile, sections=runfile.sections.model_copy(update=changes), algorithm=algorithm)


def attack_section(name: str, count: int, section: AttackGridSection) -> AttackSection:
    """The table [attack] of the runs under an attack of the grid.

    Raises:
        ConfigError: for a number that is none.
    """
    numbers = numbered(name, "attack") | {"clients": count, "from_round": section.from_round, "knows": section.knows}
    return AttackSection.model_validate(numbers)


def attack_of(name: str) -> Attack | None:
    """The attack of a name, with its numbers after a colon; `None` for "none".

    >>> attack_of("Backdoor:boost=1")
    Backdoor(target=0, share=0.5, size=2, value=1.0, boost=1.0)

    Raises:
        ConfigError: for an unknown attack or number.
    """
    return None if name == NO_ATTACK else Attack.registry.build(numbered(name, "attack"))


def rule_of(name: str, f: int) -> Aggregator:
    """The rule of a name for f attackers: a class, or a pre-aggregation and a rule with a plus between them; each with
    further numbers after a colon.

    >>> rule_of("NNM+Krum", 2)
    NNM(f=2, then=Krum(f=2))
    >>> rule_of("Bucketing:size=3+CentredClipping:tau=0.5", 2)
    Bucketing(size=3, then=CentredClipping(tau=0.5, iterations=1, f=2))

    Raises:
        ConfigError: if there is no such rule or number.
    """
    own, _, rest = name.partition("+")
    given = numbered(own, "rule")
    first = given.pop("rule")
    kind = getattr(stages, first, None)
    if not (isinstance(kind, type) and issubclass(kind, Aggregator) and kind.whole_cohort):
        known = [rule for rule in stages.__all__ if getattr(getattr(stages, rule), "whole_cohort", False)]
        raise ConfigError(f"there is no robust rule named {first!r}{nearest(first, known)}.")
    for number in given:
        if number not in kind.__dataclass_fields__:
            raise ConfigError(f"{first} has no number {number!r}{nearest(number, kind.__dataclass_fields__)}.")
    numbers: dict[str, Any] = ({"f": f} if "f" in kind.__dataclass_fields__ else {}) | given
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
    return numbered(text, "kind")


def numbered(text: str, kind: str) -> dict[str, Any]:
    """A name and its numbers, "NAME:number=1,other=0.5", as a table whose key for the name is `kind`.

    Raises:
        ConfigError: if a number is none.
    """
    name, _, rest = text.partition(":")
    found: dict[str, Any] = {kind: name}
    for part in filter(None, rest.split(",")):
        key, _, value = part.partition("=")
        try:
            found[key] = int(value) if value.lstrip("-").isdigit() else float(value)
        except ValueError:
            raise ConfigError(f"{text!r}: {key} needs a number, found {value!r}.") from None
    return found

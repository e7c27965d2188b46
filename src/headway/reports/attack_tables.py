"""The tables of a grid of rules and attacks, for the page, the terminal and Markdown."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from headway.experiment.attack_grid_section import NO_ATTACK
from headway.experiment.grid_result import Cell, GridFacts, GridResult, setting_name


@dataclass(frozen=True)
class GridTable:
    """A title, columns, and rows whose first cell is a name.  note: what a reader must know of it."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    note: str = ""


def value_tables(result: GridResult, facts: GridFacts) -> list[GridTable]:
    """For each setting, the value of each rule under each attack, and its worst case."""
    return [_values(result, facts, setting) for setting in result.settings]


def _values(result: GridResult, facts: GridFacts, setting: str) -> GridTable:
    rows = []
    for rule in result.rules:
        worst, attack = result.worst(rule, setting)
        last = "" if math.isnan(worst) else f"{facts.text(worst)} ({attack})"
        rows.append([rule, *(cell_text(result, facts, Cell(rule, a, setting)) for a in result.attacks), last])
    columns = ["rule", *result.attacks, "worst case"]
    return GridTable(f"{facts.measure}, data {setting}", columns, rows, spread_note(result, facts, setting))


def cell_text(result: GridResult, facts: GridFacts, cell: Cell) -> str:
    """The value of a cell; "diverged" where a run did not come to one."""
    if cell in result.failures:
        return "diverged"
    return facts.text(result.values.get(cell, math.nan))


def spread_note(result: GridResult, facts: GridFacts, setting: str) -> str:
    """How far the seeds of a cell lie apart, where there are several."""
    spreads = [
        statistics.stdev(seeds.values())
        for cell, seeds in result.by_seed.items()
        if cell.setting == setting and len(seeds) > 1 and cell not in result.failures
    ]
    if not spreads:
        return ""
    middle, most = facts.difference(statistics.median(spreads)), facts.difference(max(spreads))
    return f"Means over {facts.seeds} seeds, with a standard deviation of {middle} in the median cell, {most} at most."


def backdoor_tables(result: GridResult, facts: GridFacts) -> list[GridTable]:
    """For each setting, how often each backdoor succeeds without an attack and with one, rule by rule."""
    found = [_backdoors(result, facts, setting) for setting in result.settings]
    return [table for table in found if table is not None]


def _backdoors(result: GridResult, facts: GridFacts, setting: str) -> GridTable | None:
    names = [a for a in result.attacks if any(a in figures for figures in result.backdoors.values())]
    if not names:
        return None
    columns = ["rule"]
    for name in names:
        columns += [f"{name}: nobody attacks", f"{name}: under attack", f"{facts.measure} under it"]
    rows = []
    for rule in result.rules:
        row = [rule]
        for name in names:
            row.append(_percent(result.success(rule, NO_ATTACK, setting, name)))
            row.append(_percent(result.success(rule, name, setting, name)))
            row.append(cell_text(result, facts, Cell(rule, name, setting)))
        rows.append(row)
    note = (
        "The success rate is the share of test examples of other classes that the model takes for the attackers' class "
        "once they have the trigger; Mean is the row without a defence."
    )
    return GridTable(f"success rate of a backdoor, data {setting}", columns, rows, note)


def _percent(share: float) -> str:
    return "" if math.isnan(share) else f"{100 * share:.1f} %"


def seconds_table(result: GridResult) -> GridTable:
    """The milliseconds of a round, rule by rule."""
    known = [(rule, result.seconds_of(rule)) for rule in result.rules]
    rows = [[rule, "" if math.isnan(s) else f"{1000 * s:.1f} ms"] for rule, s in known]
    note = "Training and aggregation of one round, as timed in these runs, several of which may have run side by side."
    return GridTable("time of a round", ["rule", "a round"], rows, note)


def clients_tables(result: GridResult, facts: GridFacts) -> list[GridTable]:
    """For each partition, what another kind of clients changes for each rule; empty where there is one kind."""
    first, *others = facts.kinds
    return [_clients(result, facts, partition, first, kind) for partition in facts.partitions for kind in others]


def _clients(result: GridResult, facts: GridFacts, partition: str, first: str, kind: str) -> GridTable:
    before, after = setting_name(partition, first), setting_name(partition, kind)
    hostile = [attack for attack in result.attacks if attack != NO_ATTACK]
    rows = []
    for rule in result.rules:
        worst = [result.worst(rule, setting)[0] for setting in (before, after)]
        quiet = _change(result, facts, rule, [NO_ATTACK], (before, after)) if NO_ATTACK in result.attacks else ""
        under = _change(result, facts, rule, hostile, (before, after)) if hostile else ""
        rows.append([rule, quiet, under, f"{facts.text(worst[0])} to {facts.text(worst[1])}"])
    columns = ["rule", "no attack", "mean of the attacks", "worst case"]
    return GridTable(
        f"{facts.measure} from {first} clients to {kind} clients, data {partition}",
        columns,
        rows,
        "In brackets the mean of the paired differences, and their standard deviation over the seeds.",
    )


def _change(result: GridResult, facts: GridFacts, rule: str, attacks: Sequence[str], settings: tuple[str, str]) -> str:
    """A mean over attacks in two settings, and the paired difference with its spread over the seeds."""
    sides = [[result.by_seed.get(Cell(rule, attack, place), {}) for attack in attacks] for place in settings]
    seeds = sorted(set.intersection(*(set(each) for side in sides for each in side)))
    if not seeds:
        return ""
    means = [{seed: statistics.fmean(each[seed] for each in side) for seed in seeds} for side in sides]
    if not all(math.isfinite(value) for side in means for value in side.values()):
        return "diverged"
    differences = [means[1][seed] - means[0][seed] for seed in seeds]
    spread = f" ± {facts.text(statistics.stdev(differences))}" if len(seeds) > 1 else ""
    mean = statistics.fmean(differences)
    shift = f"{'+' if mean >= 0 else '-'}{facts.text(abs(mean))}{spread}"
    before, after = (facts.text(statistics.fmean(side.values())) for side in means)
    return f"{before} to {after} ({shift})"

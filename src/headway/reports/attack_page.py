"""The page of a grid of rules and attacks: one HTML file that loads nothing, and begins with what to switch on."""

from __future__ import annotations

import math

from headway.core.stage import Stage
from headway.experiment.attack_grid_section import MEAN, NO_ATTACK
from headway.experiment.grid_result import Cell, GridFacts, GridResult, backdoor_sentence, grid_sentence
from headway.experiment.robust_grid import attack_of, rule_of
from headway.observe.text import to_toml
from headway.reports.attack_tables import (
    GridTable,
    backdoor_tables,
    cell_text,
    clients_tables,
    seconds_table,
    value_tables,
)
from headway.reports.page.charts import bar_chart, look
from headway.reports.page.components import Figure, PageTable, Section
from headway.reports.page.heat_map import HeatCell, heat_map
from headway.reports.page.page_parts import document, environment, page_file

PACKAGE = "headway.reports"
GENERATOR = "headway attack"
CAUTION = (
    "A rule that withstood these attacks need not withstand others; an attacker that knows the rule may do more "
    "(LineSearch)."
)


def render_attacks(result: GridResult, facts: GridFacts) -> str:
    """The whole page as HTML; the same result gives the same text."""
    parts = [
        worst_section(result, facts),
        *clients_section(result, facts),
        maps_section(result, facts),
        *backdoor_section(result, facts),
        seconds_section(result),
        about_section(result, facts),
    ]
    pages = environment({"attacks.html": page_file("attacks.html", PACKAGE)})
    return document(
        pages.get_template("attacks.html"),
        page_file("style.css") + page_file("attacks.css", PACKAGE),
        page_file("page.js"),
        title=f"{facts.name} - Headway attack",
        facts=facts,
        sentence=grid_sentence(result, facts),
        more=[words for words in (backdoor_sentence(result, facts), CAUTION) if words],
        sections=parts,
        looks=[look(0)],
        generator=GENERATOR,
    )


def worst_section(result: GridResult, facts: GridFacts) -> Section:
    """The worst case of each rule, beside its value where nobody attacks, and the lines that switch on the best."""
    figures = [_worst_figure(result, facts, setting) for setting in result.settings]
    lead = f"The {facts.measure} {facts.where}: in the worst case of each rule, and where nobody attacks."
    return Section("worst", "The worst case", lead, figures, folded=_switched_on(result, facts))


def _worst_figure(result: GridResult, facts: GridFacts, setting: str) -> Figure:
    rows, bars = [], []
    for index, rule in enumerate(result.rules):
        worst, attack = result.worst(rule, setting)
        quiet = result.value(rule, NO_ATTACK, setting)
        rows.append([rule, facts.text(quiet), facts.text(worst), attack])
        if math.isfinite(worst):
            low, high = sorted((worst, quiet if math.isfinite(quiet) else worst))
            bars.append((index, rule, low, high - low))
    names = ("worst case", "nobody attacks") if result.higher else ("nobody attacks", "worst case")
    title = f"worst case of each rule, {facts.measure}, data {setting}"
    picture = bar_chart(title, bars, (names[0], f"up to {names[1]}"), facts.text)
    table = PageTable(["rule", "nobody attacks", "worst case", "under"], rows)
    return Figure(f"Data {setting}", "", picture, table)


def _switched_on(result: GridResult, facts: GridFacts) -> list[tuple[str, str]]:
    """The lines of a run file that switch on the rule of the sentence."""
    if (rule := result.best_rule()) in ("", MEAN):
        return []
    numbers = Stage.registry.describe(rule_of(rule, len(facts.attackers)))
    lines = [f"{key} = {to_toml(value)}" for key, value in numbers.items()]
    return [(f"Lines of a run file that switch on {rule}", "\n".join(["[[algorithm.chain]]", *lines]))]


def maps_section(result: GridResult, facts: GridFacts) -> Section:
    """A heat map for each setting."""
    known = [value for value in result.values.values() if math.isfinite(value)]
    low, high = (min(known), max(known)) if known else (0.0, 1.0)

    def fill(value: float) -> float:
        if math.isnan(value):
            return math.nan
        share = (min(value, high) - low) / (high - low) if high > low else 1.0
        return share if result.higher else 1 - share

    figures = []
    for setting, table in zip(result.settings, value_tables(result, facts), strict=True):
        cells = []
        for rule in result.rules:
            line = [Cell(rule, attack, setting) for attack in result.attacks]
            row = [
                HeatCell(cell_text(result, facts, c), fill(result.values.get(c, math.nan)), c in result.failures)
                for c in line
            ]
            worst = result.worst(rule, setting)[0]
            cells.append([*row, HeatCell(facts.text(worst), fill(worst))])
        picture = heat_map(table.title, result.rules, [*result.attacks, "worst case"], cells, apart=1)
        figures.append(Figure(f"Data {setting}", "", picture, _paged(table), wide=True))
    failed = [f"{cell.method}: {why}" for cell, why in result.failures.items()]
    folded = [("Runs that came to no value", "\n".join(failed))] if failed else []
    lead = f"The {facts.measure} {facts.where}. The fuller a cell, the better; a dashed frame: a run diverged."
    return Section("maps", "Each rule under each attack", lead, figures, folded=folded)


def backdoor_section(result: GridResult, facts: GridFacts) -> list[Section]:
    """The success rate of each backdoor, where one was run."""
    tables = backdoor_tables(result, facts)
    if not tables:
        return []
    figures = []
    for setting, table in zip(result.settings, tables, strict=True):
        names = [name for name in result.attacks if f"{name}: under attack" in table.columns]
        cells = []
        for rule in result.rules:
            rates = [result.success(rule, attack, setting, name) for name in names for attack in (NO_ATTACK, name)]
            cells.append([HeatCell("" if math.isnan(rate) else f"{100 * rate:.1f} %", rate) for rate in rates])
        columns = [words for name in names for words in ("no attack", name)]
        picture = heat_map(table.title, result.rules, columns, cells)
        figures.append(Figure(f"Data {setting}", "", picture, PageTable(table.columns, table.rows), wide=True))
    return [Section("backdoor", "Backdoors", f"{tables[0].note} The fuller a cell, the worse.", figures)]


def clients_section(result: GridResult, facts: GridFacts) -> list[Section]:
    """What another kind of clients changes, where there are several."""
    tables = clients_tables(result, facts)
    return (
        [Section("clients", "Kinds of clients", tables=[_paged(table, titled=True) for table in tables])]
        if tables
        else []
    )


def seconds_section(result: GridResult) -> Section:
    """The time of a round of each rule."""
    return Section("time", "What a rule takes", tables=[_paged(seconds_table(result))])


def about_section(result: GridResult, facts: GridFacts) -> Section:
    """What was attacked, by whom, and from which round."""
    begun = "the first round" if facts.from_round == 1 else f"round {facts.from_round}"
    rows = [
        ["data", facts.data],
        ["attackers", f"{len(facts.attackers)} of {facts.clients} clients: {', '.join(facts.attackers)}"],
        ["they attack from", begun],
        ["they know", facts.known],
        ["the rules expect", f"f = {len(facts.attackers)} attackers, as many as there are"],
        ["rounds", str(facts.rounds)],
        ["seeds", str(facts.seeds)],
        *([name, repr(attack)] for name in result.attacks if (attack := attack_of(name)) is not None),
    ]
    return Section("about", "What was attacked", tables=[PageTable(["", ""], rows, words=True)])


def _paged(table: GridTable, titled: bool = False) -> PageTable:
    note = f"{table.title}. {table.note}" if titled else table.note
    return PageTable(table.columns, table.rows, note)

"""The section about privacy: epsilon over rounds, what is left of the budget, and what each release covers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

from headway.observe.text import number_text
from headway.privacy.ledger import epsilon_text
from headway.privacy.spends import ACCOUNTS
from headway.privacy.terms import RELEASE_COLUMNS
from headway.reports.page.charts import Line, line_chart
from headway.reports.page.components import Figure, PageTable, Section, curves_table, round_text
from headway.reports.page.content import Method
from headway.reports.page.privacy_facts import PrivacyFacts

NONE = "No stage adds noise: there is no privacy budget and no ledger."
NOTE = (
    "Two promises are two numbers, and their sum means nothing. Epsilon counts every release that was reserved, also "
    "of rounds that came to nothing. It holds for one run: what several runs on the same data release adds up, and no "
    "ledger knows of the others."
)


def privacy_section(runs: Sequence[PrivacyFacts]) -> Section:
    """The section of runs, of which those without noise are left out."""
    anchor, title = "privacy", "Privacy"
    if not runs:
        return Section(anchor, title, NONE)
    lead = " ".join(
        [*(f"The ledger of {each.name or 'the run'}: {each.trouble}" for each in runs if each.trouble), NOTE]
    )
    figures = [found for found in (_picture(runs),) if found is not None]
    tables = [_promises(runs), *_releases(runs), *_others(runs)]
    return Section(anchor, title, lead, figures, tables)


def privacy_of(methods: Sequence[Method]) -> Section:
    """The section of methods: of each the first seed that has a ledger, since the noise is that of all."""
    found = []
    for method in methods:
        facts = next((run.privacy for run in method.runs if run.privacy is not None), None)
        if facts is not None:
            found.append(replace(facts, name=method.name if len(methods) > 1 else ""))
    return privacy_section(found)


def _picture(runs: Sequence[PrivacyFacts]) -> Figure | None:
    """Epsilon over rounds, with the budgets as level lines."""
    lines = list[Line]()
    for run in runs:
        for account in run.accounts:
            points = [(float(n), e) for n, e in sorted(run.curves.get(account, {}).items()) if math.isfinite(e)]
            if points:
                x, y = tuple(n for n, _ in points), tuple(e for _, e in points)
                lines.append(Line(len(lines), _named(run, account), x, y, y, y))
    if not lines:
        return None
    first, last = min(line.x[0] for line in lines), max(line.x[-1] for line in lines)
    for limit in dict.fromkeys(limit for run in runs for limit in run.budgets.values() if limit is not None):
        level = (limit, limit) if first < last else (limit,)
        ends = (first, last) if first < last else (first,)
        lines.append(Line(len(lines), "budget", ends, level, level, level))
    picture = line_chart("epsilon over rounds", lines, x_name="round", zero=True)
    words = "What the run has spent after each round; a line of each promise. The round that would cross the budget is "
    curves = [line for line in lines if line.name != "budget"]
    table = curves_table("round", curves, number_text, round_text)
    return Figure("Epsilon over rounds", words + "refused before any client is asked.", picture, table)


def _promises(runs: Sequence[PrivacyFacts]) -> PageTable:
    """Spent, budget and rest of each promise."""
    rows = []
    for run in runs:
        for account in run.accounts:
            curve = run.curves.get(account, {})
            spent = curve[max(curve)] if curve else 0.0
            limit = run.budgets.get(account)
            rest = "-" if limit is None else f"{max(0.0, limit - spent):.3g}"
            rows.append(
                [
                    _named(run, account),
                    ACCOUNTS[account],  # type: ignore[index]
                    epsilon_text(spent),
                    "no limit" if limit is None else f"{limit:g}",
                    rest,
                    "-" if run.delta is None else f"{run.delta:g}",
                ]
            )
    return PageTable(["promise", "hides", "epsilon spent", "budget", "left", "delta"], rows, words=True)


def _releases(runs: Sequence[PrivacyFacts]) -> list[PageTable]:
    several = len(runs) > 1
    rows = [[*([run.name] if several else []), *row] for run in runs for row in run.releases]
    notes = [f"{f'{run.name}: ' if several else ''}{run.sampling}." for run in runs if run.sampling]
    columns = [*(["run"] if several else []), *RELEASE_COLUMNS]
    return (
        [PageTable(columns, rows, "With noise, in each round. Sampling: " + " ".join(notes), words=True)]
        if rows
        else []
    )


def _others(runs: Sequence[PrivacyFacts]) -> list[PageTable]:
    rows = list(dict.fromkeys(tuple(row) for run in runs for row in run.others))
    note = "What else leaves the clients or the server, which no epsilon covers."
    return [PageTable(["also released or seen", "protection", "by"], rows, note, words=True)] if rows else []


def _named(run: PrivacyFacts, account: str) -> str:
    return " ".join(filter(None, (run.name, account)))

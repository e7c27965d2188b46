"""The sections about what ran: what went wrong, seeds, versions, numbers, run files."""

from __future__ import annotations

from collections.abc import Sequence

from headway.reports.page.components import PageTable, Section
from headway.reports.page.content import Evidence

MOST_TROUBLES = 60


def troubles(evidence: Evidence) -> Section:
    """Runs that stopped, updates that were rejected, clients that dropped out."""
    stopped = [
        [method.name, str(run.seed), run.failure or ""]
        for method in evidence.methods
        for run in method.runs
        if run.failure
    ]
    lost = [
        [
            method.name,
            str(run.seed),
            each.client,
            each.status,
            f"{each.count}",
            f"{each.first}" if each.first == each.last else f"{each.first} to {each.last}",
            each.reason,
        ]
        for method in evidence.methods
        for run in method.runs
        if run.record is not None
        for each in run.record.troubles
    ]
    lost.sort(key=lambda row: row[3] != "rejected")  # dropping out is often wanted, a rejection never
    tables = [PageTable(["method", "seed", "why it stopped"], stopped, words=True)] if stopped else []
    if lost:
        more = len(lost) - MOST_TROUBLES
        times = sum(int(row[4]) for row in lost)
        note = f"{times} updates in all were not counted." + (f" {more} more rows are not shown." if more > 0 else "")
        columns = ["method", "seed", "client", "what", "rounds", "when", "why"]
        tables.append(PageTable(columns, lost[:MOST_TROUBLES], note, words=True))
    empty = [
        [method.name, str(run.seed), f"{len(record.empty)} of {len(record.rounds)}", _rounds(record.empty)]
        for method in evidence.methods
        for run in method.runs
        if (record := run.record) is not None and record.empty
    ]
    if empty:
        note = "An empty round counts no client, because none was drawn or none answered; the model stays as it was."
        tables.append(PageTable(["method", "seed", "empty rounds", "which"], empty, note, words=True))
    lead = "" if tables else "Nothing is known to have failed: no run stopped early"
    if not tables:
        recorded = all(run.record is not None for method in evidence.methods for run in method.runs)
        lead += (
            ", no update was rejected, no client dropped out." if recorded else "; single updates were not recorded."
        )
    return Section("troubles", "What went wrong", lead, tables=tables)


def _rounds(rounds: Sequence[int], most: int = 12) -> str:
    more = f" and {len(rounds) - most} more" if len(rounds) > most else ""
    return ", ".join(map(str, rounds[:most])) + more


def made_of(evidence: Evidence) -> Section:
    """Seeds, versions, fingerprints, every number that was set, and the run files."""
    versions = sorted({name for m in evidence.methods for run in m.runs for name in run.versions or {}})
    runs = [
        [
            method.name,
            str(run.seed),
            f"{max((*run.rounds, *(run.record.rounds if run.record is not None else ())), default=0)}",
            *((run.versions or {}).get(name, "-") for name in versions),
            run.fingerprint or "-",
            run.source,
        ]
        for method in evidence.methods
        for run in method.runs
    ]
    tables = [
        PageTable(
            ["method", "chain"], [[m.name, m.chain] for m in evidence.methods], "", range(len(evidence.methods)), True
        ),
        PageTable(["method", "seed", "rounds", *versions, "data fingerprint", "read from"], runs, words=True),
    ]
    # a path without a dot is a stage's place in the chain, which the table of chains shows better
    paths = sorted({path for method in evidence.methods for path in method.numbers if "." in path})
    rows = [[path, *(method.numbers.get(path, "") for method in evidence.methods)] for path in paths]
    differ = [row for row in rows if len(set(row[1:])) > 1]
    alike = [row for row in rows if len(set(row[1:])) == 1]
    if differ:
        note = "What was set differently; an empty cell is a stage that the method does not have."
        tables.append(PageTable(["number", *(method.name for method in evidence.methods)], differ, note, words=True))
    folded = [("Set alike for all", "\n".join(f"{row[0]} = {row[1]}" for row in alike))] if alike else []
    folded += [(f"Run file of {m.name}", m.runfile) for m in evidence.methods if m.runfile]
    return Section("ran", "What ran", "", tables=tables, folded=folded)

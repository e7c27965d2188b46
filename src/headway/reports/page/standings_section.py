"""The section about clients' reputation and quarantine."""

from __future__ import annotations

from headway.observe.text import number_text
from headway.reports.page.components import PageTable, Section
from headway.reports.page.content import Evidence

MOST_LISTED = 30  # clients of a run, those of the lowest reputation


def standings_section(evidence: Evidence) -> Section | None:
    """The clients of the lowest reputation in each run, and how long they were in quarantine; `None` without any."""
    rows, methods, left_out = list[list[str]](), list[int](), 0
    for index, method in enumerate(evidence.methods):
        for run in method.runs:
            kept = {} if run.record is None else run.record.standings
            worst = sorted(kept, key=lambda client: (kept[client].last, client))
            left_out += max(len(worst) - MOST_LISTED, 0)
            for client in worst[:MOST_LISTED]:
                each = kept[client]
                numbers = [number_text(each.last), number_text(each.lowest), str(each.rounds), str(each.quarantined)]
                rows.append([method.name, str(run.seed), client, *numbers])
                methods.append(index)
    if not rows:
        return None
    lead = (
        "How well each client's updates fitted those of the others, from 0 to 1, averaged over its rounds; refused "
        "ones count as 0. A low reputation is no proof: a client with data unlike all others has one too."
    )
    columns = ["method", "seed", "client", "reputation", "lowest", "rounds", "rounds in quarantine"]
    note = f"{left_out} clients of a higher reputation are not listed." if left_out else ""
    return Section("reputation", "Reputation of clients", lead, tables=[PageTable(columns, rows, note, methods)])

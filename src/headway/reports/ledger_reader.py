"""The privacy of a run folder, from its ledger and journal, for looking at."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from headway.core.errors import HeadwayError
from headway.privacy.ledger import sampling_of
from headway.privacy.ledger_file import LEDGER, read_entries
from headway.privacy.options import PrivacyOptions
from headway.privacy.spends import ACCOUNTS, accounts_of
from headway.privacy.terms import event_of, release_rows
from headway.reports.page import Record
from headway.reports.page.privacy_facts import PrivacyFacts


def read_privacy(folder: Path, record: Record) -> PrivacyFacts | None:
    """The privacy of the run in a folder; `None` if its chain adds no noise.

    A ledger that cannot be trusted is no reason to show nothing: the page says so.
    """
    path, curves = folder / LEDGER, {name: c for name, c in record.privacy.items() if name in ACCOUNTS}
    deltas = record.privacy.get("delta", {})
    delta = deltas[max(deltas)] if deltas else None
    if not path.is_file() and not curves:
        return None
    try:
        entries = read_entries(path)
        start = next(entry for entry in reversed(entries) if entry["kind"] in ("start", "resume"))
        return _facts(start, curves)
    except (HeadwayError, StopIteration, KeyError, TypeError, ValueError, AttributeError) as error:
        return PrivacyFacts("", curves, delta=delta, trouble=str(error) or f"{path} cannot be read.")


def _facts(start: dict[str, Any], curves: dict[str, Any]) -> PrivacyFacts:
    budget, terms = start["budget"], start["terms"]
    events = [event_of(each) for each in terms["events"]]
    sampling, options = sampling_of(terms["sampling"]), PrivacyOptions.of_budget(budget)
    limits: dict[str, float | None] = {name: options.limit(name) for name in accounts_of(events)}
    return PrivacyFacts(
        "",
        curves,
        limits,
        float(budget["delta"]),
        sampling.summary,
        release_rows(events),
        [(each["what"], each["protection"], each["to"]) for each in terms["other_releases"]],
    )

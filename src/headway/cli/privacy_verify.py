"""`headway privacy verify`."""

from __future__ import annotations

from pathlib import Path

from headway.experiment.privacy_check import LedgerCheck, check_ledger
from headway.observe.text import console, emit
from headway.privacy.ledger import epsilon_text
from headway.privacy.ledger_file import plain
from headway.privacy.spends import ACCOUNTS


def verify_ledger(folder: Path, as_json: bool) -> bool:
    """Checks the ledger of a run and shows the result; whether all agrees.

    Raises:
        RunFolderError: if it is no run folder, or has no ledger.
    """
    result = check_ledger(folder)
    if as_json:
        emit(
            plain(
                {
                    "event": "verify",
                    "lines": result.lines,
                    "releases": result.releases,
                    "delta": result.delta,
                    "recorded": result.recorded,
                    "recomputed": result.recomputed,
                    "differences": [{"line": line, "message": message} for line, message in result.differences],
                    "notes": result.notes,
                }
            )
        )
    else:
        screen = console()
        for line in _lines(folder, result):
            screen.print(line, soft_wrap=True, markup=False, highlight=False)
    return not result.differences


def _lines(folder: Path, result: LedgerCheck) -> list[str]:
    """The result in sentences."""
    lines = [f"{folder}: a ledger of {result.lines} lines, with {result.releases} reservations."]
    for account, found in result.recorded.items():
        again = result.recomputed.get(account)
        by = "not computed again" if again is None else f"{epsilon_text(again)} by other means"
        lines.append(f"{account} ({ACCOUNTS[account]}): epsilon {epsilon_text(found)} at delta {result.delta:g}; {by}.")
    lines += [f"Note: {note}." for note in (each.rstrip(".") for each in result.notes)]
    if not result.differences:
        lines.append("The digests, the chain of stages, the journal, the checkpoint and epsilon agree.")
    for place, (line, message) in enumerate(result.differences):
        where = f"Line {line}" if line else "The ledger"
        first = " is the first that is wrong" if place == 0 and line else ""
        lines.append(f"{where}{first}: {message.rstrip('.')}.")
    return lines

"""The facts of a run that the status shows: its algorithm, its deciding metric, the rounds before a restart."""

from __future__ import annotations

from headway.core.algorithm import Algorithm
from headway.data import known_population
from headway.experiment.run import Run
from headway.federation.operations.status_board import StatusBoard
from headway.federation.operations.status_history import journal_rounds
from headway.federation.operations.status_snapshot import ChainStatus, PrivacyStatus, RoundStatus
from headway.observe.journal import Journal
from headway.observe.run_folder import JOURNAL
from headway.privacy.ledger import Ledger
from headway.privacy.terms import release_rows


def describe_run(board: StatusBoard, run: Run) -> None:
    """Puts the facts of a run that is ready on the board."""
    board.privacy = privacy_status(run.ledger)
    board.describe(run.facts.headline, chain_status(run.algorithm), known_population(run.known), earlier_rounds(run))


def earlier_rounds(run: Run) -> list[RoundStatus]:
    """The rounds of a resumed run up to the checkpoint that it goes on from."""
    if run.folder is None or not run.state.round or not (path := run.folder.path / JOURNAL).is_file():
        return []
    journal = Journal(path)
    try:
        return [each for each in journal_rounds(journal, run.facts.headline) if each.round <= run.state.round]
    finally:
        journal.close()


def chain_status(algorithm: Algorithm) -> ChainStatus:
    """An algorithm as a table."""
    shown = algorithm.explain()
    return ChainStatus(columns=shown.columns, rows=shown.rows, notes=(*shown.notes, *shown.warnings))


def privacy_status(ledger: Ledger | None) -> PrivacyStatus:
    """The privacy budget of a run and what each round releases; empty without noise."""
    if ledger is None:
        return PrivacyStatus()
    terms = ledger.terms
    return PrivacyStatus(
        delta=ledger.delta,
        budgets={str(account): limit for account, limit in ledger.limits.items()},
        sampling=terms.sampling.summary,
        releases=tuple(tuple(row) for row in release_rows(terms.events)),
        others=tuple((each["what"], each["protection"], each["to"]) for each in terms.other),
    )

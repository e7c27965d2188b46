"""The facts of a run that the status shows: its algorithm, its deciding metric, the rounds before a restart."""

from __future__ import annotations

from collections.abc import Sequence

from headway.core.algorithm import Algorithm
from headway.core.facts import PrivacyEvent
from headway.data import known_population
from headway.experiment.run import Run
from headway.federation.operations.status_board import StatusBoard
from headway.federation.operations.status_history import journal_rounds
from headway.federation.operations.status_snapshot import ChainStatus, RoundStatus
from headway.observe.journal import Journal
from headway.observe.run_folder import JOURNAL


def describe_run(board: StatusBoard, run: Run) -> None:
    """Puts the facts of a run that is ready on the board."""
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
    """An algorithm as a table, and the privacy events of a round."""
    shown = algorithm.explain()
    return ChainStatus(
        columns=shown.columns,
        rows=shown.rows,
        notes=(*shown.notes, *shown.warnings),
        privacy=_privacy(algorithm.flows()[-1].events),
    )


def _privacy(events: Sequence[PrivacyEvent]) -> tuple[str, ...]:
    return tuple(
        f"{event.mechanism} noise on {', '.join(event.covers)}: {event.noise_multiplier:g} times the sensitivity of "
        f"{event.sensitivity:g}."
        for event in events
    )

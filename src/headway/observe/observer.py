"""Observers: objects that look at each round of a run, may add remarks to its report, and may stop the run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from headway.core.algorithm import State
from headway.observe.round_report import Alarm, RoundReport
from headway.protocol.reports import Reports


@dataclass(frozen=True, slots=True)
class TrainedRound:
    """A round whose clients have answered, before its state takes the place of the one before.

    report: the round so far, without seconds, alarms and metrics.  before, after: the server's state.
    answered: the clients' reports as they came; in `report` none is counted where too few were.
    available, cohort: the clients that could be asked, and those that were.  population: how many clients there were.
    """

    report: RoundReport
    before: State
    after: State
    answered: Reports
    available: Sequence[str]
    cohort: tuple[str, ...]
    population: int = 0


@dataclass(frozen=True, slots=True)
class EvaluatedRound:
    """A round whose model has been evaluated.

    report: the round with its metrics.  state: the server's, which holds the model.
    nan_losses: the clients whose test loss is NaN, sorted, and "the central test set" where its loss is.
    """

    report: RoundReport
    state: State
    nan_losses: tuple[str, ...] = ()


class Observer:
    """Looks at each round of a run; every hook does nothing unless a subclass overrides it.

    A run has observers of its own (divergence, learning, alarms, the best model, the journal), and takes others:
    `Run(..., observers=[...])`.  Observers are called in their order, those of the run first.

    >>> class Enough(Observer):
    ...     def on_round(self, report):
    ...         return "accuracy is above 0.9" if report.metrics.get("accuracy", 0.0) > 0.9 else None
    """

    def on_trained(self, trained: TrainedRound) -> Sequence[str | Alarm]:
        """Remarks on a round that has trained, before it counts: sentences for the report's notes, and alarms.

        Raises:
            Diverged: to refuse the round; the state before it stays.
        """
        return ()

    def on_evaluated(self, evaluated: EvaluatedRound) -> Sequence[str]:
        """Remarks on the metrics of a round, for the report's notes; called only in rounds that are evaluated.

        Raises:
            Diverged: to stop the run with an error.
        """
        return ()

    def on_round(self, report: RoundReport) -> str | None:
        """Called with each finished round.  A sentence ends the run after this round, and stands in its notes."""
        return None

    def on_recorded(self, report: RoundReport) -> None:
        """Called with each round that stands in the journal, before a checkpoint holds it; not without a run folder."""

    def to_state(self) -> Mapping[str, Any]:
        """The values that a resumed run needs of the observer, such as JSON can hold; kept in each checkpoint."""
        return {}

    def from_state(self, kept: Mapping[str, Any]) -> None:
        """Goes on from what `to_state` gave at the checkpoint that a run is resumed from."""

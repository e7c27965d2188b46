"""The observers of a run: its own (divergence, learning, alarms, the best model), and then those of the user."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import Any

from headway.data.dataset.labels import LabelCounts
from headway.experiment.best_model import BestModel
from headway.experiment.evaluator import MetricFacts
from headway.experiment.federation import Federation
from headway.experiment.replay import RoundReplay
from headway.experiment.run_ledger import RunLedger
from headway.experiment.run_options import RunOptions
from headway.observe.alarms import AlarmWatch
from headway.observe.divergence import Divergence, loss_before_training
from headway.observe.learning import Learning
from headway.observe.observer import EvaluatedRound, Observer, TrainedRound
from headway.observe.round_report import Alarm, RoundReport
from headway.observe.run_folder import RunFolder
from headway.privacy.ledger import Ledger as Ledger


class RunObservers:
    """Calls the observers of a run, and puts their remarks into the report.

    start: the round that the run goes on from.  folder: where the best model and the privacy ledger are kept.
    options: of the run, with the user's observers.  replay: has the releases of rounds that are gone through again.

    Raises:
        ConfigError, RunFolderError: if the privacy budget, or the ledger that is there, allows no round.
    """

    def __init__(
        self,
        federation: Federation,
        facts: MetricFacts,
        *,
        start: int,
        folder: RunFolder | None,
        options: RunOptions,
        replay: RoundReplay,
    ) -> None:
        module, algorithm = federation.flat_module, federation.algorithm
        statistics = module.statistics_layout if federation.averages_statistics else None
        self.divergence = Divergence(algorithm, statistics, partial(_loss_before_training, federation))
        self.learning = Learning(
            start,
            lambda: self.divergence.start_loss,
            headline=facts.headline,
            constant=facts.reference,
            answer=facts.constant.answer,
        )
        self.alarms = AlarmWatch(None if (held := federation.known.held) is None else LabelCounts(held))
        self.best = BestModel(facts.headline, folder)
        place = None if folder is None else folder.path
        self.ledger = RunLedger(federation, options.privacy, replay, folder=place, rounds=options.rounds, start=start)
        self.others = tuple(options.observers)
        own = (self.divergence, self.learning, self.alarms, self.best, self.ledger)
        self._all: tuple[Observer, ...] = (*own, *self.others)

    def on_trained(self, trained: TrainedRound) -> tuple[list[str], tuple[Alarm, ...]]:
        """The notes and alarms about a round that has trained.

        Raises:
            Diverged: if one of them refuses it.
        """
        remarks = [remark for each in self._all for remark in each.on_trained(trained)]
        alarms = tuple(remark for remark in remarks if isinstance(remark, Alarm))
        return [remark for remark in remarks if isinstance(remark, str)], alarms

    def on_evaluated(self, evaluated: EvaluatedRound) -> RoundReport:
        """The report of an evaluated round, with the remarks on its metrics.

        Raises:
            Diverged: if one of them stops the run.
        """
        notes = [note for each in self._all for note in each.on_evaluated(evaluated)]
        return replace(evaluated.report, notes=(*evaluated.report.notes, *notes))

    def on_round(self, report: RoundReport) -> list[str]:
        """The reasons to end the run after this round; none if it goes on."""
        return [reason for each in self._all if (reason := each.on_round(report)) is not None]

    def on_recorded(self, report: RoundReport) -> None:
        """A round that stands in the journal."""
        for each in self._all:
            each.on_recorded(report)

    def to_state(self) -> dict[str, Any]:
        """The values that a checkpoint keeps: the run's by their names, those of others by their classes."""
        kept: dict[str, Any] = {**self.best.to_state(), **self.divergence.to_state(), **self.ledger.to_state()}
        others = {name: dict(each.to_state()) for name, each in self._named().items()}
        others = {name: values for name, values in others.items() if values}
        return {**kept, "observers": others} if others else kept

    def from_state(self, kept: Mapping[str, Any]) -> None:
        """Goes on from the values of a checkpoint."""
        self.best.from_state(kept)
        self.divergence.from_state(kept)
        self.ledger.from_state(kept)
        for name, each in self._named().items():
            if name in (others := kept.get("observers", {})):
                each.from_state(others[name])

    def _named(self) -> dict[str, Observer]:
        """The user's observers by the names of their classes, numbered where several have one."""
        named: dict[str, Observer] = {}
        for each in self.others:
            name, count = type(each).__qualname__, 1
            while name in named:
                count += 1
                name = f"{type(each).__qualname__}-{count}"
            named[name] = each
        return named


def _loss_before_training(federation: Federation) -> float | None:
    if (held := federation.known.held) is None:
        return None
    module, algorithm = federation.flat_module, federation.algorithm
    return loss_before_training(module, held, algorithm.initial_state(module.shared.cpu()))

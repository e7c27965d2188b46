"""One round of training: measures what the sampler asks for, draws the cohort, and carries out the round's effects."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from headway.core.algorithm import State
from headway.experiment.federation import Federation
from headway.experiment.population import refresh_sizes
from headway.experiment.quarantine import Quarantine
from headway.experiment.replay import RoundReplay
from headway.numerics.keys import Key
from headway.observe.observer import TrainedRound
from headway.observe.round_report import RoundReport
from headway.protocol.effects import EffectHandler, Reserve
from headway.protocol.exchange_bytes import exchange_bytes
from headway.protocol.messages import Answer, Ask, Exchange, Settle
from headway.training.trainer import Trainer


class RoundDriver:
    """Carries out rounds of an algorithm on an engine.

    reserve: writes the privacy events of a release before it is made, given the size of the cohort and the number of
    clients.
    """

    def __init__(self, federation: Federation) -> None:
        self.federation, self.replay = federation, RoundReplay(federation)
        self.quarantine = Quarantine(federation)
        self.reserve: Callable[[Reserve, int, int], None] = _grant

    def perform(self, ask: Ask) -> Answer:
        """Carries out one effect of a round: has the engine put it to the clients."""
        answer = self.federation.engine.ask(ask)
        return replace(answer, exchanged=exchange_bytes(ask, answer)) if isinstance(ask.request, Exchange) else answer

    def train(self, before: State) -> TrainedRound:
        """The round that starts from a state; nothing of it counts until `settle`."""
        federation = self.federation
        algorithm, engine = federation.algorithm, federation.engine
        available = engine.candidates(lambda clients: algorithm.enough(clients, engine.busy))
        refresh_sizes(federation.history, federation.known)
        drawable, released = self.quarantine.drawable(before, available)
        measured = self._measure(before, drawable)
        cohort = algorithm.cohort(drawable, before.round, federation.key, engine.busy, federation.history)
        population = federation.population
        after, answers = self._drive(before, cohort, population)
        report = replace(RoundReport.of(after.round, answers, measured), lr=self._learning_rate(before.round))
        report = replace(report, notes=(*report.notes, *self.replay.take_notices(), *released))
        report = self.quarantine.judged(before, report, answers)
        answered = report.clients
        if (short := algorithm.too_few(report.count("counted"))) is not None:
            report = replace(report, clients=answered.uncounted(short), notes=(*report.notes, short))
        return TrainedRound(report, before, after, answered, available, cohort, population)

    def settle(self, trained: TrainedRound) -> Sequence[str]:
        """Gives the clients the verdict on the round, by which those that were counted keep their memory; notes."""
        counted = trained.report.clients.with_status("counted").clients
        return self.federation.engine.ask(Ask(Settle(round=trained.before.round), counted)).notes

    def record(self, trained: TrainedRound) -> None:
        """Adds the round to the clients' history and their standings."""
        self.quarantine.settle()
        if (history := self.federation.history) is not None:
            history.record_round(trained.before.round, trained.available, trained.cohort, trained.report.clients)

    def _drive(self, before: State, cohort: tuple[str, ...], population: int) -> tuple[State, list[Answer]]:
        """Drives the algorithm's round to its end: the state after it, and the clients' answers in order."""
        federation = self.federation
        effects = federation.algorithm.round(
            before,
            cohort,
            key=federation.key,
            layout=federation.flat_module.layout,
            flows=federation.flows,
            population=population,
            system=Key.system() if federation.system else None,
            attempt=federation.engine.attempt,
        )
        handler = EffectHandler(self.perform, lambda effect: self.reserve(effect, len(cohort), population))
        return self.replay.drive(effects, before, handler)

    def _measure(self, state: State, available: Sequence[str]) -> Answer:
        """Has the losses measured that the sampler asks for before it draws."""
        federation, history = self.federation, self.federation.history
        ask = federation.algorithm.measure(state, available, federation.key, history)
        if ask is None or history is None:
            return Answer()
        answer = self.perform(ask)
        history.set_fresh_losses(answer.reports)
        return answer

    def _learning_rate(self, round_: int) -> float | None:
        """The trainer's learning rate in a round."""
        trainer = self.federation.algorithm.trainer
        return trainer.rate(round_) if isinstance(trainer, Trainer) else None


def _grant(effect: Reserve, asked: int, population: int) -> None:
    """Grants a reservation, before there is a ledger."""

"""The evaluation of a run: which metrics are defined, which one decides, and their values after a round."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from headway.client.constant_metrics import Constant, constant_metrics
from headway.client.evaluation import mean_metrics
from headway.core.algorithm import State
from headway.data import ClientData
from headway.experiment.federation import Federation
from headway.model.personal_model import initial_note
from headway.model.task import Task
from headway.model.undefined_metrics import deciding, undefined_metrics
from headway.observe.observer import EvaluatedRound
from headway.observe.round_report import RoundReport
from headway.protocol.messages import Answer, Ask, Evaluate, Message

CENTRAL = "the central test set"
UNSEEN = (
    "the chain protects single clients, so none is evaluated on its own test part: such metrics would be a release "
    'without noise. A central test set costs nothing; privacy.client_metrics = "released" evaluates clients all the '
    "same, and the privacy ledger lists it."
)


@dataclass(frozen=True)
class MetricFacts:
    """The facts about a run's metrics that are known before it trains.

    headline: the metric that decides which model is best.  undefined: the metrics that are not defined on the data,
    and why.  constant: the metrics of the best constant answer.
    """

    headline: str
    undefined: Mapping[str, str]
    constant: Constant

    @classmethod
    def of(cls, task: Task, known: ClientData, with_clients: bool) -> MetricFacts:
        """The facts of a task on some data; with_clients: whether clients are evaluated."""
        if (data := known.held) is None:  # what the examples decide is not known
            return cls(task.headline, {}, Constant())
        undefined = undefined_metrics(task, data)
        constant = constant_metrics(task, data) if with_clients else Constant()
        return cls(deciding(task, undefined), undefined, constant)

    @property
    def reference(self) -> Mapping[str, float]:
        """The metrics of the constant answer, where models are judged."""
        return self.constant.central or self.constant.clients

    def record(self) -> dict[str, Any]:
        """The facts as a run folder keeps them."""
        return {"headline": self.headline, "undefined": self.undefined, "constant": asdict(self.constant)}


class Evaluator:
    """Evaluates the model of a round on every client and on the central test set.

    every: in rounds; `None` evaluates no client.  released: whether clients are evaluated also under a chain that
    protects them, which releases their metrics without noise.
    notices: what a user should know of what is not evaluated.
    """

    def __init__(self, federation: Federation, every: int | None, released: bool = False) -> None:
        self.federation, self.every = federation, every
        self.asks_clients = every is not None and (released or not federation.algorithm.protected)
        self.notices = [UNSEEN] if every is not None and not self.asks_clients else []
        self.facts = MetricFacts.of(federation.task, federation.known, self.asks_clients)

    def is_due(self, round_: int) -> bool:
        """Whether a round is to be evaluated that is not the last."""
        return self.every is not None and round_ % self.every == 0

    def evaluate(self, report: RoundReport, state: State, last: bool) -> EvaluatedRound:
        """The report with the metrics of every client and of the central test set; last: whether no round follows."""
        federation, answer = self.federation, Answer()
        if self.asks_clients:
            message = Message(state.model, buffers=state.buffers)
            answer = federation.engine.ask(Ask(Evaluate(message, state.round), tuple(federation.engine.clients())))
        scores = {r.client: r.metrics for r in answer.reports}
        sizes = dict(zip(answer.reports.clients, answer.reports.examples, strict=True))
        central = {} if federation.central is None else federation.central.score(state)
        named = {**scores, **({CENTRAL: central} if central else {})}
        nan_losses = tuple(sorted(name for name, each in named.items() if math.isnan(each.get("loss", 0.0))))
        notes = report.notes
        if report.round == 1 or last:
            initial = initial_note(federation.flat_module, list(scores), federation.memory)
            notes = (*notes, initial) if initial else notes
        means = mean_metrics(scores, sizes) | dict(answer.figures)
        visible = {} if federation.algorithm.protected else scores
        report = replace(report, metrics=means, central=central, evaluation=visible, notes=notes)
        return EvaluatedRound(report, state, nan_losses)

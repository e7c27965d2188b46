"""What one round was, as numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from headway.core.ask import Answer, ClientReport
from headway.observe.alarm import Alarm


@dataclass(frozen=True, slots=True)
class RoundReport:
    """One finished round.

    round: rounds completed.  train_loss: mean over the counted clients' examples.
    metrics: mean over clients' own test parts, weighted by examples.  central: on the test set of nobody's.
    clients: what became of each client asked.  earlier: asks that came to nothing, to clients that were asked again.
    flying: who was asked and may still answer in a later round, and when it was asked, in seconds of the clock.
    evaluation: each client's metrics, where it was evaluated.
    drift: how far the updates pulled apart (see `observe.drift`), where it was measured.
    clock: of a simulated clock, in its seconds: when the round began and ended, and how long clients worked in vain;
    and of how many clients.
    alarms: which clients pull where (see `observe.alarm`).  notes: what else happened, in sentences.
    seconds: of training and aggregation.  bytes: as a message's frame counts them.
    """

    round: int
    train_loss: float | None
    clients: tuple[ClientReport, ...]
    seconds: float
    bytes_up: int
    bytes_down: int
    metrics: Mapping[str, float] = field(default_factory=dict)
    central: Mapping[str, float] = field(default_factory=dict)
    evaluation: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    evaluation_seconds: float = 0.0
    drift: Mapping[str, float] = field(default_factory=dict)
    clock: Mapping[str, float] = field(default_factory=dict)
    earlier: tuple[ClientReport, ...] = ()
    flying: Mapping[str, float] = field(default_factory=dict)
    alarms: tuple[Alarm, ...] = ()
    notes: tuple[str, ...] = ()

    @classmethod
    def of(cls, round_: int, answers: Sequence[Answer], measured: Answer) -> RoundReport:
        """The report of a round, without its seconds; measured: the answer to what was asked before it."""
        clients = tuple(report for answer in answers for report in answer.reports)
        earlier = tuple(report for answer in answers for report in answer.earlier)
        sent = (*measured.reports, *clients, *earlier)
        return cls(
            round=round_,
            train_loss=_mean_loss(clients),
            clients=clients,
            seconds=0.0,
            bytes_up=sum(report.bytes_up for report in sent),
            bytes_down=sum(report.bytes_down for report in sent),
            drift={name: figure for answer in answers for name, figure in answer.figures.items()},
            clock={name: figure for answer in (measured, *answers) for name, figure in answer.clock.items()},
            earlier=earlier,
            flying={client: asked for answer in answers for client, asked in answer.flying.items()},
            notes=tuple(note for answer in answers for note in answer.notes),
        )

    def count(self, status: str) -> int:
        """How many of the clients asked ended as "counted", "rejected" or "dropped"."""
        return sum(report.status == status for report in self.clients)

    def headline(self, name: str) -> float | None:
        """A metric: on the central test set where there is one, else over the clients."""
        return self.central.get(name, self.metrics.get(name))


def _mean_loss(reports: Sequence[ClientReport]) -> float | None:
    """The counted clients' mean training loss, by examples; `None` where it is protected."""
    known = [
        (r.examples, r.metrics["train_loss"]) for r in reports if r.status == "counted" and "train_loss" in r.metrics
    ]
    weight = sum(examples for examples, _ in known)
    return sum(examples * loss for examples, loss in known) / weight if weight else None

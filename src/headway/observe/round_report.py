"""The report of one round, as numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from operator import mul
from typing import Literal

from headway.protocol.messages import Answer
from headway.protocol.reports import Reports, total

AlarmKind = Literal["against", "above", "clusters"]


@dataclass(frozen=True, slots=True)
class Alarm:
    """One remarkable fact of a round (see `observe.alarms`).

    clients: the clients concerned, sorted.  clusters: for the kind "clusters", the clients of each, the largest first.
    text: a sentence.  numbers: the figures that it rests on.
    """

    kind: AlarmKind
    clients: tuple[str, ...]
    text: str
    numbers: Mapping[str, float] = field(default_factory=dict)
    clusters: tuple[tuple[str, ...], ...] = ()


@dataclass(frozen=True, slots=True)
class RoundReport:
    """One finished round.

    round: rounds completed.  train_loss: mean over the counted clients' examples.
    metrics: mean over clients' own test parts, weighted by examples.  central: on the central test set.
    clients: the outcome of each client asked.  earlier: failed requests to clients that were asked again.
    Of both, any sequence of reports is kept as `Reports`.
    flying: clients whose replies are still open, and when each was asked, in seconds of the clock.
    evaluation: each client's metrics, where it was evaluated.
    drift: how far the updates point apart (see `observe.drift`), where it was measured.
    clock: of a simulated clock, in its seconds: when the round began and ended, and how long clients worked in vain;
    and of how many clients.
    lr: the learning rate with which clients began the round, where the trainer has one.
    privacy: what the run has spent with this round: the epsilon of each account of its ledger, and the "delta".
    reputation: the score of each client asked, after the round, where the algorithm has one (see `Reputation`).
    quarantine: the clients that are not drawn in the next round, each with the last round of its quarantine.
    alarms: see `observe.alarms`.  notes: other events, in sentences.
    seconds: of training and aggregation.  bytes: as a message's frame counts them; exchanged: of these, the bytes of a
    protocol's exchanges, "up" and "down", where it has any.
    """

    round: int
    train_loss: float | None
    clients: Reports
    seconds: float
    bytes_up: int
    bytes_down: int
    metrics: Mapping[str, float] = field(default_factory=dict)
    central: Mapping[str, float] = field(default_factory=dict)
    evaluation: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    evaluation_seconds: float = 0.0
    drift: Mapping[str, float] = field(default_factory=dict)
    clock: Mapping[str, float] = field(default_factory=dict)
    earlier: Reports = field(default_factory=Reports)
    flying: Mapping[str, float] = field(default_factory=dict)
    alarms: tuple[Alarm, ...] = ()
    notes: tuple[str, ...] = ()
    lr: float | None = None
    privacy: Mapping[str, float] = field(default_factory=dict)
    reputation: Mapping[str, float] = field(default_factory=dict)
    quarantine: Mapping[str, int] = field(default_factory=dict)
    exchanged: Mapping[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        object.__setattr__(self, "clients", Reports.of(self.clients))
        object.__setattr__(self, "earlier", Reports.of(self.earlier))

    @classmethod
    def of(cls, round_: int, answers: Sequence[Answer], measured: Answer) -> RoundReport:
        """The report of a round, without its seconds; measured: the answer to what was asked before it."""
        clients = Reports.joined(answer.reports for answer in answers)
        earlier = Reports.joined(answer.earlier for answer in answers)
        sent = (measured.reports, clients, earlier)
        up, down = (sum(answer.exchanged[way] for answer in answers) for way in (0, 1))
        return cls(
            round=round_,
            train_loss=_mean_loss(clients),
            clients=clients,
            seconds=0.0,
            bytes_up=up + sum(total(part.bytes_up) for part in sent),
            bytes_down=down + sum(total(part.bytes_down) for part in sent),
            drift={name: figure for answer in answers for name, figure in answer.figures.items()},
            clock={name: figure for answer in (measured, *answers) for name, figure in answer.clock.items()},
            earlier=earlier,
            flying={client: asked for answer in answers for client, asked in answer.flying.items()},
            notes=tuple(note for answer in answers for note in answer.notes),
            exchanged={"up": up, "down": down} if up or down else {},
        )

    def count(self, status: str) -> int:
        """The number of clients asked that ended as "counted", "rejected" or "dropped"."""
        return self.clients.statuses.count(status)

    def headline(self, name: str) -> float | None:
        """A metric: on the central test set where there is one, else over the clients."""
        return self.central.get(name, self.metrics.get(name))


def _mean_loss(reports: Reports) -> float | None:
    """The counted clients' mean training loss, by examples; `None` where it is protected."""
    known = reports.with_status("counted").with_metric("train_loss")
    weight = total(known.examples)
    return sum(map(mul, known.examples, known.metric("train_loss"))) / weight if weight else None

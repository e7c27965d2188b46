"""Requests to clients and the answers to them: data only, no sockets, no clock."""

from __future__ import annotations

import hashlib
from abc import ABC
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import torch
from torch import Tensor

from headway.core.update import LeftOut, Tensors, Update, flat_names, unflat_names
from headway.protocol import wire
from headway.protocol.quorum import Quorum
from headway.protocol.reports import ClientReport as ClientReport
from headway.protocol.reports import Reports
from headway.protocol.sums import ExactTotal


@dataclass(frozen=True, slots=True)
class Message:
    """The tensors that every client of a cohort receives: the model `[P]`, averaged buffers `[B]` where the task has
    them, and each stage's broadcast."""

    params: Tensor
    stages: Mapping[str, Tensors] = field(default_factory=dict)
    buffers: Tensor | None = None

    def tensors(self) -> dict[str, Tensor]:
        """All tensors under flat names, as they go on the wire."""
        return flat_names(self.params, self.buffers, self.stages, "")

    def digest(self, without: str) -> bytes:
        """The SHA-256 digest of all tensors, of their names, shapes and number types, but for those of one stage."""
        found = hashlib.sha256()
        for name, tensor in sorted(
            replace(self, stages={k: v for k, v in self.stages.items() if k != without}).tensors().items()
        ):
            found.update(repr((name, str(tensor.dtype), tuple(tensor.shape))).encode())
            found.update(wire.raw(tensor))
        return found.digest()

    @classmethod
    def from_tensors(cls, named: Tensors, prefix: str = "") -> Message:
        """The message of these tensors, under the names that `tensors` gives them; prefix: before those of stages."""
        params, buffers, stages = unflat_names(named, prefix)
        return cls(params, stages, buffers)

    @classmethod
    def stacked(cls, messages: Sequence[Message]) -> Message:
        """The messages of clients that were asked with different models, `[C, P]`; the one message, if it is one."""
        first = messages[0]
        if all(message is first for message in messages):
            return first
        stages = {
            label: {name: torch.stack([m.stages[label][name] for m in messages]) for name in named}
            for label, named in first.stages.items()
        }
        buffers = None if first.buffers is None else _stacked(message.buffers for message in messages)
        return cls(_stacked(message.params for message in messages), stages, buffers)


@dataclass(frozen=True, slots=True)
class Version:
    """A message that is still being answered after its round."""

    round: int
    message: Message


@dataclass(frozen=True, slots=True)
class Request(ABC):
    """A request to participants.

    message: the model and broadcasts that every client of the cohort receives.  round, attempt: the round whose state
    the message holds, and the attempt at that round.  private: named tensors for one client alone.
    """

    message: Message
    round: int = 0
    attempt: int = 0
    private: Tensors = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Train(Request):
    """A request for an update: train from the message's model, combine the steps, send.

    steps: the number of local steps, where it is not the trainer's own.
    """

    steps: int | None = None


@dataclass(frozen=True, slots=True)
class Evaluate(Request):
    """A request for the metrics of the message's model on the client's own test part."""


@dataclass(frozen=True, slots=True)
class Measure(Request):
    """A request for the mean loss of the message's model over the client's training examples."""


@dataclass(frozen=True, slots=True)
class Exchange(Request):
    """A request of a protocol's own, known by its name; the participant's half of the protocol answers it."""

    name: str = ""


def _no_message() -> Message:
    return Message(torch.empty(0))


@dataclass(frozen=True, slots=True)
class Settle(Request):
    """The verdict that ends a round: a client that was counted commits its pending memory, any other drops it.

    The cohort of its ask are the counted clients.
    """

    message: Message = field(default_factory=_no_message)
    counted: bool = True


@dataclass(frozen=True, slots=True)
class Reply:
    """One client's answer to a request."""


@dataclass(frozen=True, slots=True)
class UpdateReply(Reply):
    """The answer to Train: an update, and the figures of the training, if single clients' numbers may be seen.

    figures: "examples", "steps" and "train_loss".
    """

    update: Update
    figures: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Scores(Reply):
    """The answer to Evaluate and Measure: metrics by name, and the number of examples that they are of."""

    metrics: Mapping[str, float]
    examples: int


@dataclass(frozen=True, slots=True)
class ExchangeReply(Reply):
    """The answer to an Exchange: named tensors of the protocol."""

    tensors: Tensors


@dataclass(frozen=True, slots=True)
class Settled(Reply):
    """The answer to Settle: the verdict is carried out."""


@dataclass(frozen=True, slots=True)
class SumReply(Reply):
    """The answer of a relay for its clients: the exact sum of those that it counted, and a report on each client."""

    total: ExactTotal
    reports: Reports


STRAGGLER = "a straggler, and the policy drops those"  # the reason of a client that is dropped


@dataclass(frozen=True, slots=True)
class Declined(Reply):
    """The answer of a client without an update or a score: "dropped" by the trainer's policy, or "rejected" since its
    training failed; and the reason."""

    status: Literal["dropped", "rejected"]
    reason: str


@dataclass(frozen=True, slots=True)
class Ask:
    """An effect: one request to a cohort, whose quorum the engine waits for.

    number: its place among the round's asks.  private: named tensors for single clients, besides the common message.
    earlier: the message, and its round, of clients that were asked before this round.  steps: the number of local steps
    of clients that do not make the trainer's own.
    """

    request: Request
    cohort: tuple[str, ...]
    quorum: Quorum = Quorum()
    number: int = 0
    private: Mapping[str, Tensors] = field(default_factory=dict)
    earlier: Mapping[str, Version] = field(default_factory=dict)
    steps: Mapping[str, int] = field(default_factory=dict)

    @property
    def message(self) -> Message:
        """The message that every client of the cohort receives, if it was not asked earlier."""
        return self.request.message

    @property
    def round(self) -> int:
        """The round of the ask."""
        return self.request.round

    @property
    def attempt(self) -> int:
        """The attempt at the round."""
        return self.request.attempt

    def request_for(self, client: str) -> Request:
        """The request as one client receives it: its own message, round, private tensors and number of steps."""
        changes: dict[str, Any] = {"private": self.private.get(client, {})}
        if client in self.earlier:
            changes |= {"message": self.earlier[client].message, "round": self.earlier[client].round}
        if isinstance(self.request, Train):
            changes["steps"] = self.steps.get(client, self.request.steps)
        return replace(self.request, **changes)

    def exchange(self, name: str, message: Message, cohort: Sequence[str] | None = None) -> Ask:
        """A request of a protocol's own, in the same round, to this cohort or another."""
        request = Exchange(message, self.round, self.attempt, name=name)
        return Ask(request, self.cohort if cohort is None else tuple(cohort), self.quorum)

    def with_message(self, message: Message, cohort: Sequence[str] | None = None) -> Ask:
        """The same request with another message, to this cohort or another."""
        cohort = self.cohort if cohort is None else tuple(cohort)
        return replace(self, request=replace(self.request, message=message), cohort=cohort)

    def asked_in(self, client: str) -> int:
        """The round in which a client was asked."""
        return self.earlier[client].round if client in self.earlier else self.round

    def rounds(self, clients: Sequence[str]) -> list[int]:
        """The rounds in which these clients were asked."""
        return [self.asked_in(client) for client in clients] if self.earlier else [self.round] * len(clients)

    def broadcast_for(self, client: str) -> Message:
        """The message with which a client was asked."""
        return self.earlier[client].message if client in self.earlier else self.message

    def stacked_broadcast(self, clients: Sequence[str]) -> Message:
        """The message of these clients; its vectors are `[C, ...]` if the clients were asked with different ones."""
        return Message.stacked([self.broadcast_for(client) for client in clients]) if self.earlier else self.message

    def ages(self, clients: Sequence[str]) -> list[int]:
        """The number of rounds since each of these clients was asked."""
        return [self.round - round_ for round_ in self.rounds(clients)]

    def of(self, cohort: Sequence[str]) -> Ask:
        """The same request to these clients alone."""
        mine = set(cohort)
        earlier = {client: version for client, version in self.earlier.items() if client in mine}
        steps = {client: count for client, count in self.steps.items() if client in mine}
        private = {client: tensors for client, tensors in self.private.items() if client in mine}
        return replace(self, cohort=tuple(cohort), earlier=earlier, steps=steps, private=private)

    def map_broadcasts(self, bring: Callable[[Message], Message]) -> Ask:
        """The same ask with `bring` applied to each of its messages, such as a move to a device."""
        versions = {each.round: replace(each, message=bring(each.message)) for each in self.versions}
        earlier = {client: versions[version.round] for client, version in self.earlier.items()}
        return replace(self, request=replace(self.request, message=bring(self.message)), earlier=earlier)

    @property
    def versions(self) -> list[Version]:
        """The versions in `earlier`, each once, the oldest first."""
        each = {version.round: version for version in self.earlier.values()}
        return [each[round_] for round_ in sorted(each)]


@dataclass(frozen=True, slots=True)
class Answer:
    """The answer to an ask: the total of the counted updates, replies to a protocol, a report per client, figures of
    the whole cohort (its drift), a clock's figures, in its seconds; sentences about what happened on the way.

    reports, earlier: any sequence of reports is kept as `Reports`.  earlier: reports on asks without an answer, to
    clients on which `reports` holds a later one.  flying: the clients that may still answer in a later round, and the
    time at which each was asked.  deltas: of each counted client its delta, or a sketch of it, where the algorithm
    has a reputation of clients.  exchanged: the bytes up and down of a protocol's exchange.
    """

    total: ExactTotal = field(default_factory=ExactTotal)
    replies: Mapping[str, Tensors] = field(default_factory=dict)
    reports: Reports = field(default_factory=Reports)
    earlier: Reports = field(default_factory=Reports)
    figures: Mapping[str, float] = field(default_factory=dict)
    clock: Mapping[str, float] = field(default_factory=dict)
    flying: Mapping[str, float] = field(default_factory=dict)
    notes: Sequence[str] = ()
    deltas: Tensors = field(default_factory=dict, repr=False)
    exchanged: tuple[int, int] = (0, 0)

    def __post_init__(self) -> None:
        object.__setattr__(self, "reports", Reports.of(self.reports))
        object.__setattr__(self, "earlier", Reports.of(self.earlier))

    def without(self, left_out: Mapping[str, LeftOut]) -> Answer:
        """The same without the updates of some clients, kept one a row, whose reports say why."""
        total, reports, notes = ExactTotal(), self.reports, list(self.notes)
        for client, update in self.total.rows.items():
            if client not in left_out:
                total.add_row(client, update)
        for status, reason in dict.fromkeys(left_out.values()):
            clients = sorted(client for client, why in left_out.items() if why == (status, reason))
            reports = reports.uncounted(f"{reason}.", clients, status)
            notes.append(f"{', '.join(clients)} left out ({status}): {reason}.")
        return replace(self, total=total, reports=reports, notes=notes)

    @property
    def counted(self) -> tuple[str, ...]:
        """The clients whose update is in the total."""
        return self.reports.with_status("counted").clients


def _stacked(vectors: Iterable[Tensor | None]) -> Tensor:
    return torch.stack([vector for vector in vectors if vector is not None])

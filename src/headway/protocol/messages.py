"""What a round asks of clients, and what comes back: data only, no sockets, no clock."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, TypeVar

import torch
from torch import Tensor

from headway.core.errors import ConfigError
from headway.core.registry import check_types
from headway.core.update import Tensors, flat_names
from headway.protocol.reports import ClientReport as ClientReport
from headway.protocol.reports import Reports
from headway.protocol.sums import ExactTotal

R = TypeVar("R")


@dataclass(frozen=True, slots=True)
class Quorum:
    """How many updates a round needs, by when, and what becomes of late ones.

    count: updates that end the round; `None` for all of the cohort.  Below the cohort it is over-selection.
    deadline_s: seconds after which the round goes on with what has arrived.
    late: "drop" them, or "keep" them with their age (buffered asynchrony); the cohort is then those in flight.
    work: what clients do: the "whole" of what the trainer says; "partial": who would miss the deadline sends the local
        steps that it managed until then; "window": everybody makes as many as fit in before the deadline.
    max_age: by how many rounds the model of an update that counts may be behind, if late ones are kept.
    retries: how often a client that fails is asked again in the round; replace: whether another one is asked then.
    lost_after_s: seconds after which a client that does not answer is taken for lost.
    cap: how often a client may count in a whole run.

    Raises:
        ConfigError: for a number out of range, a maximal age where late updates are dropped, or work that depends on
            the deadline where there is none.
    """

    count: int | None = None
    deadline_s: float | None = None
    late: Literal["drop", "keep"] = "drop"
    work: Literal["whole", "partial", "window"] = "whole"
    max_age: int | None = None
    retries: int = 0
    replace: bool = False
    lost_after_s: float = 86_400.0
    cap: int | None = None

    @property
    def summary(self) -> str:
        """When a round ends, and what becomes of late updates, in a line."""
        ends = "all have answered" if self.count is None else f"{self.count} have answered"
        deadline = "" if self.deadline_s is None else f", or after {self.deadline_s:g} s"
        aged = "" if self.max_age is None else f", up to {self.max_age} rounds old"
        late = "late updates are dropped" if self.late == "drop" else f"late updates are kept{aged}"
        part = {
            "whole": "",
            "partial": "; who would miss the deadline sends the steps that it managed",
            "window": "; everybody makes as many steps as fit in before the deadline",
        }[self.work]
        again = f"; who fails is asked {self.retries} times more" if self.retries else ""
        instead = "; others are asked instead" if self.replace else ""
        return f"a round ends when {ends}{deadline}; {late}{part}{again}{instead}"

    def __post_init__(self) -> None:
        check_types(self)
        for name, least in (("count", 1), ("max_age", 0), ("retries", 0), ("cap", 1)):
            number = getattr(self, name)
            if number is not None and number < least:
                raise ConfigError(f"Quorum.{name} must be at least {least}, found {number}.")
        for name in ("deadline_s", "lost_after_s"):
            seconds = getattr(self, name)
            if seconds is not None and not seconds > 0:
                raise ConfigError(f"Quorum.{name} must be above 0 seconds, found {seconds}.")
        if self.work != "whole" and self.deadline_s is None:
            raise ConfigError(
                f'Quorum.work is "{self.work}", and no deadline says when a client must have answered: give '
                "Quorum.deadline_s, or leave it out."
            )
        if self.max_age is not None and self.late != "keep":
            raise ConfigError(
                f'Quorum.max_age is {self.max_age}, but late updates are dropped: say late = "keep", or leave it out.'
            )


@dataclass(frozen=True, slots=True)
class Message:
    """What every client of a cohort is told: the model `[P]`, averaged buffers `[B]` where the task has
    them, and each stage's broadcast."""

    params: Tensor
    stages: Mapping[str, Tensors] = field(default_factory=dict)
    buffers: Tensor | None = None

    def tensors(self) -> dict[str, Tensor]:
        """All tensors under flat names, as they go on the wire."""
        return flat_names(self.params, self.buffers, self.stages, "")

    @classmethod
    def stacked(cls, messages: Sequence[Message]) -> Message:
        """What clients are told who were asked with different models, `[C, P]`; the one message, if it is one."""
        first = messages[0]
        if all(message is first for message in messages):
            return first
        stages = {
            label: {name: torch.stack([m.stages[label][name] for m in messages]) for name in told}
            for label, told in first.stages.items()
        }
        buffers = None if first.buffers is None else _stacked(message.buffers for message in messages)
        return cls(_stacked(message.params for message in messages), stages, buffers)


@dataclass(frozen=True, slots=True)
class Version:
    """A message that is still being answered after its round."""

    round: int
    message: Message


@dataclass(frozen=True, slots=True)
class Ask:
    """One request to a cohort.

    kind: "train"; "evaluate"; "measure", the mean loss of the model over the client's training examples; "settle", the
        verdict that ends a round (its cohort are the clients whose update was counted: they keep their pending
        memory); or a protocol's own.
    private: what single clients are told beside the common message.  earlier: with what those were asked who were asked
        before this round.  steps: how many local steps those make who do not do the work that the trainer says.
    """

    kind: str
    message: Message
    cohort: tuple[str, ...]
    quorum: Quorum = Quorum()
    round: int = 0
    attempt: int = 0
    number: int = 0
    private: Mapping[str, Tensors] = field(default_factory=dict)
    earlier: Mapping[str, Version] = field(default_factory=dict)
    steps: Mapping[str, int] = field(default_factory=dict)

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
        """The message of these clients, each number of it `[C, ...]` if they were asked with different ones."""
        return Message.stacked([self.broadcast_for(client) for client in clients]) if self.earlier else self.message

    def ages(self, clients: Sequence[str]) -> list[int]:
        """How many rounds the model has moved on since these clients were asked."""
        return [self.round - round_ for round_ in self.rounds(clients)]

    def of(self, cohort: Sequence[str]) -> Ask:
        """The same ask to these of the cohort."""
        mine = set(cohort)
        earlier = {client: version for client, version in self.earlier.items() if client in mine}
        steps = {client: count for client, count in self.steps.items() if client in mine}
        return replace(self, cohort=tuple(cohort), earlier=earlier, steps=steps)

    def map_broadcasts(self, bring: Callable[[Message], Message]) -> Ask:
        """The same ask with each of its messages brought to another place."""
        versions = {each.round: replace(each, message=bring(each.message)) for each in self.versions}
        earlier = {client: versions[version.round] for client, version in self.earlier.items()}
        return replace(self, message=bring(self.message), earlier=earlier)

    @property
    def versions(self) -> list[Version]:
        """Those of `earlier`, each once, the oldest first."""
        each = {version.round: version for version in self.earlier.values()}
        return [each[round_] for round_ in sorted(each)]


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back: the total of the counted updates, replies to a protocol, a report per client, figures of the
    whole cohort (its drift), and those of a clock, in its seconds; sentences about what happened on the way.

    reports, earlier: any sequence of reports is kept as `Reports`.  earlier: of asks that came to nothing, to clients
    of whom `reports` tells a later one.  flying: who has been asked and may still answer in a later round, and when it
    was asked.
    """

    total: ExactTotal = field(default_factory=ExactTotal)
    replies: Mapping[str, Tensors] = field(default_factory=dict)
    reports: Reports = field(default_factory=Reports)
    earlier: Reports = field(default_factory=Reports)
    figures: Mapping[str, float] = field(default_factory=dict)
    clock: Mapping[str, float] = field(default_factory=dict)
    flying: Mapping[str, float] = field(default_factory=dict)
    notes: Sequence[str] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "reports", Reports.of(self.reports))
        object.__setattr__(self, "earlier", Reports.of(self.earlier))

    @property
    def counted(self) -> tuple[str, ...]:
        """The clients whose update is in the total."""
        return self.reports.that("counted").clients


def _stacked(vectors: Iterable[Tensor | None]) -> Tensor:
    return torch.stack([vector for vector in vectors if vector is not None])


def drive(asks: Generator[Ask, Answer, R], send: Callable[[Ask], Answer], completed: Sequence[Answer] = ()) -> R:
    """Runs a generator of asks to its end, numbering them; answers already `completed` are replayed.

    A round is deterministic in its start and its answers, so replaying the first ones and asking the rest
    gives the same result as asking all.
    """
    number = 0
    try:
        ask = next(asks)
        while True:
            ask = replace(ask, number=number)
            answer = completed[number] if number < len(completed) else send(ask)
            number += 1
            ask = asks.send(answer)
    except StopIteration as end:
        result: R = end.value
        return result

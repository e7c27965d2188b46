"""What a round asks of clients, and what comes back: data only, no sockets, no clock."""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, TypeVar

from torch import Tensor

from headway.core.errors import ConfigError
from headway.core.total import Total
from headway.core.update import Tensors, flat_names

R = TypeVar("R")


@dataclass(frozen=True, slots=True)
class Quorum:
    """How many updates a round needs, by when, and what becomes of late ones.

    count: updates that end the round; `None` for all of the cohort.  Below the cohort it is over-selection.
    deadline_s: seconds after which the round goes on with what has arrived.
    late: "drop" them, or "keep" them with their age (buffered asynchrony).
    """

    count: int | None = None
    deadline_s: float | None = None
    late: Literal["drop", "keep"] = "drop"

    def __post_init__(self) -> None:
        if self.count is not None and self.count < 1:
            raise ConfigError(f"Quorum.count must be at least 1, found {self.count}.")
        if self.deadline_s is not None and not self.deadline_s > 0:
            raise ConfigError(f"Quorum.deadline_s must be above 0 seconds, found {self.deadline_s}.")


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


@dataclass(frozen=True, slots=True)
class Ask:
    """One request to a cohort.

    kind: "train"; "evaluate"; "settle", the verdict that ends a round (its cohort are the clients whose
        update was counted: they keep their pending memory); or a protocol's own.
    private: what single clients are told beside the common message.
    """

    kind: str
    message: Message
    cohort: tuple[str, ...]
    quorum: Quorum = Quorum()
    round: int = 0
    attempt: int = 0
    number: int = 0
    private: Mapping[str, Tensors] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ClientReport:
    """What became of one client in a round.

    status: "counted"; "rejected" by the guard; "dropped" (a straggler, or lost).
    norm: L2 norm of the delta.  metrics: named numbers, absent where the chain protects the update.
    """

    client: str
    status: Literal["counted", "rejected", "dropped"]
    examples: int = 0
    steps: int = 0
    norm: float | None = None
    seconds: float = 0.0
    bytes_up: int = 0
    bytes_down: int = 0
    metrics: Mapping[str, float] = field(default_factory=dict)
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back: the total of the counted updates, replies to a protocol, a report per client, and
    figures of the whole cohort (its drift); sentences about what happened on the way."""

    total: Total = field(default_factory=Total)
    replies: Mapping[str, Tensors] = field(default_factory=dict)
    reports: Sequence[ClientReport] = ()
    figures: Mapping[str, float] = field(default_factory=dict)
    notes: Sequence[str] = ()

    @property
    def counted(self) -> tuple[str, ...]:
        """The clients whose update is in the total."""
        return tuple(report.client for report in self.reports if report.status == "counted")


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

"""The effects of a round: its needs, carried out by a handler, and replayed when the round is resumed.

A round is a generator of effects, with no I/O inside: `Ask` has a request answered by clients, `Reserve` has a privacy
ledger write events before noise is drawn, `Persist` keeps tensors that must not be made a second time, and `Concluded`
has the answer of a protocol's exchanges.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias, TypeVar

from torch import Tensor

from headway.core.flow import PrivacyEvent
from headway.protocol.messages import Answer, Ask

R = TypeVar("R")


@dataclass(frozen=True, slots=True)
class Reserve:
    """The effect before a noisy release: a ledger writes the events, or refuses, and the round stops before any noise
    is drawn; before clients are asked, if they draw it."""

    events: tuple[PrivacyEvent, ...]
    round: int = 0


@dataclass(frozen=True, slots=True)
class Persist:
    """The effect that keeps tensors under a name until the round is over; a resumed round gets them back."""

    name: str
    tensors: Mapping[str, Tensor]
    round: int = 0


@dataclass(frozen=True, slots=True)
class Concluded:
    """The effect after the exchanges of a protocol, or once a rule has left clients out: the answer that the
    round goes on with, in the place of that to Train.  Where a protocol has ended without a sum, nobody is counted in
    it, and its notes say why."""

    answer: Answer


Effect: TypeAlias = Ask | Reserve | Persist | Concluded


def _grant(effect: Reserve) -> None:
    """Grants a reservation, where there is no ledger."""


@dataclass(frozen=True)
class EffectHandler:
    """Carries out effects.

    ask: has a request answered.  reserve: writes privacy events, and raises a `HeadwayError` where the budget does not
    allow them.  completed: called with each effect and its answer once it is carried out; a `Persist` is kept here.
    """

    ask: Callable[[Ask], Answer]
    reserve: Callable[[Reserve], None] = _grant
    completed: Callable[[Effect, Answer], None] | None = None

    def __call__(self, effect: Effect) -> Answer:
        """The answer to an effect; that to `Persist` holds its tensors under its name."""
        match effect:
            case Ask():
                answer = self.ask(effect)
            case Reserve():
                self.reserve(effect)
                answer = Answer()
            case Persist():
                answer = Answer(replies={effect.name: dict(effect.tensors)})
            case Concluded():
                answer = effect.answer
        if self.completed is not None:
            self.completed(effect, answer)
        return answer


def drive(
    effects: Generator[Effect, Answer, R], handle: Callable[[Effect], Answer], completed: Sequence[Answer] = ()
) -> R:
    """Runs a generator of effects to its end and returns its result; effects with a `completed` answer are replayed.

    Asks are numbered by their place among the effects.  A round is deterministic in its start and its answers, so
    replaying the first answers and carrying out the remaining effects gives the same result as carrying out all.
    """
    number = 0
    try:
        effect = next(effects)
        while True:
            if isinstance(effect, Ask):
                effect = replace(effect, number=number)
            answer = completed[number] if number < len(completed) else handle(effect)
            number += 1
            effect = effects.send(answer)
    except StopIteration as end:
        result: R = end.value
        return result

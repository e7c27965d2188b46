"""The abstract sampler: the choice of the cohort of a round."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

from headway.core.flow import SamplerFacts
from headway.core.registry import Plain, Registry
from headway.numerics.keys import Key
from headway.protocol.client_history import ClientHistory


@dataclass(frozen=True)
class Sampler(Plain, ABC):
    """Picks the cohort: a pure function of the available clients, the round, a key and the clients' history.

    history: the columns that its facts list.  busy: how many others are at work on earlier asks, whose late updates are
    kept.  They are part of the sampler's number, so as many are drawn as are missing.
    """

    @abstractmethod
    def draw(
        self, clients: Sequence[str], round: int, key: Key, history: ClientHistory | None = None, busy: int = 0
    ) -> tuple[str, ...]:
        """The cohort, sorted by name."""

    def measured(
        self, clients: Sequence[str], round: int, key: Key, history: ClientHistory | None = None
    ) -> tuple[str, ...]:
        """The clients whose training loss of the round's model must be measured before `draw`, sorted; none, for most.

        The answers are in `history.fresh` then, without clients that did not answer.
        """
        return ()

    def enough(self, clients: Sequence[str]) -> bool:
        """Whether a cohort can be drawn from these available clients."""
        return bool(clients)

    @abstractmethod
    def facts(self, population: int | None) -> SamplerFacts:
        """The sampler's promises, for stages that account for it."""


samplers: Registry[Sampler] = Registry("sampler", "headway.samplers")

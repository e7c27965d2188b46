"""The abstract sampler: who is asked in a round."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

from headway.core.flow import SamplerFacts
from headway.core.keys import Key
from headway.core.registry import Registry


@dataclass(frozen=True)
class Sampler(ABC):
    """Picks the cohort: a pure function of the population, the round and a key."""

    @abstractmethod
    def draw(self, clients: Sequence[str], round: int, key: Key) -> tuple[str, ...]:
        """The cohort, sorted by name."""

    def enough(self, clients: Sequence[str]) -> bool:
        """Whether a cohort can be drawn from these, who are there."""
        return bool(clients)

    @abstractmethod
    def facts(self, population: int | None) -> SamplerFacts:
        """What the sampler promises, for stages that account for it."""


samplers: Registry[Sampler] = Registry("sampler", "headway.samplers")

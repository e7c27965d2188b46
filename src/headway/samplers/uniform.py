"""Samplers that need no history: all clients, an even draw, named ones."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

from headway.core.errors import ConfigError, nearest
from headway.core.fields import at_least, between
from headway.core.flow import SamplerFacts
from headway.core.names import place_in
from headway.core.sampler import Sampler, samplers
from headway.numerics.keys import Key
from headway.protocol.client_history import ClientHistory
from headway.samplers.drawing import evenly, in_order, number_to_draw

MOST_NAMES = 10_000  # among which the nearest to a misspelt one is looked for


def _likely(name: str, known: Sequence[str]) -> str:
    """The end of a sentence on a name that is not among the known ones, which are sorted."""
    return nearest(name, known) if len(known) <= MOST_NAMES else f": {len(known)} are, {known[0]!r} to {known[-1]!r}"


@final
@samplers.register
@dataclass(frozen=True)
class All(Sampler):
    """Everybody, every round (full participation).

    >>> All().draw(["b", "a"], 0, Key.root(0))
    ('a', 'b')
    """

    def draw(
        self, clients: Sequence[str], round: int, key: Key, history: ClientHistory | None = None, busy: int = 0
    ) -> tuple[str, ...]:
        """All clients that are available and not at work, sorted."""
        return tuple(in_order(clients))

    def facts(self, population: int | None) -> SamplerFacts:
        """The cohort is the population."""
        return SamplerFacts("all", population, population)


@final
@samplers.register
@dataclass(frozen=True)
class Uniform(Sampler):
    """A fixed number, or share, of the clients, drawn evenly without replacement.

    Give `count`, or `share` (the paper's C; at least one client).  The draw is a pure function of the round's
    key and the population.

    Raises:
        ConfigError: unless exactly one of them is given and in range; when drawing, if the population is smaller.

    Reference: McMahan et al., arXiv 1602.05629, Algorithm 1.

    >>> len(Uniform(count=2).draw(["a", "b", "c"], 0, Key.root(0)))
    2
    """

    count: int | None = at_least(1, None)
    share: float | None = between(0, 1, None, without=0)

    def __post_init__(self) -> None:
        if (self.count is None) == (self.share is None):
            raise ConfigError(f"Uniform needs either count or share, found {self!r}.")

    def draw(
        self, clients: Sequence[str], round: int, key: Key, history: ClientHistory | None = None, busy: int = 0
    ) -> tuple[str, ...]:
        """The drawn clients, sorted."""
        ordered = in_order(clients)
        size = number_to_draw(self, self._size(len(ordered) + busy), len(ordered), busy)
        return tuple(ordered[place] for place in evenly(len(ordered), size, key))

    def enough(self, clients: Sequence[str]) -> bool:
        """Whether as many are available as are drawn."""
        return bool(clients) and len(clients) >= self._size(len(clients))

    def facts(self, population: int | None) -> SamplerFacts:
        """The cohort has a fixed size."""
        expected = float(self._size(population)) if population is not None else self.count
        return SamplerFacts("uniform", expected, population)

    def _size(self, population: int) -> int:
        if self.count is not None:
            return self.count
        assert self.share is not None
        return max(1, math.floor(self.share * population + 0.5))


@final
@samplers.register
@dataclass(frozen=True)
class Fixed(Sampler):
    """The same named clients every round.

    Raises:
        ConfigError: if no name is given, or one twice; when drawing, if one is not in the population.

    >>> Fixed(clients=("b", "a")).draw(["a", "b", "c"], 0, Key.root(0))
    ('a', 'b')
    """

    clients: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not self.clients or len(set(self.clients)) != len(self.clients):
            raise ConfigError(f"Fixed needs at least one client, each once, found {list(self.clients)}.")

    def draw(
        self, clients: Sequence[str], round: int, key: Key, history: ClientHistory | None = None, busy: int = 0
    ) -> tuple[str, ...]:
        """The named clients, sorted; only the available ones, while others are at work on earlier asks."""
        ordered = in_order(clients)
        if busy:
            return tuple(sorted(name for name in self.clients if place_in(ordered, name) is not None))
        for name in self.clients:
            if place_in(ordered, name) is None:
                raise ConfigError(f"Fixed names the client {name!r}, which is not available{_likely(name, ordered)}.")
        return tuple(sorted(self.clients))

    def enough(self, clients: Sequence[str]) -> bool:
        """Whether all of them are available."""
        return all(place_in(clients, name) is not None for name in self.clients)

    def facts(self, population: int | None) -> SamplerFacts:
        """The cohort is the named clients."""
        return SamplerFacts("fixed", float(len(self.clients)), population)

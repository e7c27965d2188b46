"""Samplers by what a server knows of every client anyway: its size, its participation, its availability."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

from torch import Tensor

from headway.core.fields import at_least
from headway.core.flow import SamplerFacts
from headway.core.sampler import samplers
from headway.numerics.keys import Key
from headway.protocol.client_history import ClientHistory
from headway.samplers.drawing import FixedNumber, by_weight, first_of


@final
@samplers.register
@dataclass(frozen=True)
class BySize(FixedNumber):
    """A fixed number without replacement, with probability proportional to the number of training examples.

        P(next = i | drawn so far) = n_i / sum of n_j over those not yet drawn

    The clients are drawn one after another like this (successive sampling, by exponential keys).  The probability to be
    in the cohort is then a little less than proportional for the large, the more so the larger the cohort; all of it is
    exact for a count of 1.

    Who is drawn by size must not count by size again: with `Mean(over="clients")` the mean over the cohort stands for
    the mean over all examples, which is scheme I of the paper.  `Uniform` with `Mean(over="examples")` is scheme II,
    but for the denominator, which there is fixed.

    Differs from the paper: scheme I draws with replacement; here no client is asked twice in a round.

    Raises:
        ConfigError: if count is below 1; when drawing, if fewer are available.

    Reference: Li et al., arXiv 1907.02189, schemes I and II; Efraimidis & Spirakis (2006), Algorithm A.

    >>> import torch
    >>> history = ClientHistory(("a", "b", "c"), torch.tensor([1, 1, 1000]), {"sizes"})
    >>> BySize(count=1).draw(("a", "b", "c"), 0, Key.root(0), history)
    ('c',)
    """

    def choose(self, history: ClientHistory, places: Tensor, count: int, round: int, key: Key) -> list[int]:
        """By size, one after another."""
        chosen: list[int] = places[by_weight(history.sizes[places], count, key)].tolist()
        return chosen

    def facts(self, population: int | None) -> SamplerFacts:
        """The cohort has a fixed size; the clients' sizes are read."""
        return SamplerFacts("by size", float(self.count), population, reads=frozenset({"sizes"}))


@final
@samplers.register
@dataclass(frozen=True)
class RoundRobin(FixedNumber):
    """A fixed number, the least often asked clients first; equal ones by an order drawn for the round.

        S = the `count` clients with the smallest (asked_i, u_i),    u_i uniform

    While all are available, all N clients are asked within ceil(N / count) rounds, and how often two were asked never
    differs by more than one.  Who was away comes first when it is back.  Asked is asked, whether an update came or not.

    Raises:
        ConfigError: if count is below 1; when drawing, if fewer are available.

    Reference: round robin among the scheduling policies of Yang et al., arXiv 1908.06287.

    >>> import torch
    >>> people = tuple("abcd")
    >>> history = ClientHistory(people, torch.ones(4, dtype=torch.int64), {"participation"})
    >>> first = RoundRobin(count=2).draw(people, 0, Key.root(0), history)
    >>> history.record_round(0, people, first, [])
    >>> sorted((*first, *RoundRobin(count=2).draw(people, 1, Key.root(1), history)))
    ['a', 'b', 'c', 'd']
    """

    def choose(self, history: ClientHistory, places: Tensor, count: int, round: int, key: Key) -> list[int]:
        """The least often asked ones."""
        drawn = first_of(count, history.column("asked", places), key.bits(len(places)))
        chosen: list[int] = places[drawn].tolist()
        return chosen

    def facts(self, population: int | None) -> SamplerFacts:
        """The cohort has a fixed size; how often each was asked is read."""
        return SamplerFacts("round robin", float(self.count), population, reads=frozenset({"participation"}))


@final
@samplers.register
@dataclass(frozen=True)
class Spaced(FixedNumber):
    """A fixed number, the least often asked clients first, of those whose last update is `separation` rounds ago.

        S = the `count` clients with the smallest (asked_i, u_i) among those with  round - last_i >= separation

    So no client is counted twice in `separation` rounds in a row, whoever is available and whoever joins: the
    participation that banded matrix factorisation needs (MatrixNoise).  Where fewer have rested for long enough, fewer
    are asked; `separation count` clients are always enough.

    Raises:
        ConfigError: if count or separation is below 1; when drawing, if fewer than `count` are available.
        ChainRefused: in an algorithm that keeps late updates.

    Reference: Choquette-Choo et al., arXiv 2306.08153, section 3 (b-min-sep participation).

    >>> import torch
    >>> from headway.protocol.reports import ClientReport
    >>> people = tuple("abcd")
    >>> history = ClientHistory(people, torch.ones(4, dtype=torch.int64), {"participation"})
    >>> cohorts = []
    >>> for round in range(4):
    ...     cohort = Spaced(count=2, separation=2).draw(people, round, Key.root(round), history)
    ...     history.record_round(round, people, cohort, [ClientReport(client, "counted") for client in cohort])
    ...     cohorts.append(cohort)
    >>> [set(one) & set(two) for one, two in zip(cohorts, cohorts[1:])]
    [set(), set(), set()]
    """

    separation: int = at_least(1, 1)

    def choose(self, history: ClientHistory, places: Tensor, count: int, round: int, key: Key) -> list[int]:
        """The least often asked ones that have rested."""
        last = history.column("last", places)
        rested = places[(last < 0) | (round - last >= self.separation)]
        drawn = first_of(min(count, len(rested)), history.column("asked", rested), key.bits(len(rested)))
        chosen: list[int] = rested[drawn].tolist()
        return chosen

    def facts(self, population: int | None) -> SamplerFacts:
        """The cohort has a fixed size, while enough clients have rested; how often and when each was asked is read."""
        return SamplerFacts(
            "spaced",
            float(self.count),
            population,
            reads=frozenset({"participation"}),
            tops_up=False,
            separation=self.separation,
        )


@final
@samplers.register
@dataclass(frozen=True)
class LeastAvailable(FixedNumber):
    """A fixed number without replacement, with more weight the more seldom a client has been available.

        w_i = (R + 1) / (R_i + 1),    R: rounds so far, R_i: the ones in which i was available when the round began

    R_i + 1 counts this round too, as the clients that are drawn from are available.  With even draws, clients that are
    always available train the model, and rare ones less than their share.  Where all are always available it is
    `Uniform`.  The weights are for drawing and do not enter the mean.

    Differs from the papers: REFL asks each client for a prediction of its availability in the rounds to come, and takes
    the least available ones; here the share is observed, and the draw is by chance, so that no client is left out.
    F3AST learns the rates at which its own policy asks clients, and weights the mean by their inverse too.

    Raises:
        ConfigError: if count is below 1; when drawing, if fewer are available.

    Reference: Abdelmoniem et al. (REFL), arXiv 2111.01108 (least-available prioritization); Ribero et al. (F3AST),
    arXiv 2205.06730.

    >>> import torch
    >>> history = ClientHistory(("a", "b"), torch.tensor([4, 4]), {"availability"})
    >>> for round in range(999):
    ...     history.record_round(round, ("a",), (), [])
    >>> LeastAvailable(count=1).draw(("a", "b"), 999, Key.root(0), history)
    ('b',)
    """

    def choose(self, history: ClientHistory, places: Tensor, count: int, round: int, key: Key) -> list[int]:
        """By how seldom they were available, one after another."""
        weights = (history.rounds + 1) / (history.column("seen", places) + 1).double()
        chosen: list[int] = places[by_weight(weights, count, key)].tolist()
        return chosen

    def facts(self, population: int | None) -> SamplerFacts:
        """The cohort has a fixed size; in how many rounds each was available is read."""
        return SamplerFacts("least available", float(self.count), population, reads=frozenset({"availability"}))

"""Each client for itself: the sampling whose privacy is best understood."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import final

from headway.core.fields import at_least, between
from headway.core.flow import SamplerFacts
from headway.core.sampler import Sampler, samplers
from headway.numerics.keys import Key
from headway.protocol.client_history import ClientHistory
from headway.samplers.drawing import in_order, smallest


@final
@samplers.register
@dataclass(frozen=True)
class Poisson(Sampler):
    """Each client with the same probability, independently of the others; with `most`, an even subset of no more.

        P(i in S) = rate,    all independent;    if |S| > most: a uniform subset of S of that size

    The size of a cohort is random, rate N on average, and may be 0: then no client is asked, and only the round
    advances.  This is the sampling that the accounting of subsampled Gaussian noise assumes, and it is only that while
    all are available in every round.  With `most` it is truncated Poisson sampling, which needs an accounting of its
    own; the facts call the two "poisson" and "truncated poisson".  Late updates cannot be kept: clients at work could
    not be drawn.

    Raises:
        ConfigError: unless 0 < rate <= 1 and most is at least 1.
        ChainRefused: in an algorithm that keeps late updates.

    Reference: Abadi et al., arXiv 1607.00133, section 3.1 (lots), and McMahan et al., arXiv 1710.06963, Algorithm 1 (of
    clients); Chua et al., arXiv 2411.04205, for batches of at most a size.

    >>> [len(Poisson(rate=0.5).draw("abcd", round, Key.root(round))) for round in range(4)]
    [2, 2, 4, 1]
    >>> Poisson(rate=0.5, most=2).facts(4).kind, Poisson(rate=0.5, most=9).facts(4).expected
    ('truncated poisson', 2.0)
    """

    rate: float = between(0, 1, without=0)
    most: int | None = at_least(1, None)

    def draw(
        self, clients: Sequence[str], round: int, key: Key, history: ClientHistory | None = None, busy: int = 0
    ) -> tuple[str, ...]:
        """The drawn clients, sorted; perhaps none."""
        ordered = in_order(clients)
        drawn = (key.uniform(len(ordered)) < self.rate).nonzero().flatten()
        if self.most is not None and len(drawn) > self.most:
            drawn = drawn[smallest(key.derive("most").bits(len(drawn)), self.most)]
        return tuple(ordered[place] for place in drawn.tolist())

    def facts(self, population: int | None) -> SamplerFacts:
        """The rate, and the mean size of a cohort."""
        kind = "poisson" if self.most is None else "truncated poisson"
        expected = None if population is None else _mean(population, float(self.rate), self.most)
        return SamplerFacts(kind, expected, population, float(self.rate), self.most, tops_up=False)


@lru_cache(maxsize=64)
def _mean(population: int, rate: float, most: int | None) -> float:
    """E min(X, most), X binomial: most - sum_{k < most} (most - k) P(X = k).

    >>> _mean(4, 0.5, None), round(_mean(4, 0.5, 1), 12), _mean(3, 1.0, 2)
    (2.0, 0.9375, 2.0)
    """
    if most is None or most >= population:
        return population * rate
    if rate == 1:
        return float(most)
    ways = math.lgamma(population + 1)
    chances = (
        math.exp(
            ways
            - math.lgamma(k + 1)
            - math.lgamma(population - k + 1)
            + k * math.log(rate)
            + (population - k) * math.log1p(-rate)
        )
        for k in range(most)
    )
    return most - math.fsum((most - k) * chance for k, chance in enumerate(chances))

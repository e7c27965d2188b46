"""Robust rules that take each coordinate by itself."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import ClassVar, final

from headway.core.context import ServerContext
from headway.core.fields import at_least
from headway.core.flow import Flow
from headway.core.stage import Aggregator, Place, stages
from headway.core.update import Rows, Tensors, Update
from headway.numerics.order_statistics import (
    Block,
    mean_around_median_of_sorted,
    median_of_sorted,
    of_sorted_columns,
    trimmed_mean_of_sorted,
)
from headway.stages.robust.rule_facts import robust_facts

ONE_VECTOR = "each coordinate would be taken from other clients in each vector"


@final
@stages.register
@dataclass(frozen=True)
class Median(Aggregator):
    """The median of the updates in each coordinate.

    Formula: `x_j = median(x_1j, ..., x_nj)`; of an even number of updates, the mean of the two in the middle.
    Shapes: rows `[C, P]`, aggregate `[P]`.  Weights are not used: each client counts the same.

    f: how many attackers it is to withstand, at most; it needs n >= 2 f + 1 updates.
    Where clients hold unlike data, the median of their updates may be far from the mean, and with label-sorted data
    near zero in most coordinates: put NNM before it (`NNM(f, then=Median(f))`).

    Raises:
        ConfigError: if f is negative.
        ChainRefused: behind a secure sum, with weights, with a sparsifier, with vectors beside the delta, or with too
            few updates in a round.

    Reference: Yin et al., arXiv 1803.01498, Definition 1.

    >>> Median(f=2)
    Median(f=2)
    """

    place: ClassVar[Place] = Place.AGGREGATE
    whole_cohort: ClassVar[bool] = True
    f: int = at_least(0, 1)

    def connect(self, flow: Flow) -> Flow:
        """Needs a majority of honest updates."""
        return robust_facts(super().connect(flow), self, self.f, 2 * self.f + 1, ONE_VECTOR)

    def reduce(self, rows: Rows, state: Tensors, ctx: ServerContext) -> tuple[Update, Tensors]:
        """The median of each coordinate."""
        return by_coordinate(rows, median_of_sorted), state


@final
@stages.register
@dataclass(frozen=True)
class TrimmedMean(Aggregator):
    """The mean of the updates in each coordinate, without its f smallest and f largest numbers.

    Formula: `x_j = (x_(f+1)j + ... + x_(n-f)j) / (n - 2f)`, x_(i)j being in ascending order.
    Shapes: rows `[C, P]`, aggregate `[P]`.  Weights are not used: each client counts the same.

    f: how many attackers it is to withstand, at most; it needs n >= 2 f + 1 updates.  f = 0 is the mean over clients.

    Raises:
        ConfigError: if f is negative.
        ChainRefused: behind a secure sum, with weights, with a sparsifier, with vectors beside the delta, or with too
            few updates in a round.

    Reference: Yin et al., arXiv 1803.01498, Definition 2, with beta = f / n.

    >>> TrimmedMean(f=2)
    TrimmedMean(f=2)
    """

    place: ClassVar[Place] = Place.AGGREGATE
    whole_cohort: ClassVar[bool] = True
    f: int = at_least(0, 1)

    def connect(self, flow: Flow) -> Flow:
        """Needs a majority of honest updates."""
        return robust_facts(super().connect(flow), self, self.f, 2 * self.f + 1, ONE_VECTOR)

    def reduce(self, rows: Rows, state: Tensors, ctx: ServerContext) -> tuple[Update, Tensors]:
        """The trimmed mean of each coordinate."""
        return by_coordinate(rows, partial(trimmed_mean_of_sorted, trimmed=self.f)), state


@final
@stages.register
@dataclass(frozen=True)
class MeanAroundMedian(Aggregator):
    """The mean, in each coordinate, of the n - f numbers nearest to the median.

    Formula: `x_j = 1 / (n - f) * sum of the n - f numbers x_ij with the smallest |x_ij - median_j|`; of two at the same
    distance the lower one is kept.
    Shapes: rows `[C, P]`, aggregate `[P]`.  Weights are not used: each client counts the same.

    f: how many attackers it is to withstand, at most; it needs n >= 2 f + 1 updates.  f = 0 is the mean over clients.

    Raises:
        ConfigError: if f is negative.
        ChainRefused: behind a secure sum, with weights, with a sparsifier, with vectors beside the delta, or with too
            few updates in a round.

    Reference: Xie, Koyejo, Gupta, arXiv 1802.10116, section 4 (mean around median).

    >>> MeanAroundMedian(f=2)
    MeanAroundMedian(f=2)
    """

    place: ClassVar[Place] = Place.AGGREGATE
    whole_cohort: ClassVar[bool] = True
    f: int = at_least(0, 1)

    def connect(self, flow: Flow) -> Flow:
        """Needs a majority of honest updates."""
        return robust_facts(super().connect(flow), self, self.f, 2 * self.f + 1, ONE_VECTOR)

    def reduce(self, rows: Rows, state: Tensors, ctx: ServerContext) -> tuple[Update, Tensors]:
        """The mean around the median of each coordinate."""
        return by_coordinate(rows, partial(mean_around_median_of_sorted, kept=len(rows.names) - self.f)), state


def by_coordinate(rows: Rows, statistic: Callable[[Block], Block]) -> Update:
    """The aggregate of a statistic of each coordinate, from the clients' numbers in ascending order `[W, C]`."""
    vectors = {name: of_sorted_columns(vector, statistic) for name, vector in rows.vectors.items()}
    return Update(vectors, rows.weights.double().sum())

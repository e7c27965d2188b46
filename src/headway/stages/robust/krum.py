"""Robust rules that choose among the updates by the distances between them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from typing import ClassVar, final

import torch
from torch import Tensor

from headway.core.context import ServerContext
from headway.core.fields import at_least
from headway.core.flow import Flow
from headway.core.stage import Aggregator, Place, stages
from headway.core.update import Rows, Tensors, Update
from headway.numerics.distances import squared_distances
from headway.numerics.order_statistics import mean_around_median_of_sorted
from headway.stages.robust.coordinate_rules import ONE_VECTOR, by_coordinate
from headway.stages.robust.rule_facts import DistanceRule, products_of, robust_facts


@final
@stages.register
@dataclass(frozen=True)
class Krum(DistanceRule):
    """The one update that lies nearest to its neighbours.

    Formula: `x = x_k`, k being the client with the smallest score `s_i`, the sum of `||x_i - x_j||^2` over the
    n - f - 2 other updates nearest to x_i; of equal scores the one whose next neighbour is nearer, then the first by
    name.
    Shapes: rows `[C, P]`, aggregate `[P]`; all vectors that travel are taken as one.  Weights are not used.

    f: how many attackers it is to withstand, at most; it needs n >= 2 f + 3 updates.
    The aggregate is one client's update as it is, so a noise that hides single clients cannot be calibrated to it.

    Raises:
        ConfigError: if f is negative.
        ChainRefused: behind a secure sum, with weights, with a sparsifier, or with too few updates in a round.

    Reference: Blanchard et al., NeurIPS 2017 (arXiv 1703.02757), section 4.

    >>> Krum(f=2)
    Krum(f=2)
    """

    place: ClassVar[Place] = Place.AGGREGATE
    f: int = at_least(0, 1)

    def connect(self, flow: Flow) -> Flow:
        """Needs n - f - 2 neighbours, of which most are honest."""
        return robust_facts(super().connect(flow), self, self.f, 2 * self.f + 3)

    def coefficients(self, gram: Tensor) -> Tensor:
        """1 for the update with the smallest score."""
        return chosen(by_score(squared_distances(gram), self.f), 1)


@final
@stages.register
@dataclass(frozen=True)
class MultiKrum(DistanceRule):
    """The mean of the updates that lie nearest to their neighbours.

    Formula: the mean of the `keep` updates with the smallest scores of Krum, which are computed once.
    Shapes: rows `[C, P]`, aggregate `[P]`; all vectors that travel are taken as one.  Weights are not used.

    f: how many attackers it is to withstand, at most; it needs n >= 2 f + 3 updates.
    keep: how many updates are averaged, at most n - f; `None` for n - f.

    Raises:
        ConfigError: if f is negative or keep is below 1.
        ChainRefused: behind a secure sum, with weights, with a sparsifier, or with too few updates in a round.

    Reference: Blanchard et al., NeurIPS 2017 (arXiv 1703.02757), section 5 (m-Krum); n - f as in arXiv 2302.01772.

    >>> MultiKrum(f=2)
    MultiKrum(f=2, keep=None)
    """

    place: ClassVar[Place] = Place.AGGREGATE
    f: int = at_least(0, 1)
    keep: int | None = at_least(1, None)

    def connect(self, flow: Flow) -> Flow:
        """Needs n - f - 2 neighbours, of which most are honest, and enough updates to keep."""
        return robust_facts(super().connect(flow), self, self.f, max(2 * self.f + 3, (self.keep or 0) + self.f))

    def coefficients(self, gram: Tensor) -> Tensor:
        """Equal ones for the updates with the smallest scores."""
        return chosen(by_score(squared_distances(gram), self.f), self.keep or len(gram) - self.f)


@final
@stages.register
@dataclass(frozen=True)
class Bulyan(Aggregator):
    """Updates chosen by Krum one after another, then the mean around their median in each coordinate.

    Formula: Krum picks theta = n - 2f updates, each time among the ones that are left, with new scores from the
    m - f - 2 nearest of the m that are left (at least one), of equal scores as Krum does: with one neighbour the two
    nearest to each other have the same.  Then `x_j` is the mean of the theta - 2f numbers nearest to the median of the
    chosen ones in coordinate j.
    Shapes: rows `[C, P]`, aggregate `[P]`.  Weights are not used.

    f: how many attackers it is to withstand, at most; it needs n >= 4 f + 3 updates.

    Raises:
        ConfigError: if f is negative.
        ChainRefused: behind a secure sum, with weights, with a sparsifier, with vectors beside the delta, or with too
            few updates in a round.

    Reference: El Mhamdi, Guerraoui, Rouault, arXiv 1802.07927, section 4.
    Differs from Flower's present implementation, which computes the scores once.

    >>> Bulyan(f=1)
    Bulyan(f=1)
    """

    place: ClassVar[Place] = Place.AGGREGATE
    whole_cohort: ClassVar[bool] = True
    f: int = at_least(0, 1)

    def connect(self, flow: Flow) -> Flow:
        """Needs theta - 2f chosen updates, of which most are honest."""
        return robust_facts(super().connect(flow), self, self.f, 4 * self.f + 3, ONE_VECTOR)

    def reduce(self, rows: Rows, state: Tensors, ctx: ServerContext) -> tuple[Update, Tensors]:
        """The mean around the median of the chosen updates."""
        count = len(rows.names) - 2 * self.f
        picked = torch.tensor(sorted(picked_by_krum(squared_distances(products_of(rows)), self.f, count)))
        some = replace(rows, vectors={name: vector[picked] for name, vector in rows.vectors.items()})
        return by_coordinate(some, partial(mean_around_median_of_sorted, kept=count - 2 * self.f)), state


def krum_scores(squared: Tensor, f: int, more: int = 0) -> Tensor:
    """Of each update, the sum of its squared distances `[C, C]` to the n - f - 2 nearest others (at least one), and to
    so many more, `[C]`.

    >>> krum_scores(torch.tensor([[0.0, 1.0, 4.0], [1.0, 0.0, 1.0], [4.0, 1.0, 0.0]]), 0)
    tensor([1., 1., 1.])
    """
    count = len(squared)
    others = squared.masked_fill(torch.eye(count, dtype=torch.bool), torch.inf)
    nearest = others.sort(dim=1).values[:, : min(max(count - f - 2, 1) + more, max(count - 1, 1))]
    return torch.where(nearest.isinf(), torch.zeros_like(nearest), nearest).sum(1)


def by_score(squared: Tensor, f: int) -> Tensor:
    """The places of the updates in the ascending order of their scores `[C]`; of equal ones the one with the smaller
    score of one more neighbour is before the other, so that it does not matter who has sent which.

    >>> by_score(torch.tensor([[0.0, 1.0, 4.0], [1.0, 0.0, 1.0], [4.0, 1.0, 0.0]]), 0)
    tensor([1, 0, 2])
    """
    places = krum_scores(squared, f, more=1).sort(stable=True).indices
    return places[krum_scores(squared, f)[places].sort(stable=True).indices]


def picked_by_krum(squared: Tensor, f: int, count: int) -> list[int]:
    """The places of so many updates, each the one that Krum picks among the ones that are left."""
    left, picked = list(range(len(squared))), list[int]()
    while len(picked) < count:
        place = torch.tensor(left)
        picked.append(left.pop(int(by_score(squared[place][:, place], f)[0])))
    return picked


def chosen(order: Tensor, count: int) -> Tensor:
    """The coefficients `[C]` of the mean of the first updates in this order."""
    coefficients = torch.zeros(len(order), dtype=torch.float64)
    coefficients[order[:count]] = 1 / count
    return coefficients

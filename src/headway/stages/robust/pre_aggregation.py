"""Pre-aggregation: updates are mixed or shortened before another robust rule aggregates them."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import ClassVar, final

import torch
from torch import Tensor

from headway.core.context import ServerContext
from headway.core.fields import at_least
from headway.core.flow import Flow
from headway.core.stage import Aggregator, Place, stages
from headway.core.update import Rows, Tensors, Update
from headway.numerics.distances import mixed_rows, squared_distances
from headway.numerics.keys import Key
from headway.stages.clipping import shortening
from headway.stages.robust.krum import Krum
from headway.stages.robust.rule_facts import DistanceRule, check_rule, combined, products_of, robust_facts


@final
@stages.register
@dataclass(frozen=True)
class NNM(Aggregator):
    """Nearest-neighbour mixing: each update becomes the mean of its n - f nearest, then another rule aggregates.

    Formula: `y_i = 1 / (n - f) * sum of the n - f updates with the smallest ||x_i - x_j||_2`, x_i itself among them; of
    equal distances the first by name; then `then` of y_1 ... y_n.
    Shapes: rows `[C, P]`, aggregate `[P]`; all vectors that travel are taken as one.  Weights are not used.

    f: how many attackers it is to withstand, at most; it needs n >= 2 f + 1 updates, and as many as `then` needs.
    then: the rule that aggregates what was mixed, usually with the same f.

    The mixing takes away most of what honest clients differ in, so that the rule behind it is not misled by unlike
    data: put it before any other rule, unless clients' data are alike.

    Raises:
        ConfigError: if f is negative, or `then` is no rule for a whole cohort.
        ChainRefused: behind a secure sum, with weights, with a sparsifier, or with too few updates in a round; and as
            `then` refuses.

    Reference: Allouah et al., AISTATS 2023 (arXiv 2302.01772), Algorithm 2.

    >>> NNM(f=2, then=Krum(f=2))
    NNM(f=2, then=Krum(f=2))
    """

    place: ClassVar[Place] = Place.AGGREGATE
    whole_cohort: ClassVar[bool] = True
    f: int = at_least(0, 1)
    then: Aggregator = Krum()

    def __post_init__(self) -> None:
        check_rule(self, self.then)

    def connect(self, flow: Flow) -> Flow:
        """Needs a majority of honest updates, and what the rule behind it needs."""
        return robust_facts(super().connect(self.then.connect(flow)), self, self.f, 2 * self.f + 1)

    def init(self, w: Tensor) -> Tensors:
        """The state of the rule behind it."""
        return self.then.init(w)

    def reduce(self, rows: Rows, state: Tensors, ctx: ServerContext) -> tuple[Update, Tensors]:
        """The other rule's aggregate of the mixed updates.

        What a rule by distances takes of them follows from the inner products; for any other they are computed.
        """
        gram = products_of(rows)
        mixing = nearest_mixing(squared_distances(gram), self.f)
        if isinstance(self.then, DistanceRule):
            return combined(rows, self.then.coefficients(mixing @ gram @ mixing.T) @ mixing), state
        return self.then.reduce(mixed(rows, mixing), state, ctx)


@final
@stages.register
@dataclass(frozen=True)
class Bucketing(Aggregator):
    """Updates are put into buckets at random, and another rule aggregates the means of the buckets.

    Formula: pi being a random permutation, `y_b = mean of x_pi(i), i = size (b - 1) + 1 ... min(size b, n)`; then
    `then` of the n / size (rounded up) means.
    Shapes: rows `[C, P]`, aggregate `[P]`.  Weights are not used.

    size: how many updates a bucket has.  `then` must withstand as many attackers as there are clients that attack,
        since each may spoil a bucket of its own; it needs its number of updates in buckets.

    Raises:
        ConfigError: if size is below 1, or `then` is no rule for a whole cohort.
        ChainRefused: behind a secure sum, with weights, with a sparsifier, or with too few updates in a round; and as
            `then` refuses.

    Reference: Karimireddy, He, Jaggi, arXiv 2006.09365, Algorithm 1.

    >>> Bucketing(size=2, then=Krum(f=1))
    Bucketing(size=2, then=Krum(f=1))
    """

    place: ClassVar[Place] = Place.AGGREGATE
    whole_cohort: ClassVar[bool] = True
    size: int = at_least(1, 2)
    then: Aggregator = Krum()

    def __post_init__(self) -> None:
        check_rule(self, self.then)

    def connect(self, flow: Flow) -> Flow:
        """Needs as many buckets as the rule behind it needs updates."""
        inner = self.then.connect(flow)
        fewest = self.size * (inner.min_updates - 1) + 1
        return robust_facts(super().connect(inner), self, inner.attackers, fewest)

    def init(self, w: Tensor) -> Tensors:
        """The state of the rule behind it."""
        return self.then.init(w)

    def reduce(self, rows: Rows, state: Tensors, ctx: ServerContext) -> tuple[Update, Tensors]:
        """The other rule's aggregate of the buckets' means."""
        assert isinstance(ctx.key, Key)  # of the server there is one
        order = ctx.key.derive("buckets").permutation(len(rows.names))
        return self.then.reduce(mixed(rows, bucket_mixing(order, self.size)), state, ctx)


@final
@stages.register
@dataclass(frozen=True)
class AdaptiveRobustClipping(Aggregator):
    """The longest updates are shortened to the length of the next longest, then another rule aggregates.

    Formula: `k = floor(2 f (n - f) / n)`; C is the length of the (k + 1)-th longest update;
    `y_i = x_i min(1, C / ||x_i||_2)`; then `then` of y_1 ... y_n.
    Shapes: rows `[C, P]`, aggregate `[P]`; all vectors that travel are taken as one.  Weights are not used.

    f: how many attackers it is to withstand, at most; it needs n >= 2 f + 1 updates, and as many as `then` needs.

    Raises:
        ConfigError: if f is negative, or `then` is no rule for a whole cohort.
        ChainRefused: behind a secure sum, with weights, with a sparsifier, or with too few updates in a round; and as
            `then` refuses.

    Reference: Allouah et al., arXiv 2405.14432, Algorithm 2.

    >>> AdaptiveRobustClipping(f=1, then=NNM(f=1, then=Krum(f=1)))
    AdaptiveRobustClipping(f=1, then=NNM(f=1, then=Krum(f=1)))
    """

    place: ClassVar[Place] = Place.AGGREGATE
    whole_cohort: ClassVar[bool] = True
    f: int = at_least(0, 1)
    then: Aggregator = Krum()

    def __post_init__(self) -> None:
        check_rule(self, self.then)

    def connect(self, flow: Flow) -> Flow:
        """Needs a majority of honest updates, and what the rule behind it needs."""
        return robust_facts(super().connect(self.then.connect(flow)), self, self.f, 2 * self.f + 1)

    def init(self, w: Tensor) -> Tensors:
        """The state of the rule behind it."""
        return self.then.init(w)

    def reduce(self, rows: Rows, state: Tensors, ctx: ServerContext) -> tuple[Update, Tensors]:
        """The other rule's aggregate of the shortened updates."""
        norms = rows.norms()
        clipped = math.floor(2 * self.f * (len(norms) - self.f) / len(norms))
        longest = norms.sort(descending=True).values[clipped]
        factors = shortening(norms, longest)
        short = {name: part * factors.to(part.dtype).unsqueeze(-1) for name, part in rows.vectors.items()}
        return self.then.reduce(replace(rows, vectors=short), state, ctx)


def nearest_mixing(squared: Tensor, f: int) -> Tensor:
    """The matrix `[C, C]` that replaces each row by the mean of its n - f nearest, from the squared distances `[C, C]`.

    >>> nearest_mixing(torch.tensor([[0.0, 1.0, 9.0], [1.0, 0.0, 4.0], [9.0, 4.0, 0.0]]), 1)
    tensor([[0.5000, 0.5000, 0.0000],
            [0.5000, 0.5000, 0.0000],
            [0.0000, 0.5000, 0.5000]], dtype=torch.float64)
    """
    kept = len(squared) - f
    nearest = squared.sort(dim=1, stable=True).indices[:, :kept]
    return torch.zeros(squared.shape, dtype=torch.float64).scatter_(1, nearest, 1 / kept)


def bucket_mixing(order: Tensor, size: int) -> Tensor:
    """The matrix `[buckets, C]` that takes the means of rows in this order, `size` at a time; the last may have fewer.

    >>> bucket_mixing(torch.tensor([2, 0, 1]), 2)
    tensor([[0.5000, 0.0000, 0.5000],
            [0.0000, 1.0000, 0.0000]], dtype=torch.float64)
    """
    buckets = order.split(size)
    mixing = torch.zeros(len(buckets), len(order), dtype=torch.float64)
    for place, members in enumerate(buckets):
        mixing[place, members] = 1 / len(members)
    return mixing


def mixed(rows: Rows, mixing: Tensor) -> Rows:
    """The rows `mixing @ x`, with the weights of as many clients; a mixture is no client's, so that names are
    numbers."""
    vectors = {name: mixed_rows(part, mixing) for name, part in rows.vectors.items()}
    names = rows.names if len(mixing) == len(rows.names) else tuple(f"bucket {i:06d}" for i in range(len(mixing)))
    weights = mixing.to(rows.weights.dtype) @ rows.weights
    return Rows(names, vectors, weights)

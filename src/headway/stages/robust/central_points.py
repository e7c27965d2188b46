"""Robust rules that seek a point in the middle of the updates."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, final

import torch
from torch import Tensor

from headway.core.context import ServerContext
from headway.core.fields import at_least, positive
from headway.core.flow import Flow
from headway.core.stage import Aggregator, Place, stages
from headway.core.update import Rows, Tensors, Update
from headway.numerics.distances import distances_from, products_about_middle, squared_distances, weighted_sum
from headway.stages.clipping import shortening
from headway.stages.robust.rule_facts import DistanceRule, combined, robust_facts

TOLERANCE = 1e-12  # of the coefficients, relative to 1 / C, at which the geometric median is found
MOST_STEPS = 10_000


@final
@stages.register
@dataclass(frozen=True)
class GeometricMedian(DistanceRule):
    """The point whose distances to all updates have the smallest sum.

    Formula: `x = argmin_v sum_i ||x_i - v||_2`, by Weiszfeld's iteration `v <- sum_i (x_i / d_i) / sum_i (1 / d_i)`,
    d_i = ||x_i - v||, until it rests, from the mean of the updates weighted by their median distance to the
    others, inverted.  The iteration runs on the inner products of the
    updates, so that these are read twice, however many steps it takes.  An update that is itself the optimum, which
    the iteration would reach only in the limit, is found by the condition
    `||sum_{j: x_j != x_k} (x_j - x_k) / d_jk|| < number of updates equal to x_k`.
    Shapes: rows `[C, P]`, aggregate `[P]`; all vectors that travel are taken as one.  Weights are not used.

    f: how many attackers it is to withstand, at most; it needs n >= 2 f + 1 updates.

    Raises:
        ConfigError: if f is negative.
        ChainRefused: behind a secure sum, with weights, with a sparsifier, or with too few updates in a round.

    Reference: Pillutla, Kakade, Harchaoui, arXiv 1912.13445; Vardi and Zhang, PNAS 97 (2000), for optima at a point.
    Differs from implementations that stop after a few steps: this one converges.

    >>> GeometricMedian(f=2)
    GeometricMedian(f=2)
    """

    place: ClassVar[Place] = Place.AGGREGATE
    f: int = at_least(0, 1)

    def connect(self, flow: Flow) -> Flow:
        """Needs a majority of honest updates."""
        return robust_facts(super().connect(flow), self, self.f, 2 * self.f + 1)

    def coefficients(self, gram: Tensor) -> Tensor:
        """Of the geometric median."""
        return geometric_median(gram)


@final
@stages.register
@dataclass(frozen=True)
class CentredClipping(Aggregator):
    """The mean of the updates, each clipped about a centre that is kept from round to round.

    Formula: `v <- v + 1/n sum_i (x_i - v) min(1, tau / ||x_i - v||_2)`, `iterations` times, from the aggregate of the
    round before; from 0 in the first round.
    Shapes: rows `[C, P]`, aggregate `[P]`; all vectors that travel are taken as one.  Weights are not used.
    Units: tau is that of the parameters.

    tau: the radius; a huge one is the mean over clients.
    f: how many attackers it is to withstand, at most; it needs n >= 2 f + 1 updates.
    The paper's guarantee needs updates that vary little from round to round: put ClientMomentum before it.

    Raises:
        ConfigError: if f is negative, tau is not above 0, or iterations is below 1.
        ChainRefused: behind a secure sum, with weights, with a sparsifier, or with too few updates in a round.

    Reference: Karimireddy, He, Jaggi, arXiv 2012.10333, Algorithm 2.

    >>> CentredClipping(tau=10.0)
    CentredClipping(tau=10.0, iterations=1, f=1)
    """

    place: ClassVar[Place] = Place.AGGREGATE
    whole_cohort: ClassVar[bool] = True
    tau: float = positive(10.0)
    iterations: int = at_least(1, 1)
    f: int = at_least(0, 1)

    def connect(self, flow: Flow) -> Flow:
        """Needs a majority of honest updates."""
        return robust_facts(super().connect(flow), self, self.f, 2 * self.f + 1)

    def init(self, w: Tensor) -> Tensors:
        """The centre 0."""
        return {"delta": torch.zeros_like(w, dtype=torch.float64)}

    def reduce(self, rows: Rows, state: Tensors, ctx: ServerContext) -> tuple[Update, Tensors]:
        """The clipped mean about the centre, which is the next centre."""
        parts = rows.vectors
        centre = {name: state.get(name, part.new_zeros(part.shape[1]).double()) for name, part in parts.items()}
        share = self._shares(list(parts.values()), list(centre.values()))
        moved = {name: weighted_sum(part, share[:-1]) + share[-1] * centre[name] for name, part in parts.items()}
        return Update(moved, rows.weights.double().sum()), moved

    def _shares(self, parts: list[Tensor], centre: list[Tensor]) -> Tensor:
        """The shares of the updates, and of the centre, in the next centre, `[C + 1]`."""
        if self.iterations == 1:
            return shares_about(distances_from(parts, centre), self.tau)
        return clipped_about(products_about_middle(parts, last=centre), self.tau, self.iterations)


@final
@stages.register
@dataclass(frozen=True)
class NormBound(Aggregator):
    """The mean of the updates, each clipped by the server to a norm.

    Formula: `x = 1/n sum_i x_i min(1, norm / ||x_i||_2)`.
    Shapes: rows `[C, P]`, aggregate `[P]`; all vectors that travel are taken as one.  Weights are not used.
    Units: norm is that of the parameters.  A huge norm is the mean over clients.

    One attacker moves the aggregate by at most `norm / n`, wherever it wants: this bounds a model replacement and is no
    defence against many attackers.  Clip does the same at the client, whom one must then trust.

    Raises:
        ConfigError: unless norm > 0.
        ChainRefused: behind a secure sum, with weights, or with a sparsifier.

    Reference: Sun et al., arXiv 1911.07963, section 4 (norm thresholding).

    >>> NormBound(norm=1.0)
    NormBound(norm=1.0)
    """

    place: ClassVar[Place] = Place.AGGREGATE
    whole_cohort: ClassVar[bool] = True
    norm: float = positive(1.0, infinite=True)

    def connect(self, flow: Flow) -> Flow:
        """Needs each update, of clients that count the same."""
        return robust_facts(super().connect(flow), self, 0, 1)

    def reduce(self, rows: Rows, state: Tensors, ctx: ServerContext) -> tuple[Update, Tensors]:
        """The mean of the clipped updates."""
        return combined(rows, shortening(rows.norms(), self.norm) / len(rows.names)), state


def geometric_median(gram: Tensor) -> Tensor:
    """The coefficients `[C]`, which add up to 1, of the geometric median of rows with these inner products `[C, C]`.

    >>> geometric_median(torch.tensor([0.0, 1.0, 5.0]).outer(torch.tensor([0.0, 1.0, 5.0])).double()).round(decimals=6)
    tensor([0., 1., 0.], dtype=torch.float64)
    """
    gram = gram.double()
    count, scale = len(gram), float(gram.diagonal().median())  # which no minority of huge rows moves
    if not gram.any() or count == 1:
        return torch.full((count,), 1 / count, dtype=torch.float64)
    if (place := _optimal_row(gram)) is not None:
        return torch.nn.functional.one_hot(torch.tensor(place), count).double()
    nearness = squared_distances(gram).median(1).values.sqrt().clamp_min(max(1e-6 * scale**0.5, 1e-150)).reciprocal()
    share = nearness / nearness.sum()  # not the mean, which huge rows would take far from all others
    for _ in range(MOST_STEPS):
        inverse = _distances_from(gram, share).clamp_min(max(1e-15 * scale**0.5, 1e-150)).reciprocal()
        before, share = share, inverse / inverse.sum()
        if float((share - before).abs().max()) <= TOLERANCE / count:
            break
    return share


def clipped_about(gram: Tensor, tau: float, iterations: int) -> Tensor:
    """The coefficients `[C + 1]` of centred clipping, the last row of the inner products being the centre."""
    count = len(gram) - 1
    share = torch.nn.functional.one_hot(torch.tensor(count), count + 1).double()
    for _ in range(iterations):
        moved = shares_about(_distances_from(gram, share)[:-1], tau)
        share = moved[-1] * share
        share[:-1] += moved[:-1]
    return share


def shares_about(distances: Tensor, tau: float) -> Tensor:
    """The shares `[C + 1]` of the rows, and last of the centre, after one step from these distances `[C]` to it."""
    pull = shortening(distances, tau) / len(distances)
    return torch.cat([pull, 1 - pull.sum(0, keepdim=True)])


def _distances_from(gram: Tensor, share: Tensor) -> Tensor:
    """The distances of the rows from the point `sum_i share_i x_i`, whose coefficients add up to 1."""
    products = gram @ share
    return (gram.diagonal() - 2 * products + share @ products).clamp_min(0).sqrt()


def _optimal_row(gram: Tensor) -> int | None:
    """The first row that is the geometric median itself, if one is."""
    apart = squared_distances(gram)
    same = apart <= 1e-24 * float(gram.diagonal().median())
    weights = torch.where(same, torch.zeros_like(apart), apart.sqrt().clamp_min(1e-300).reciprocal())
    total = weights.sum(1)
    # || sum_j w_j (x_j - x_k) ||^2, row k at a time: w^T G w - 2 W (G w)_k + W^2 G_kk
    products = weights @ gram
    pulls = (products * weights).sum(1) - 2 * total * products.diagonal() + total**2 * gram.diagonal()
    optimal = (pulls.clamp_min(0).sqrt() < same.sum(1).double() - 1e-9).nonzero().flatten()
    return int(optimal[0]) if len(optimal) else None

"""Robust rules that leave updates out: by the diameter of a subset, or by the server's own data."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, final

import torch
from torch import Tensor

from headway.core.context import ServerContext
from headway.core.errors import UpdateRejected
from headway.core.fields import between
from headway.core.flow import Flow
from headway.core.stage import Aggregator, Place, stages
from headway.core.update import Rows, Tensors, Update
from headway.numerics.distances import squared_distances
from headway.stages.robust.rule_facts import DistanceRule, combined, robust_facts


@final
@stages.register
@dataclass(frozen=True)
class MinimumDiameter(DistanceRule):
    """The mean of the n - f updates that lie closest together.

    Formula: the mean over the subset S of n - f updates with the smallest `max_{i, j in S} ||x_i - x_j||_2`; of several
    (an update at either end of the longest distance may be the one to omit) that which a search finds first that tries
    updates in the order of their squared distances to all others, the farthest first.  The subset is found exactly: for
    a diameter, the updates to omit are a vertex cover of the pairs that are farther apart, and the smallest diameter
    with a cover of at most f is found by bisection.  The time grows as 2^f.
    Shapes: rows `[C, P]`, aggregate `[P]`; all vectors that travel are taken as one.  Weights are not used.

    f: how many attackers it is to withstand, at most 16; it needs n >= 2 f + 1 updates.

    Raises:
        ConfigError: if f is not between 0 and 16.
        ChainRefused: behind a secure sum, with weights, with a sparsifier, or with too few updates in a round.

    Reference: El Mhamdi, Guerraoui, Rouault, arXiv 2003.00010 (minimum-diameter averaging); Rousseeuw 1985.

    >>> MinimumDiameter(f=2)
    MinimumDiameter(f=2)
    """

    place: ClassVar[Place] = Place.AGGREGATE
    f: int = between(0, 16, 1)

    def connect(self, flow: Flow) -> Flow:
        """Needs a majority of honest updates."""
        return robust_facts(super().connect(flow), self, self.f, 2 * self.f + 1)

    def coefficients(self, gram: Tensor) -> Tensor:
        """Equal ones for the subset of the smallest diameter."""
        kept = torch.ones(len(gram), dtype=torch.float64)
        kept[list(omitted_for_diameter(squared_distances(gram), self.f))] = 0
        return kept / kept.sum()


@final
@stages.register
@dataclass(frozen=True)
class FLTrust(Aggregator):
    """The mean of the updates by how well they agree with an update of the server's own root data.

    Formula, x_0 being the root's update: `x = sum_i t_i (||x_0|| / ||x_i||) x_i / sum_i t_i`, with the trust
    `t_i = max(0, cos(x_i, x_0))`; 0 where no update is trusted.
    Shapes: rows `[C, P]`, aggregate `[P]`; all vectors that travel are taken as one.  Weights are not used.

    root: the name of the client that holds the root data: a participant that the server's operator runs, on the same
        model and with the same trainer.  It must take part in every round (`All()`), and its update is not averaged.
    The rule withstands any number of attackers, as far as the root data stand for all clients' data.

    Raises:
        ChainRefused: behind a secure sum, with weights, with a sparsifier, or unless every client takes part in every
            round.
        UpdateRejected: if a round has no update of the root.

    Reference: Cao, Fang, Liu, Gong, NDSS 2021 (arXiv 2012.13995), Algorithm 2.

    >>> FLTrust(root="server")
    FLTrust(root='server')
    """

    place: ClassVar[Place] = Place.AGGREGATE
    whole_cohort: ClassVar[bool] = True
    by_name: ClassVar[bool] = True
    root: str = "root"

    def connect(self, flow: Flow) -> Flow:
        """Needs the root's update in every round, and one more."""
        why = "the root takes part in every round"
        flow.require(self, whole_population=why, never_excluded=why, synchronous=True, single_updates=True)
        return robust_facts(super().connect(flow), self, 0, 2)

    def reduce(self, rows: Rows, state: Tensors, ctx: ServerContext) -> tuple[Update, Tensors]:
        """The trusted mean."""
        if self.root not in rows.names:
            raise UpdateRejected(self.root, "it holds the root data of FLTrust, and the round has no update of it")
        place = rows.names.index(self.root)
        with_root = torch.stack([part.double() @ part[place].double() for part in rows.vectors.values()]).sum(0)
        return combined(rows, trusted_shares(with_root, rows.norms(), place)), state


def trusted_shares(with_root: Tensor, norms: Tensor, root: int) -> Tensor:
    """The coefficients of the trusted mean, from each row's inner product with the root's and its length, `[C]`.

    >>> trusted_shares(torch.tensor([4.0, 2.0, -1.0]).double(), torch.tensor([2.0, 1.0, 1.0]).double(), 0)
    tensor([0., 2., 0.], dtype=torch.float64)
    """
    safe = torch.where(norms > 0, norms, torch.ones_like(norms))
    trust = (with_root / (safe * safe[root])).clamp(0, 1)
    trust[root] = 0
    total = trust.sum()
    return trust * norms[root] / safe / (total if float(total) > 0 else 1.0)


def omitted_for_diameter(squared: Tensor, f: int) -> tuple[int, ...]:
    """The f updates without which the largest of the squared distances `[C, C]` is smallest.

    >>> omitted_for_diameter(torch.tensor([[0.0, 1.0, 4.0], [1.0, 0.0, 9.0], [4.0, 9.0, 0.0]]), 1)
    (2,)
    """
    order = squared.sum(1).sort(descending=True, stable=True).indices  # so that it does not matter who has sent which
    squared = squared[order][:, order]
    values = squared.triu(1).flatten().unique()
    low, high, omitted = 0, len(values) - 1, tuple[int, ...]()
    while low <= high:
        middle = (low + high) // 2
        cover = _cover((squared > values[middle]).tolist(), f)
        if cover is None:
            low = middle + 1
        else:
            omitted, high = cover, middle - 1
    spare = f - len(omitted)  # a subset has n - f updates: where fewer need to go, the first that may
    omitted += tuple(i for i in range(len(squared)) if i not in omitted)[:spare]
    return tuple(sorted(order[list(omitted)].tolist()))


def _cover(edges: list[list[bool]], most: int) -> tuple[int, ...] | None:
    """The places of at most so many rows that touch every edge, in lexical order of the search; `None` if there is
    no such set."""
    degrees = [sum(row) for row in edges]
    busiest = max(range(len(edges)), key=lambda i: (degrees[i], -i), default=0)
    if not degrees or degrees[busiest] == 0:
        return ()
    if most == 0 or sum(degrees) > 2 * most * degrees[busiest]:
        return None
    with_it = _cover(_without(edges, {busiest}), most - 1)
    if with_it is not None:
        return (busiest, *with_it)
    neighbours = {i for i, touches in enumerate(edges[busiest]) if touches}
    if len(neighbours) > most:
        return None
    rest = _cover(_without(edges, neighbours), most - len(neighbours))
    return None if rest is None else (*neighbours, *rest)


def _without(edges: list[list[bool]], gone: set[int]) -> list[list[bool]]:
    return [[touches and not (i in gone or j in gone) for j, touches in enumerate(row)] for i, row in enumerate(edges)]

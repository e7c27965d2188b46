"""Clusters of clients whose updates point in different directions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

SEPARATION = 0.5  # mean silhouette from which groups count as clearly separated
APART = 0.2  # mean cosine between groups below which they pull apart
MOST_CLUSTERS = 6
FEWEST = 6
MOST_CLIENTS = 2000  # beyond it the search would cost noticeable time


@dataclass(frozen=True, slots=True)
class ClientClusters:
    """The groups of one round.

    of: the cluster of each client, 1 being the largest; a client that stands alone is in none.
    separation: the smaller of two mean silhouettes (see `find_clusters`).
    within, between: the mean cosine of two clients of one cluster, and of two.
    """

    of: Mapping[str, int]
    separation: float
    within: float
    between: float

    def numbers(self) -> dict[str, float]:
        """The figures by name."""
        return {
            "clusters": float(max(self.of.values())),
            "separation": self.separation,
            "within_clusters": self.within,
            "between_clusters": self.between,
        }


def find_clusters(clients: Sequence[str], gram: Tensor) -> ClientClusters | None:
    """The clusters of clients whose updates have this Gram matrix `[C, C]`, or `None` where they do not fall apart.

    Average linkage on the distance 1 - cosine, cut into 2 to 6 groups, whichever has the largest mean silhouette:

        silhouette_i = (b_i - a_i) / max(a_i, b_i)      0 for a client that stands alone

    a_i being the mean distance to the own group and b_i to the nearest other one.  They count as clusters where that
    is at least 0.5, both of these distances and of ||d_i - d_j||, the mean cosine between groups is below 0.2, and
    two groups or more have at least two clients.  The second silhouette separates clusters from clients that scatter
    about zero, whose cosines are +1 and -1 as well.  Fewer than 6 clients are too few to decide.

    Reference: Rousseeuw, J. Comput. Appl. Math. 20 (1987); 0.5 is the lower end of what Kaufman and Rousseeuw (1990)
    call a reasonable structure.

    >>> d = torch.tensor([1.0, 1.1, 0.9, -1.0, -1.1, -0.9])
    >>> find_clusters("abcdef", torch.outer(d, d)).of
    {'a': 1, 'b': 1, 'c': 1, 'd': 2, 'e': 2, 'f': 2}
    >>> find_clusters("abcdef", torch.outer(d.abs(), d.abs()))
    """
    count = len(clients)
    squares = gram.diagonal().double()
    cosines = gram.double() / (squares.unsqueeze(0) * squares.unsqueeze(1)).sqrt().clamp_min(1e-300)
    if not FEWEST <= count <= MOST_CLIENTS or float(cosines.min()) >= APART:
        return None
    from scipy.cluster.hierarchy import fcluster, linkage
    from scipy.spatial.distance import squareform

    angles = _symmetric(1 - cosines)
    tree = linkage(squareform(angles.numpy(), checks=False), "average")
    most = min(MOST_CLUSTERS, count // 2)
    cuts = [torch.from_numpy(fcluster(tree, k, "maxclust")).long() for k in range(2, most + 1)]
    groups = max(cuts, key=lambda cut: _silhouette(angles, cut))  # the first of equals: the fewest groups
    lengths = _symmetric(squares.unsqueeze(0) + squares.unsqueeze(1) - 2 * gram).sqrt()
    separation = min(_silhouette(angles, groups), _silhouette(lengths, groups))
    return _clusters(clients, angles, groups, separation) if separation >= SEPARATION else None


def _symmetric(distances: Tensor) -> Tensor:
    """Distances that are symmetric, not negative and zero on the diagonal, without errors of rounding."""
    distances = (distances + distances.T) / 2
    return distances.clamp_min(0).fill_diagonal_(0)


def _silhouette(distances: Tensor, groups: Tensor) -> float:
    """The mean silhouette of a division, groups `[C]` numbered from 1."""
    if int(groups.max()) < 2:
        return 0.0
    members = torch.nn.functional.one_hot(groups - 1).double()
    sizes, sums = members.sum(0), distances @ members
    own = (sums * members).sum(1) / (members @ sizes - 1).clamp_min(1)
    others = torch.where(members > 0, torch.inf, sums / sizes).amin(1)
    each = (others - own) / torch.maximum(own, others).clamp_min(1e-300)
    return float(torch.where(members @ sizes > 1, each, 0.0).mean())


def _clusters(clients: Sequence[str], angles: Tensor, groups: Tensor, separation: float) -> ClientClusters | None:
    """The groups as clusters, if there are two or more and they are apart."""
    same = groups.unsqueeze(0) == groups.unsqueeze(1)
    pairs = ~torch.eye(len(clients), dtype=torch.bool)
    together: dict[int, list[str]] = {}
    for client, group in zip(clients, groups.tolist(), strict=True):
        together.setdefault(group, []).append(client)
    clusters = sorted(
        (names for names in together.values() if len(names) > 1), key=lambda names: (-len(names), names[0])
    )
    between = 1 - float(angles[~same].mean())
    if len(clusters) < 2 or between >= APART:
        return None
    within = 1 - float(angles[same & pairs].mean())
    of = {client: number for number, names in enumerate(clusters, 1) for client in names}
    return ClientClusters(of, separation, within, between)

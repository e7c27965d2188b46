"""How unlike the clients' labels are, in three numbers."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from headway.core.errors import DataError
from headway.data.federated import FederatedData


@dataclass(frozen=True)
class LabelSkew:
    """Training sizes in the order of the clients, and two plain means over clients.

    `entropy` is that of a client's label distribution, in nats: log(classes) when all are equally frequent,
    0 when a client holds one class.  `distance` is the total variation between a client's label distribution
    and the pooled one: 0 when they are equal, near 1 when they are disjoint.
    """

    sizes: tuple[int, ...]
    entropy: float
    distance: float


def label_skew(data: FederatedData) -> LabelSkew:
    """H_i = -sum_k p_ik log p_ik and TV_i = 1/2 sum_k |p_ik - p_k|, averaged over clients i.

    Raises:
        DataError: the data have no classes.

    >>> toy = {"a": ([[0.0], [1.0]], [0, 0]), "b": ([[2.0], [3.0]], [1, 1])}
    >>> label_skew(FederatedData.from_clients(toy))
    LabelSkew(sizes=(2, 2), entropy=0.0, distance=0.5)
    """
    if data.classes is None:
        raise DataError(f"{data.name!r} is regression, but label skew needs classes.")
    counts = torch.tensor([each.labels for each in data.summary()], dtype=torch.float64)
    shares = counts / counts.sum(dim=1, keepdim=True)
    pooled = counts.sum(dim=0) / counts.sum()
    entropy = torch.special.entr(shares).sum(dim=1).mean()
    distance = 0.5 * (shares - pooled).abs().sum(dim=1).mean()
    return LabelSkew(tuple(len(index) for index in data.train.values()), float(entropy), float(distance))

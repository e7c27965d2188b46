"""The labels of each client, and each client's distance from the pool."""

from __future__ import annotations

import math

import torch

from headway.data import FederatedData
from headway.reports.page.content import Holding, Partition


def partition_of(data: FederatedData) -> Partition:
    """The training labels of every client, in the order of the clients.

    >>> toy = {"a": ([[0.0], [1.0]], [0, 0]), "b": ([[2.0], [3.0]], [1, 1])}
    >>> partition_of(FederatedData.from_clients(toy)).holdings[0]
    Holding(client='a', size=2, labels=(2, 0), entropy=0.0, distance=0.5)
    """
    summaries = data.summary()
    if data.classes is None:
        return Partition(
            data.name, 0, tuple(Holding(each.client, each.train, (), math.nan, math.nan) for each in summaries)
        )
    counts = torch.tensor([each.labels for each in summaries], dtype=torch.float64)
    shares = counts / counts.sum(dim=1, keepdim=True)
    pooled = counts.sum(dim=0) / counts.sum()
    entropy = torch.special.entr(shares).sum(dim=1).tolist()
    distance = (0.5 * (shares - pooled).abs().sum(dim=1)).tolist()
    return Partition(
        data.name,
        data.classes,
        tuple(
            Holding(each.client, each.train, each.labels or (), own, apart)
            for each, own, apart in zip(summaries, entropy, distance, strict=True)
        ),
    )

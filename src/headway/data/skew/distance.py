"""The distances between the clients' means: of features within classes, and of regression targets."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import exp, lgamma, sqrt

import torch
from torch import Tensor

from headway.data.dataset.federated import FederatedData

_CHUNK = 4096


@dataclass(frozen=True, eq=False)
class FeatureNumbers:
    """`distance`, `chance` and `spread` of every client, float64 `[clients]`."""

    distance: Tensor
    chance: Tensor
    spread: Tensor


@dataclass(frozen=True, eq=False)
class TargetNumbers:
    """Of every client's targets, float64 `[clients]`."""

    means: Tensor
    deviations: Tensor
    distance: Tensor
    chance: Tensor


def feature_numbers(data: FederatedData) -> FeatureNumbers | None:
    """The distance of each client's features from all clients', apart from what its label mix explains.

    With r = x - (the mean of x over all training examples of its class), or of all where there are no classes,
    and s_f^2 = mean of r_f^2:  distance_i^2 = mean over f of (mean_i r_f)^2 / s_f^2, over the features with s_f > 0;
    spread_i^2 = sum_f var_i(r_f) / sum_f s_f^2.  By chance, if the n_ik examples of class k were drawn from its N_k:
    chance_i^2 = sum_k n_ik (N_k - n_ik) / (N_k - 1) / n_i^2.  None where inputs are tokens.

    A client that alone holds its classes has distance 0, since its features cannot be distinguished from its labels.

    >>> data = FederatedData.from_clients({"a": ([[0.0], [2.0]], [0.5, 0.5]), "b": ([[4.0], [6.0]], [0.5, 0.5])})
    >>> feature_numbers(data).distance  # means 1 and 5 about 3, s^2 = 5
    tensor([0.8944, 0.8944], dtype=torch.float64)
    """
    inputs = data.store.inputs
    if not inputs.is_floating_point() and inputs.dtype != torch.uint8:
        return None
    strata = data.classes is not None and data.store.targets.ndim == 1
    labels = data.store.targets.long() if strata else torch.zeros(len(inputs), dtype=torch.int64)
    classes = int(data.classes or 1) if strata else 1
    counts = torch.stack([torch.bincount(labels[index], minlength=classes) for index in data.train.values()]).double()
    origin = inputs[next(iter(data.train.values()))[0]].double().flatten()
    width = origin.numel()
    sums = torch.zeros(classes, width, dtype=torch.float64)
    scale = torch.zeros(width, dtype=torch.float64)
    for _, rows in _chunks(data):
        x = inputs[rows].double().flatten(1) - origin
        sums.index_add_(0, labels[rows], x)
        scale += (x**2).sum(dim=0)
    means = sums / counts.sum(dim=0).clamp(min=1)[:, None]
    own = torch.zeros(len(counts), width, dtype=torch.float64)
    squares = torch.zeros(len(counts), dtype=torch.float64)
    within = torch.zeros(width, dtype=torch.float64)
    for client, rows in _chunks(data):
        r = inputs[rows].double().flatten(1) - origin - means[labels[rows]]
        own[client] += r.sum(dim=0)
        squares[client] += (r**2).sum()
        within += (r**2).sum(dim=0)
    held, total = counts.sum(dim=1), counts.sum()
    own /= held[:, None]
    varies = within > 1e-20 * scale  # below that it is rounding
    ratio = own[:, varies] ** 2 * total / within[varies]
    distance = ratio.mean(dim=1).sqrt() if bool(varies.any()) else torch.zeros_like(held)
    per_class = counts.sum(dim=0)
    chance = (counts * (per_class - counts) / (per_class - 1).clamp(min=1)).sum(dim=1).sqrt() / held
    pooled = within[varies].sum() / total
    variance = (squares / held - (own**2).sum(dim=1)).clamp(min=0)
    spread = (variance / pooled).sqrt() if float(pooled) > 0 else torch.ones_like(held)
    return FeatureNumbers(distance, chance, spread)


def mean_distance(data: FederatedData) -> TargetNumbers:
    """|mean_i y - mean y| / std y for every client, and by chance sqrt(2/pi (N - n_i) / (n_i (N - 1))).

    Several targets per example, or labels of which each is 0 or 1, count by the root mean square over the L of them
    that vary; chance alone then gives sqrt(2/L) Gamma((L+1)/2) / Gamma(L/2) in the place of sqrt(2/pi), for targets
    that do not depend on each other.
    """
    targets = data.store.targets.double().flatten(1) if data.store.targets.ndim > 1 else data.store.targets[:, None]
    parts = [targets[index].double() for index in data.train.values()]
    everyone = torch.cat(parts)
    means = torch.stack([part.mean(dim=0) for part in parts])
    deviations = torch.stack([part.std(dim=0, correction=0) for part in parts])
    scale = everyone.std(dim=0, correction=0)
    apart = torch.where(scale > 0, (means - everyone.mean(dim=0)) / scale.clamp(min=1e-300), 0.0)
    held = torch.tensor([len(part) for part in parts], dtype=torch.float64)
    varying = scale > 0
    width = max(int(varying.sum()), 1)
    normal = sqrt(2 / width) * exp(lgamma((width + 1) / 2) - lgamma(width / 2))
    chance = normal * ((len(everyone) - held) / (held * max(len(everyone) - 1, 1))).sqrt()
    distance = ((apart**2).sum(dim=1) / width).sqrt()
    return TargetNumbers(means.mean(dim=1), (deviations**2).mean(dim=1).sqrt(), distance, chance)


def _chunks(data: FederatedData) -> Iterator[tuple[int, Tensor]]:
    """The number of each client with some of its training examples at a time."""
    for number, index in enumerate(data.train.values()):
        for rows in index.split(_CHUNK):
            yield number, rows

"""Whether examples that follow each other are nearly the same, so that a random split tests on what was trained on."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

_PAIRS = 1_000  # that are compared
_FEWEST = 30
_ALIKE = 0.3  # neighbours are alike below this share of the distance of examples far from each other
_WIDEST = 4_096  # numbers of an example that are compared


def neighbours(
    inputs: Tensor, targets: Tensor, train: Mapping[str, Tensor], test: Mapping[str, Tensor]
) -> tuple[str, ...]:
    """A note where neighbours in the order of the source are much nearer than other pairs of one client and class.

    Compared are the median Euclidean distances, each number divided by its standard deviation.

    >>> walk = torch.randn(400, 4, generator=torch.Generator().manual_seed(0)).cumsum(0)
    >>> held, alike = {"a": torch.arange(400)}, torch.zeros(400)
    >>> [len(neighbours(each, alike, held, {})) for each in (walk, walk[torch.randperm(400)])]
    [1, 0]
    """
    if not inputs.is_floating_point() or not len(inputs):
        return ()
    near, far = [], []
    for client, kept in train.items():
        held = torch.cat([kept, test[client]]).sort().values if client in test else kept.sort().values
        if len(held) < _FEWEST:
            continue
        first = held[:: max(1, len(held) * len(train) // _PAIRS)][:-1]
        places = torch.searchsorted(held, first.contiguous())
        other = held[(places + len(held) // 2) % len(held)]
        near.append(torch.stack([held[places], held[(places + 1).clamp_max(len(held) - 1)]]))
        far.append(torch.stack([held[places], other]))
        if sum(each.shape[1] for each in near) >= _PAIRS:
            break
    if not near:
        return ()
    close, distant = (_distances(inputs, targets, torch.cat(pairs, dim=1)) for pairs in (near, far))
    if len(close) < _FEWEST or len(distant) < _FEWEST or float(distant.median()) == 0:
        return ()
    share = float(close.median() / distant.median())
    if share >= _ALIKE:
        return ()
    return (
        f"examples that follow each other are alike ({share:.2g} of the usual distance), and a random split parts them "
        'between training and test: data.split = "last", or "group" with data.group, keeps them apart',
    )


def _distances(inputs: Tensor, targets: Tensor, pairs: Tensor) -> Tensor:
    """The distances of pairs of rows `[2, n]` with equal whole-number targets, or of all where targets are values."""
    if not targets.is_floating_point() and targets.ndim == 1:
        pairs = pairs[:, targets[pairs[0]] == targets[pairs[1]]]
    first, second = (inputs[rows].flatten(1)[:, :_WIDEST].double() for rows in pairs)
    if not len(first):
        return torch.empty(0)
    scale = torch.cat([first, second]).std(0)
    varies = scale > 0
    distances: Tensor = ((first - second)[:, varies] / scale[varies]).norm(dim=1)
    return distances

"""One repeatable train/test split, used for clients and for central test sets alike."""

from __future__ import annotations

import torch
from torch import Tensor

from headway.core.errors import ConfigError
from headway.core.keys import Key
from headway.data.parts import Parts


def split(index: Tensor, test_share: float, key: Key, labels: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Part `index` (int64 `[n]`) into `(train, test)`, both sorted; at least one example stays for training.

    The test part has `round(n * test_share)` examples, at most n - 1.  With `labels` (int64 `[n]`, of these
    examples) it is stratified: the j-th of the m examples of a class, in random order, stands at (j + 1/2)/m,
    and the examples that stand first are tested, so a class seen once is not, below a share of 1/2.

    Raises:
        ConfigError: `test_share` is not in [0, 1).

    >>> train, test = split(torch.arange(10), 0.2, Key.root(0), labels=torch.tensor([0] * 5 + [1] * 5))
    >>> len(train), sorted((test >= 5).tolist())
    (8, [False, True])
    """
    _check_share(test_share)
    count = len(index)
    tested = min(int(count * test_share + 0.5), max(count - 1, 0))
    order = key.permutation(count)
    if labels is not None:
        order = order[_strata_positions(labels[order]).argsort(stable=True)]
    shuffled = index[order]
    return shuffled[tested:].sort().values, shuffled[:tested].sort().values


def last_tested(parts: Parts, test_share: float) -> tuple[Parts, Parts]:
    """Part what each client holds into `(train, test)` without a draw: of n examples the last ones are tested.

    The test part has `round(n * test_share)` examples, at most n - 1.

    Raises:
        ConfigError: `test_share` is not in [0, 1).

    >>> train, test = last_tested(Parts.of({"a": torch.arange(5)}), 0.4)
    >>> train["a"].tolist(), test["a"].tolist()
    ([0, 1, 2], [3, 4])
    """
    _check_share(test_share)
    tested = (parts.sizes.double() * test_share + 0.5).long().minimum((parts.sizes - 1).clamp_min(0))
    kept = parts.sizes - tested
    return (
        Parts(parts.names, parts.starts, kept, parts.index),
        Parts(parts.names, parts.starts + kept, tested, parts.index),
    )


def _check_share(test_share: float) -> None:
    if isinstance(test_share, bool) or not isinstance(test_share, int | float) or not 0 <= test_share < 1:
        raise ConfigError(f"the test share is {test_share!r}, but a number from 0 up to (not including) 1 is needed.")


def _strata_positions(labels: Tensor) -> Tensor:
    """For each example (j + 1/2)/m, where it is the j-th of m with its label; float64 `[n]`."""
    _, group, sizes = torch.unique(labels, return_inverse=True, return_counts=True)
    by_group = group.argsort(stable=True)
    first = sizes.cumsum(0) - sizes
    rank = torch.empty_like(group)
    rank[by_group] = torch.arange(len(labels)) - first[group[by_group]]
    positions: Tensor = (rank.double() + 0.5) / sizes[group].double()
    return positions

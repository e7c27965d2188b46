"""Repeatable batches: the order of an epoch is a pure function of its key."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from typing import Literal

import torch
from torch import Tensor

from headway.core.errors import ConfigError
from headway.numerics.keys import Key


def epoch_order(count: int, key: Key, shuffle: bool) -> Tensor:
    """The order in which `count` examples are visited, int64 `[count]`.

    >>> epoch_order(3, Key.root(0), shuffle=False).tolist()
    [0, 1, 2]
    """
    return key.permutation(count) if shuffle else torch.arange(count)


LastBatch = Literal["keep", "merge", "drop"]


def batch_bounds(count: int, batch_size: int | None, last: LastBatch = "keep") -> list[tuple[int, int]]:
    """The start and stop of each batch; None means one batch of everything.

    last: of a last batch that is smaller than the others: it is kept, merged with the batch before it, or dropped.  The
    only batch is always kept.

    Raises:
        ConfigError: a batch size below 1.

    >>> batch_bounds(5, 2)
    [(0, 2), (2, 4), (4, 5)]
    >>> batch_bounds(5, None)
    [(0, 5)]
    >>> batch_bounds(5, 2, "merge"), batch_bounds(5, 2, "drop")
    ([(0, 2), (2, 5)], [(0, 2), (2, 4)])
    """
    if batch_size is not None and batch_size < 1:
        raise ConfigError(f"batch_size is {batch_size}, but at least 1 is needed (or None for one full batch).")
    size = count if batch_size is None else batch_size
    bounds = [(start, min(start + size, count)) for start in range(0, count, max(size, 1))]
    if last == "keep" or len(bounds) < 2 or bounds[-1][1] - bounds[-1][0] == size:
        return bounds
    return bounds[:-1] if last == "drop" else [*bounds[:-2], (bounds[-2][0], count)]


def starts_of(widths: Sequence[int]) -> list[int]:
    """The start of each of some batches, one after another.

    >>> starts_of([2, 2, 1])
    [0, 2, 4]
    """
    return list(accumulate(widths, initial=0))[:-1]

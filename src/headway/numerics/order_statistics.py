"""Rows in ascending order in each column, a block of columns at a time."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

Block = npt.NDArray[np.floating]
COLUMNS = 1 << 12  # sorted at a time, which bounds the memory


def of_sorted_columns(rows: Tensor, statistic: Callable[[Block], Block]) -> Tensor:
    """A statistic of each column of rows `[C, P]`, float64 `[P]`.

    statistic: from columns `[W, C]`, each in ascending order, to `[W]`.  Each block is laid out column by column and
    sorted there, which takes vector instructions; a sort along the first axis of the whole does not.  Blocks are given
    to as many threads as torch has.
    """
    numbers = rows.detach().cpu().numpy()
    result = np.empty(numbers.shape[1], dtype=np.float64)

    def fill(start: int) -> None:
        block = np.array(numbers[:, start : start + COLUMNS].T, order="C", copy=True)
        block.sort(axis=-1)
        result[start : start + COLUMNS] = statistic(block)

    starts = range(0, numbers.shape[1], COLUMNS)
    if (threads := min(torch.get_num_threads(), len(starts))) > 1:
        with ThreadPoolExecutor(threads) as pool:
            list(pool.map(fill, starts))  # with the error of a block, if there is one
    else:
        for start in starts:
            fill(start)
    return torch.from_numpy(result)


def median_of_sorted(block: Block) -> Block:
    """The median of each row in ascending order `[W, C]`; of an even number, the mean of the two in the middle."""
    count = block.shape[1]
    low, high = block[:, (count - 1) // 2].astype(np.float64), block[:, count // 2].astype(np.float64)
    middle: Block = low + (high - low) / 2
    return middle


def trimmed_mean_of_sorted(block: Block, trimmed: int) -> Block:
    """The mean of each row in ascending order, without so many of the smallest and of the largest."""
    kept = block[:, trimmed : block.shape[1] - trimmed]
    mean: Block = kept.sum(axis=1, dtype=np.float64) / kept.shape[1]
    return mean


def mean_around_median_of_sorted(block: Block, kept: int) -> Block:
    """The mean of the `kept` numbers nearest to the median of each row in ascending order.

    They are neighbours in the order: a window of so many moves up while the number to gain is nearer than the
    lowest that it holds; of two at the same distance the lower one is kept.
    """
    count, moves = block.shape[1], block.shape[1] - kept
    low, high = block[:, :moves].astype(np.float64), block[:, kept:].astype(np.float64)
    middle = block[:, (count - 1) // 2].astype(np.float64) + block[:, count // 2]  # twice, not rounded
    first = (low + high < middle[:, None]).sum(axis=1)  # true for the first moves and then no more
    window = first[:, None] + np.arange(kept)
    mean: Block = np.take_along_axis(block, window, axis=1).sum(axis=1, dtype=np.float64) / kept
    return mean

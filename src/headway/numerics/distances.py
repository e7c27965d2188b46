"""Distances and weighted sums of rows, in blocks of columns: each number is read once, and nothing is copied whole.

The rows are given as several matrices `[C, ...]` that lie side by side.  Products are taken in the rows' own number
type for a few thousand columns and added in float64.  Several blocks are given to torch at once, since its threads
wait for one another at the end of each call: with another program on the processor's cores many short calls take
several times as long with two threads as with one.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

COLUMNS = 1 << 14  # whose products are taken at a time; the rounding of float32 grows with it
ALIKE = 0.1  # of the squared length of the row in the middle: rows that are nearer to it than this are centred first
ROWS = 16  # of a weighted sum that are added in the rows' own number type
TOGETHER = 64  # blocks whose products are taken in one call, as far as these products take little memory
NUMBERS = 1 << 20  # of such products
SPAN = 1 << 20  # columns of a weighted sum in one call
COPIED = 1 << 16  # the same, where some of the rows must be copied
AWAY = 1 << 16  # columns whose differences from a vector are taken in one call
WIDE = 1e15  # from this size on, products of float32 are taken in float64, since they could overflow


def products_about_middle(parts: Sequence[Tensor], last: Sequence[Tensor] | None = None) -> Tensor:
    """`(x_i - s)^T (x_j - s)` of rows that lie in several matrices `[C, ...]`, for some s in their middle, `[C, C]`.

    Distances do not depend on s, and far-off products would lose their digits.  In each block of columns s is the
    row of median length there, which a minority of rows, however long, does not move away from the others.

    last: one more row, in as many parts, which becomes the last.
    """
    count = len(parts[0]) + (last is not None)
    gram = torch.zeros(count, count, dtype=torch.float64)
    together = min(max(NUMBERS // count**2, 1), TOGETHER) if last is None else 1  # one more row is a copy of the block
    for index, part in enumerate(parts):
        for start in range(0, part.shape[1], together * COLUMNS):
            rows = part[:, start : start + together * COLUMNS]
            if last is not None:
                rows = torch.cat([rows, last[index][start : start + COLUMNS].to(part.dtype).unsqueeze(0)])
            for blocks in in_blocks(rows):
                for block, products in zip(blocks, torch.bmm(blocks, blocks.mT), strict=True):
                    gram += _block_products(block, products.double())
    return gram


def in_blocks(rows: Tensor) -> list[Tensor]:
    """Views of rows `[C, W]`: the blocks of COLUMNS columns `[B, C, COLUMNS]`, and the rest `[1, C, rest]`.

    >>> [tuple(blocks.shape) for blocks in in_blocks(torch.zeros(3, 2 * COLUMNS + 5))] == [(2, 3, COLUMNS), (1, 3, 5)]
    True
    """
    whole = rows.shape[1] // COLUMNS * COLUMNS
    full = rows[:, :whole].unflatten(1, (-1, COLUMNS)).transpose(0, 1) if whole else None
    rest = rows[:, whole:].unsqueeze(0) if whole < rows.shape[1] else None
    return [blocks for blocks in (full, rest) if blocks is not None]


def _block_products(block: Tensor, products: Tensor) -> Tensor:
    """The inner products of rows `[C, W]` about the one of median length, float64 `[C, C]`, from those about 0.

    The middle is taken off the products, which reads the rows once, where most rows are about as far from it as they
    are long; off the rows, where most of their length is common to them and the digits would be lost.
    """
    products = (products + products.T) / 2  # equal distances are equal numbers, from either row
    squares = products.diagonal()
    if not float(squares.max()) < WIDE**2:
        block = block.double()
        return _about(block, int(torch.linalg.vector_norm(block, dim=1).median(0).indices))
    middle = int(squares.median(0).indices)
    apart = squares + squares[middle] - 2 * products[middle]
    if float(apart.median()) < ALIKE * float(squares[middle]):
        return _about(block, middle)
    return products + squares[middle] - (products[middle] + products[middle].unsqueeze(-1))


def _about(block: Tensor, middle: int) -> Tensor:
    about = block - block[middle]
    return (about @ about.T).double()


def squared_distances(gram: Tensor) -> Tensor:
    """`||x_i - x_j||^2` of rows from their inner products about any point, `[C, C]`.

    >>> squared_distances(torch.tensor([[0.0, 0.0], [0.0, 9.0]]))
    tensor([[0., 9.],
            [9., 0.]])
    """
    squares = gram.diagonal()
    distances = (squares + squares.unsqueeze(-1) - 2 * gram).clamp_min(0)
    return distances.fill_diagonal_(0)


def distances_from(parts: Sequence[Tensor], centre: Sequence[Tensor]) -> Tensor:
    """`||x_i - v||` of rows from a vector that lies in as many parts, float64 `[C]`."""
    squares = torch.zeros(len(parts[0]), dtype=torch.float64)
    for part, vector in zip(parts, centre, strict=True):
        near = vector.to(part.dtype)
        buffer = part.new_empty(len(part), min(AWAY, part.shape[1]))  # new memory costs as much as the difference
        for start in range(0, part.shape[1], AWAY):
            rows = part[:, start : start + AWAY]
            away = torch.sub(rows, near[start : start + AWAY], out=buffer[:, : rows.shape[1]])
            lengths = torch.cat([torch.linalg.vector_norm(blocks, dim=2) for blocks in in_blocks(away)]).double()
            if not float(lengths.max()) < WIDE:
                lengths = torch.linalg.vector_norm(rows.double() - vector[start : start + AWAY], dim=1).unsqueeze(0)
            for each in lengths:
                squares += each**2
    return squares.sqrt()


def weighted_sum(part: Tensor, coefficients: Tensor) -> Tensor:
    """`sum_i a_i x_i` of rows `[C, P]`, float64 `[P]`; a row of coefficient 0 has no part in it.

    A few rows are added in their own number type, and these sums in float64.
    """
    used = coefficients.nonzero().flatten()
    if len(used) == len(part):
        return _sum_of(part, coefficients, None, SPAN)
    if 2 * len(used) > len(part) and part.shape[1] > COLUMNS:  # reading the others takes less time than a copy of these
        total = _sum_of(part, coefficients, None, SPAN)
        if bool(total.isfinite().all()):  # no row of coefficient 0 was infinite or not a number
            return total
    return _sum_of(part, coefficients, used, COPIED)


def _sum_of(part: Tensor, coefficients: Tensor, used: Tensor | None, span: int) -> Tensor:
    """`sum_i a_i x_i` of rows `[C, P]`, so many columns in a call; used: the numbers of the rows, which are copied, or
    `None` for all, those of coefficient 0 among them."""
    total = torch.zeros(part.shape[1], dtype=torch.float64)
    weights, count = coefficients.to(part.dtype), len(part) if used is None else len(used)
    for start in range(0, part.shape[1], span):
        columns = slice(start, start + span)
        for first in range(0, count, ROWS):
            rows = slice(first, first + ROWS) if used is None else used[first : first + ROWS]
            total[columns] += weights[rows] @ part[rows, columns]
    return total


def mixed_rows(part: Tensor, mixing: Tensor) -> Tensor:
    """Other rows `mixing @ x`, `[D, P]`, mixing being `[D, C]`, in the number type of the rows."""
    return torch.mm(mixing.to(part.dtype), part)

"""Distances and weighted sums of rows, in blocks of columns: each number is read once, and nothing is copied whole.

The rows are given as several matrices `[C, ...]` that lie side by side.  Products are taken in the rows' own number
type for a few thousand columns and added in float64.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

COLUMNS = 1 << 14  # whose products are taken at a time; the rounding of float32 grows with it
ALIKE = 0.1  # of the squared length of the row in the middle: rows that are nearer to it than this are centred first
ROWS = 16  # of a weighted sum that are added in the rows' own number type
WIDE = 1e15  # from this size on, products of float32 are taken in float64, since they could overflow


def products_about_middle(parts: Sequence[Tensor], last: Sequence[Tensor] | None = None) -> Tensor:
    """`(x_i - s)^T (x_j - s)` of rows that lie in several matrices `[C, ...]`, for some s in their middle, `[C, C]`.

    Distances do not depend on s, and far-off products would lose their digits.  In each block of columns s is the
    row of median length there, which a minority of rows, however long, does not move away from the others.

    last: one more row, in as many parts, which becomes the last.
    """
    count = len(parts[0]) + (last is not None)
    gram = torch.zeros(count, count, dtype=torch.float64)
    for index, part in enumerate(parts):
        for start in range(0, part.shape[1], COLUMNS):
            block = part[:, start : start + COLUMNS]
            if last is not None:
                block = torch.cat([block, last[index][start : start + COLUMNS].to(part.dtype).unsqueeze(0)])
            gram += _block_products(block)
    return gram


def _block_products(block: Tensor) -> Tensor:
    """The inner products of rows `[C, W]` about the one of median length, float64 `[C, C]`.

    The middle is taken off the products, which reads the rows once, where most rows are about as far from it as they
    are long; off the rows, where most of their length is common to them and the digits would be lost.
    """
    products = (block @ block.T).double()
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
        buffer = part.new_empty(len(part), min(COLUMNS, part.shape[1]))  # new memory costs as much as the difference
        for start in range(0, part.shape[1], COLUMNS):
            block, place = part[:, start : start + COLUMNS], vector[start : start + COLUMNS]
            away = torch.sub(block, place.to(part.dtype), out=buffer[:, : block.shape[1]])
            lengths = torch.linalg.vector_norm(away, dim=1).double()
            if not float(lengths.max()) < WIDE:
                lengths = torch.linalg.vector_norm(block.double() - place, dim=1)
            squares += lengths**2
    return squares.sqrt()


def weighted_sum(part: Tensor, coefficients: Tensor) -> Tensor:
    """`sum_i a_i x_i` of rows `[C, P]`, float64 `[P]`; a row of coefficient 0 has no part in it.

    A few rows are added in their own number type, and these sums in float64.
    """
    used = coefficients.nonzero().flatten()
    total = torch.zeros(part.shape[1], dtype=torch.float64)
    weights = coefficients[used].to(part.dtype)
    for start in range(0, part.shape[1], COLUMNS):
        columns = slice(start, start + COLUMNS)
        block = part[:, columns] if len(used) == len(part) else part[used, columns]
        for first in range(0, len(used), ROWS):
            total[columns] += weights[first : first + ROWS] @ block[first : first + ROWS]
    return total


def mixed_rows(part: Tensor, mixing: Tensor) -> Tensor:
    """Other rows `mixing @ x`, `[D, P]`, mixing being `[D, C]`, in the number type of the rows."""
    return torch.mm(mixing.to(part.dtype), part)

"""Distances and weighted sums of rows, in blocks of columns: each number is read once, and nothing is copied whole.

The rows are given as several matrices `[C, ...]` that lie side by side.  Products are taken in the rows' own number
type for a few thousand columns and added in float64.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

COLUMNS = 1 << 12  # whose products are taken at a time; the rounding of float32 grows with it
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
        buffer = part.new_empty(count, min(COLUMNS, part.shape[1]))  # memory taken anew costs as much as the products
        for start in range(0, part.shape[1], COLUMNS):
            block = part[:, start : start + COLUMNS]
            if last is not None:
                block = torch.cat([block, last[index][start : start + COLUMNS].to(part.dtype).unsqueeze(0)])
            lengths = torch.linalg.vector_norm(block, dim=1)
            if float(lengths.max()) < WIDE:
                about = torch.sub(block, block[int(lengths.median(0).indices)], out=buffer[:, : block.shape[1]])
            else:
                block = block.double()
                about = block - block[int(torch.linalg.vector_norm(block, dim=1).median(0).indices)]
            gram += about @ about.T
    return gram


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
        for start in range(0, part.shape[1], COLUMNS):
            block, place = part[:, start : start + COLUMNS], vector[start : start + COLUMNS]
            lengths = torch.linalg.vector_norm(block - place.to(part.dtype), dim=1).double()
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
    rows = part if len(used) == len(part) else part[used]
    for start in range(0, part.shape[1], COLUMNS):
        for first in range(0, len(used), ROWS):
            some = slice(first, first + ROWS)
            total[start : start + COLUMNS] += weights[some] @ rows[some, start : start + COLUMNS]
    return total


def mixed_rows(part: Tensor, mixing: Tensor) -> Tensor:
    """Other rows `mixing @ x`, `[D, P]`, mixing being `[D, C]`, in the number type of the rows."""
    return torch.mm(mixing.to(part.dtype), part)

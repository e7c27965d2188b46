"""The Gram matrix of vectors, in float64 and without copying them whole."""

from __future__ import annotations

import torch
from torch import Tensor

COLUMNS = 1 << 12  # converted to float64 at a time


def gram_matrix(rows: Tensor) -> Tensor:
    """`G G^T` of vectors `[..., K, P]`, accumulated in float64, `[..., K, K]`."""
    count = rows.shape[-2]
    gram = rows.new_zeros(*rows.shape[:-2], count, count, dtype=torch.float64)
    if rows.ndim == 2:
        return add_gram(gram, rows)
    for start in range(0, rows.shape[-1], COLUMNS):
        wide = rows[..., start : start + COLUMNS].to(torch.float64)
        gram += wide @ wide.mT
    return gram


def add_gram(gram: Tensor, rows: Tensor) -> Tensor:
    """Adds the part of these coordinates `[K, W]` to a Gram matrix `[K, K]`, in place.

    Blocks of coordinates that follow each other give the bits of the whole, if all but the last have a multiple
    of `COLUMNS`: the same products are then added in the same order.
    """
    for start in range(0, rows.shape[1], COLUMNS):
        wide = rows[:, start : start + COLUMNS].to(torch.float64, copy=True, memory_format=torch.contiguous_format)
        gram.addmm_(wide, wide.T)
    return gram


def add_combination(base: Tensor, rows: Tensor, coefficients: Tensor) -> Tensor:
    """`base + sum_l a_l row_l` as a fresh vector `[P]`, in float64 for a few coordinates at a time.

    Shapes: base `[P]`, rows `[K, P]`, coefficients float64 `[K]`.
    """
    total = base.clone()
    for start in range(0, rows.shape[1], COLUMNS):
        part = slice(start, start + COLUMNS)
        wide = rows[:, part].to(torch.float64)
        total[part] = torch.addmv(base[part].to(torch.float64), wide.T, coefficients)
    return total


def quadratic(gram: Tensor, a: Tensor) -> Tensor:
    """`a^T K a`: the squared length of `sum_l a_l row_l`.  Shapes: gram `[..., K, K]`, a `[..., K]`, result `[...]`."""
    return (a.unsqueeze(-2) @ gram @ a.unsqueeze(-1)).squeeze(-1).squeeze(-1)

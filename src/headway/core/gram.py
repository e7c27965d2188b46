"""The Gram matrix of vectors, in float64 and without copying them whole."""

from __future__ import annotations

import torch
from torch import Tensor

COLUMNS = 1 << 16  # converted to float64 at a time


def gram_matrix(rows: Tensor) -> Tensor:
    """`G G^T` of vectors `[K, P]`, accumulated in float64, `[K, K]`."""
    gram = torch.zeros(rows.shape[0], rows.shape[0], dtype=torch.float64)
    for start in range(0, rows.shape[1], COLUMNS):
        wide = rows[:, start : start + COLUMNS].double()
        gram.addmm_(wide, wide.T)
    return gram

"""Long tensors looked at block by block, so that what is made on the way stays small."""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor

BLOCK_BYTES = 1 << 24  # of a store that are looked at together


def blocks_of(tensor: Tensor) -> Iterator[tuple[int, Tensor]]:
    """The rows of a tensor `[N, ...]` in blocks of about 16 MiB, each with its first row's number and no copy."""
    row = max(tensor[:1].numel() * tensor.element_size(), 1)
    rows = max(BLOCK_BYTES // row, 1)
    for start in range(0, len(tensor), rows):
        yield start, tensor[start : start + rows]

"""Memory that the tensors of one chunk of examples after another lie in."""

from __future__ import annotations

import math
import mmap
from collections.abc import Sequence

import torch
from torch import Tensor

ALIGNED = 16  # numbers, so that each tensor begins with a line of the cache
HUGE = 1 << 21  # bytes of a huge page


class ReusedMemory:
    """Tensors without values, of one type, in memory that `again` gives free as a whole.

    A computation in chunks goes through many megabytes, and takes longer for the memory than for the arithmetic.  Here
    the memory is taken once, on Linux in huge pages where the system has them, and grows to what a chunk needs.  On
    other devices than a processor, torch's own memory is used.

    >>> memory = ReusedMemory()
    >>> memory.again()
    >>> memory.empty(torch.zeros(1), (2, 3)).shape
    torch.Size([2, 3])
    """

    def __init__(self) -> None:
        self._block, self._taken = torch.empty(0), 0

    def again(self) -> None:
        """All tensors that were given may be overwritten from here on."""
        if self._taken > len(self._block):
            self._block = _block(self._taken, self._block.dtype)
        self._taken = 0

    def empty(self, like: Tensor, shape: Sequence[int]) -> Tensor:
        """A tensor of this shape, of the type and on the device of another."""
        if like.device.type != "cpu":
            return like.new_empty(shape)
        if self._block.dtype != like.dtype:
            self._block, self._taken = torch.empty(0, dtype=like.dtype), 0
        start, count = self._taken, math.prod(shape)
        self._taken = start + -(-count // ALIGNED) * ALIGNED
        if self._taken > len(self._block):  # the next chunk has room for as much
            return like.new_empty(shape)
        return self._block[start : start + count].view(shape)


def _block(count: int, dtype: torch.dtype) -> Tensor:
    """Memory for so many numbers."""
    size = -(-count * dtype.itemsize // HUGE) * HUGE
    if not hasattr(mmap, "MADV_HUGEPAGE"):
        return torch.empty(size // dtype.itemsize, dtype=dtype)
    memory = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)  # private: not shared with a fork
    memory.madvise(mmap.MADV_HUGEPAGE)
    return torch.frombuffer(memory, dtype=dtype)

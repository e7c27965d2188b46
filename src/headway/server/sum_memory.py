"""The main memory that the sum of a round may take: large vectors lie in files beyond it, and are summed in blocks."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from headway.server.vector_files import PER_NUMBER, VectorFiles, columns_within


class SumMemory:
    """The memory of one round's sum: half for vectors that are kept until its end, half for the numbers in work.

    limit: in bytes; infinite for none.  files: of vectors beyond it.

    >>> from pathlib import Path
    >>> limited = SumMemory(2 * 128 * 5000, VectorFiles(Path("folder")))
    >>> SumMemory().columns({"delta": 10**9}) is None, limited.columns({"delta": 10**9})
    (True, 5000)
    """

    def __init__(self, limit: float = math.inf, files: VectorFiles | None = None) -> None:
        assert files is not None or math.isinf(limit), "a limit needs files"
        self.limit, self.files = limit, files
        self._held = 0  # bytes of vectors in main memory

    def columns(self, lengths: Mapping[str, int]) -> int | None:
        """How many numbers of each vector are summed at a time; `None` where whole vectors of these lengths fit."""
        room = self.limit / 2
        return None if PER_NUMBER * sum(lengths.values()) <= room else columns_within(room)

    def vector(self, length: int) -> Tensor:
        """A vector of float64 zeros that is kept until the end of the round.

        Raises:
            RunFolderError: if the disk refuses.
        """
        if self.files is None or self._held + 8 * length <= self.limit / 2:
            self._held += 8 * length
            return torch.zeros(length, dtype=torch.float64)
        return self.files.vector(length)

    def kept(self, vectors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The same vectors, where they may be kept until the end of the round; integers as they are."""
        return {name: self._moved(vector) for name, vector in vectors.items()}

    def _moved(self, vector: Tensor) -> Tensor:
        size = vector.numel() * vector.element_size()
        if self.files is None or not vector.is_floating_point() or self._held + size <= self.limit / 2:
            self._held += size
            return vector
        return self.vector(vector.numel()).copy_(vector)

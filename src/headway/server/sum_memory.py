"""The main memory that the sum of a round may take: large vectors lie in files beyond it, and are summed in blocks."""

from __future__ import annotations

import contextlib
import itertools
import math
import os
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

PER_NUMBER = 128  # bytes that a number takes at most while it is summed: terms, bins of the exact sum, their carries
LEAST, MOST = 1 << 10, 1 << 20  # numbers of a block; larger ones are no faster


class SumMemory:
    """The memory of one round's sum: half for vectors that are kept until its end, half for the numbers in work.

    limit: in bytes; infinite for none.  folder: of the files of vectors beyond it, which are removed at once where
    the system can map a removed file, and by `close` elsewhere.

    >>> limited = SumMemory(2 * 128 * 5000, Path("folder"))
    >>> SumMemory().columns({"delta": 10**9}) is None, limited.columns({"delta": 10**9})
    (True, 5000)
    """

    def __init__(self, limit: float = math.inf, folder: Path | None = None) -> None:
        assert folder is not None or math.isinf(limit), "a limit needs a folder"
        self.limit, self.folder = limit, folder
        self._held = 0  # bytes of vectors in main memory
        self._files: list[Path] = []
        self._numbers = itertools.count()

    def columns(self, lengths: Mapping[str, int]) -> int | None:
        """How many numbers of each vector are summed at a time; `None` where whole vectors of these lengths fit."""
        room = self.limit / 2
        if PER_NUMBER * sum(lengths.values()) <= room:
            return None
        return int(min(max(room // PER_NUMBER, LEAST), MOST))

    def vector(self, length: int) -> Tensor:
        """A vector of float64 zeros that is kept until the end of the round.

        Raises:
            OSError: if the disk refuses.
        """
        size = 8 * length
        if self.folder is None or self._held + size <= self.limit / 2:
            self._held += size
            return torch.zeros(length, dtype=torch.float64)
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.folder / f"{os.getpid()}-{next(self._numbers)}.sum"
        with path.open("wb") as file:
            file.truncate(size)
        mapped = torch.from_file(str(path), shared=True, size=length, dtype=torch.float64)
        with contextlib.suppress(OSError):  # elsewhere a mapped file cannot be removed
            path.unlink()
            return mapped
        self._files.append(path)
        return mapped

    def kept(self, vectors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The same vectors, where they may be kept until the end of the round; integers as they are."""
        return {name: self._moved(vector) for name, vector in vectors.items()}

    def _moved(self, vector: Tensor) -> Tensor:
        size = vector.numel() * vector.element_size()
        if self.folder is None or not vector.is_floating_point() or self._held + size <= self.limit / 2:
            self._held += size
            return vector
        return self.vector(vector.numel()).copy_(vector)

    def close(self) -> None:
        """Lets go of what is kept."""
        for path in self._files:
            with contextlib.suppress(OSError):
                path.unlink()
        self._files, self._held = [], 0

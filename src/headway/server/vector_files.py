"""Vectors in files that are mapped into memory, so that the system may write them out where main memory is needed."""

from __future__ import annotations

import contextlib
import errno
import itertools
import os
from pathlib import Path

import torch
from torch import Tensor

from headway.observe.run_folder import writing

PER_NUMBER = 128  # bytes that a number takes at most in work: terms, bins of an exact sum and their carries
LEAST, MOST = 1 << 10, 1 << 20  # numbers of a block of columns; larger blocks are no faster


def columns_within(room: float) -> int:
    """How many numbers are computed at a time in so many bytes of main memory.

    >>> columns_within(128 * 5000), columns_within(0), columns_within(1e12)
    (5000, 1024, 1048576)
    """
    return int(min(max(room // PER_NUMBER, LEAST), MOST))


class VectorFiles:
    """Makes vectors in files of a folder, which go with the vectors: at once where the system can map a removed file,
    and with `close`, or the next process, elsewhere."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._numbers = itertools.count()
        self._files: list[Path] = []

    def vector(self, length: int, dtype: torch.dtype = torch.float64) -> Tensor:
        """A vector of zeros, whose room on the disk is taken at once.

        Raises:
            RunFolderError: if the disk refuses.
        """
        if not length:
            return torch.zeros(0, dtype=dtype)
        self.close()
        path, size = self.folder / f"{os.getpid()}-{next(self._numbers)}.vector", length * dtype.itemsize
        self._files.append(path)
        try:
            with writing(path):
                self.folder.mkdir(parents=True, exist_ok=True)
                with path.open("wb") as file:
                    _take_room(file.fileno(), size)
            return torch.from_file(str(path), shared=True, size=length, dtype=dtype)
        finally:
            self.close()

    def close(self) -> None:
        """Removes the files that the system lets go of."""
        self._files = [path for path in self._files if not _removed(path)]

    def clear(self) -> None:
        """Removes what another process has left."""
        for left in self.folder.glob("*.vector") if self.folder.is_dir() else ():
            _removed(left)


def _removed(path: Path) -> bool:
    """Removes a file; False where it is mapped and the system keeps it for that."""
    with contextlib.suppress(OSError):
        path.unlink(missing_ok=True)
        return True
    return False


def _take_room(file: int, size: int) -> None:
    """Gives a new file its size; a full disk refuses now, and does not end the process as a page is written."""
    try:
        os.posix_fallocate(file, 0, size)
    except (AttributeError, OSError) as error:  # another system, or a file system that cannot
        if getattr(error, "errno", errno.EINVAL) not in (errno.EINVAL, errno.EOPNOTSUPP):
            raise
        os.truncate(file, size)

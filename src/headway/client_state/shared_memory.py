"""Memory that processes forked later share: anonymous while it is small, a sparse file beyond that.

What is never written costs nothing, however large the whole may be.
"""

from __future__ import annotations

import contextlib
import errno
import mmap
import os
import shutil
import tempfile
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from headway.core.errors import RunFolderError

ANONYMOUS = 64 << 20  # bytes up to which no file is made
UNSUPPORTED = {errno.EINVAL, errno.EOPNOTSUPP, errno.ENOSYS}  # what file systems answer that cannot allocate ahead
ZEROS = bytes(1 << 16)

Bytes = NDArray[np.uint8]


def shared_array(shape: tuple[int, ...], dtype: DTypeLike) -> NDArray[Any]:
    """Zeros in anonymous shared memory: what one process writes, its forks see."""
    count = int(np.prod(shape, dtype=np.int64))
    memory = mmap.mmap(-1, max(1, count * np.dtype(dtype).itemsize))
    return np.frombuffer(memory, dtype=dtype, count=count).reshape(shape)


class SharedBytes:
    """Bytes shared with processes forked later, all zero at first.

    A file is unlinked, so that it goes with the last process that has it.  It lies in the folder, or in the nearest
    above it that exists yet; with no folder, where temporary files lie.  `memory` maps all of it; `write` and `read`
    go past the mapping, which spares a fault for every page.

    what: the name of the bytes, for errors.

    Raises:
        RunFolderError: if the file cannot be made.
    """

    def __init__(self, size: int, what: str, folder: Path | None = None) -> None:
        self.size, self.what = size, what
        self.file: int | None = None
        if size <= ANONYMOUS:
            self.memory = mmap.mmap(-1, max(1, size))
        else:
            self.folder, self._chosen = _existing(folder), folder is not None
            with self._in_a_sentence(size):
                self.file, self.memory = _sparse_file(size, self.folder)
            weakref.finalize(self, os.close, self.file)
        self._bytes: Bytes = np.frombuffer(self.memory, dtype=np.uint8)

    def reserve(self, start: int, count: int) -> None:
        """Takes the disk's space for bytes that were never written, so that a full disk refuses here and now.

        Without it, a write to the mapping of a full disk ends the process.

        Raises:
            RunFolderError: saying what was needed, what is free, and what to do.
        """
        if self.file is None or not count:
            return
        with self._in_a_sentence(count):
            try:
                if hasattr(os, "posix_fallocate"):
                    os.posix_fallocate(self.file, start, count)
                    return
            except OSError as error:
                if error.errno not in UNSUPPORTED:
                    raise
            for begin in range(start, start + count, len(ZEROS)):
                _write_all(self.file, memoryview(ZEROS)[: start + count - begin], begin)

    def write(self, start: int, data: Bytes) -> None:
        """Writes bytes from a place on; their space was reserved before.

        Raises:
            RunFolderError: if the disk refuses all the same.
        """
        if self.file is None:
            self._bytes[start : start + len(data)] = data
            return
        with self._in_a_sentence(len(data)):
            _write_all(self.file, data.data, start)

    def read(self, start: int, into: Bytes) -> None:
        """Fills an array from the bytes at a place."""
        if self.file is None:
            into[:] = self._bytes[start : start + len(into)]
            return
        rest = into.data
        while rest:
            done = os.preadv(self.file, [rest], start)
            rest, start = rest[done:], start + done

    @contextlib.contextmanager
    def _in_a_sentence(self, count: int) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            free = f"{shutil.disk_usage(self.folder).free:,} free" if self.folder.is_dir() else "no such folder"
            how = "choose another folder" if self._chosen else "name another folder in TMPDIR"
            raise RunFolderError(
                f"what clients keep as {self.what} needs {count:,} bytes more in {self.folder} and up to {self.size:,} "
                f"once all have taken part, and found {free}: {error.strerror or error}. It is too much for main "
                f"memory, so it lies in a file. What was kept before is whole: free some space or {how}; then resume, "
                "or run anew."
            ) from error


def _sparse_file(size: int, folder: Path) -> tuple[int, mmap.mmap]:
    with tempfile.TemporaryFile(dir=folder) as made:
        file = os.dup(made.fileno())
    try:
        os.ftruncate(file, size)
        memory = mmap.mmap(file, size, flags=mmap.MAP_SHARED)
    except BaseException:
        os.close(file)
        raise
    if hasattr(mmap, "MADV_RANDOM"):
        memory.madvise(mmap.MADV_RANDOM)  # else every fault reads 128 KiB ahead, of rows that are not needed
    return file, memory


def _write_all(file: int, rest: memoryview, start: int) -> None:
    while rest:
        done = os.pwrite(file, rest, start)
        rest, start = rest[done:], start + done


def _existing(folder: Path | None) -> Path:
    if folder is None:
        return Path(tempfile.gettempdir())
    folder = folder.absolute()
    return next(place for place in (folder, *folder.parents) if place.is_dir())

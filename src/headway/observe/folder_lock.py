"""A lock on a folder, held by one process, on Linux, macOS and Windows; and folders flushed to the disk."""

from __future__ import annotations

import contextlib
import os
import sys
from pathlib import Path

LOCK = "run.lock"  # the file that is locked on Windows, where a folder cannot be


class FolderLock:
    """A folder held by this process; the operating system lets go of it when the process ends, however it ends.

    Raises:
        BlockingIOError: if another process, or another lock of this one, holds it.
        OSError: if it cannot be opened.
    """

    def __init__(self, path: Path) -> None:
        self._handle: int | None = _windows_lock(path) if sys.platform == "win32" else _posix_lock(path)

    def close(self) -> None:
        """Lets another process have the folder; a second call does nothing."""
        if self._handle is not None:
            os.close(self._handle)
            self._handle = None


def sync_folder(path: Path) -> None:
    """Flushes the names in a folder to the disk, so that a renamed file is there after a power failure.

    Windows has no such call for a folder, and writes names through by itself.
    """
    if sys.platform == "win32":
        return
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _posix_lock(path: Path) -> int:
    import fcntl

    handle = os.open(path, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BaseException:
        os.close(handle)
        raise
    return handle


def _windows_lock(path: Path) -> int:
    """A handle on the folder's lock file, which goes when it is closed; its first byte is locked."""
    import msvcrt

    flags = os.O_RDWR | os.O_CREAT | getattr(os, "O_TEMPORARY", 0)
    locking, mode = getattr(msvcrt, "locking"), getattr(msvcrt, "LK_NBLCK")  # noqa: B009 - not known to mypy elsewhere
    handle = -1
    try:
        handle = os.open(path / LOCK, flags)
        locking(handle, mode, 1)
    except OSError as error:
        if handle >= 0:
            with contextlib.suppress(OSError):
                os.close(handle)
        raise BlockingIOError(str(error)) from error
    return handle

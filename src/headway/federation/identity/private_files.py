"""Files of keys and secrets: readable by their owner alone, written whole or not at all."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from headway.core.errors import HeadwayError


class IdentityError(HeadwayError):
    """An identity, a certificate authority or a certificate that is missing, damaged, or not valid."""


def write_private(path: Path, data: bytes) -> None:
    """Writes a file of mode 0600 and puts it in place when it is on disk.

    Raises:
        IdentityError: if the folder cannot be written.
    """
    _write(path, data, 0o600)


def write_public(path: Path, data: bytes) -> None:
    """Writes a file that others may read, likewise."""
    _write(path, data, 0o644)


def make_folder(folder: Path) -> None:
    """Makes a folder of mode 0700, unless it is there.

    Raises:
        IdentityError: if it cannot be made.
    """
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise IdentityError(f"cannot make the folder {folder}: {error.strerror or error}.") from error


def read_private(path: Path) -> bytes:
    """The bytes of a file that only its owner may read.

    On Windows the mode says nothing about who may read; the folder's own permissions count there.

    Raises:
        IdentityError: if it is missing, cannot be read, or is readable by others.
    """
    try:
        mode = stat.S_IMODE(path.stat().st_mode)
        if os.name == "posix" and mode & 0o077:
            raise IdentityError(
                f"{path} is readable by others (mode {mode:04o}) and holds a secret: run `chmod 600 {path}`, and issue"
                f" a new identity if somebody may have read it."
            )
        return path.read_bytes()
    except FileNotFoundError as error:
        raise IdentityError(f"{path} is missing: {path.parent} is not a whole identity folder.") from error
    except OSError as error:
        raise IdentityError(f"cannot read {path}: {error.strerror or error}.") from error


def _write(path: Path, data: bytes, mode: int) -> None:
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        beside.unlink(missing_ok=True)
        with os.fdopen(os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        beside.replace(path)
    except OSError as error:
        beside.unlink(missing_ok=True)
        raise IdentityError(f"cannot write {path}: {error.strerror or error}.") from error

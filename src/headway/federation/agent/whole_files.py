"""Files that are there whole, on disk, or not at all; on any system."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from headway.core.errors import HeadwayError


class AgentStateError(HeadwayError):
    """The state of an agent cannot be read or written."""


@contextmanager
def private_file(path: Path) -> Iterator[BinaryIO]:
    """A new file that its owner alone may read; it is on disk when the context ends."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | getattr(os, "O_BINARY", 0), 0o600)
    with os.fdopen(descriptor, "wb") as file:
        yield file
        file.flush()
        os.fsync(file.fileno())


def move_whole(part: Path, path: Path) -> None:
    """Gives a file that is on disk its name, in the place of an earlier one; the name is on disk too."""
    os.replace(part, path)
    if hasattr(os, "O_DIRECTORY"):
        folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def write_whole(path: Path, data: bytes) -> None:
    """Writes a file."""
    part = path.with_name(f"{path.name}.new")
    with private_file(part) as file:
        file.write(data)
    move_whole(part, path)


@contextmanager
def in_a_sentence(folder: Path) -> Iterator[None]:
    """Errors of files and of the database as one sentence on the folder of the agent's state."""
    try:
        yield
    except (OSError, sqlite3.OperationalError, sqlite3.DatabaseError) as error:
        raise unwritable(folder, error) from error


def unwritable(folder: Path, error: Exception) -> AgentStateError:
    """The error that the state in a folder cannot be used."""
    return AgentStateError(
        f"the agent's state in {folder} cannot be read or written ({error}): look at its rights and at the free space "
        "of the disk, then start the agent again; what was kept before is whole."
    )

"""The numbers of requests: a node uses each once, a server accepts each once, and both over restarts.

Neither side writes to disk for each request: both reserve a block of numbers durably and use it from memory.
"""

from __future__ import annotations

import sqlite3
import threading
from contextlib import closing
from pathlib import Path

from headway.federation.identity.private_files import IdentityError, make_folder, write_private
from headway.federation.identity.request_signature import LARGEST_SEQUENCE

NODE_BLOCK = 1024  # the numbers that a node reserves at once
SERVER_BLOCK = 2**24  # the numbers that a server accepts of each node before it has to write
LARGEST_STEP = 2**40  # which a node takes at a server's word: 65,536 starts of a server
WINDOW = 1024  # numbers that may arrive out of order, as requests on several connections do


def open_database(path: Path, schema: str, journal: str = "WAL") -> sqlite3.Connection:
    """A database of mode 0600 whose commits are on disk before they return.

    journal: DELETE for a file that may be copied while it is in use, since it is always whole by itself.

    Raises:
        IdentityError: if it cannot be opened or made.
    """
    try:
        if not path.exists():
            make_folder(path.parent)
            write_private(path, b"")
        connection = sqlite3.connect(path, timeout=30, isolation_level=None, check_same_thread=False)
    except sqlite3.Error as error:
        raise IdentityError(f"cannot open {path}: {error}.") from error
    try:
        connection.execute(f"PRAGMA journal_mode={journal}")
        connection.execute("PRAGMA synchronous=FULL")
        connection.executescript(schema)
    except sqlite3.Error as error:
        connection.close()
        raise IdentityError(f"cannot use {path}: {error}; it is damaged, or its folder is not writable.") from error
    return connection


class NodeSequence:
    """The numbers of a node's requests: each is given out once, over restarts and among processes.

    A block is reserved on disk before its first number is used; what is left of a block at a stop is never used.
    """

    def __init__(self, path: Path) -> None:
        self._path, self._lock = path, threading.Lock()
        self._next = self._end = 0

    def take(self) -> int:
        """The next number.

        Raises:
            IdentityError: if the reservation cannot be written.
        """
        with self._lock:
            if self._next >= self._end:
                self._reserve(0)
            self._next += 1
            return self._next - 1

    def raise_to(self, least: int) -> bool:
        """From now on, only numbers of at least `least`.

        Returns:
            False for a number so far ahead that no server asks for it; whoever does could use up a node's numbers.
        """
        with self._lock:
            if least > min(self._next + LARGEST_STEP, LARGEST_SEQUENCE - NODE_BLOCK):
                return False
            if least > self._next:
                self._reserve(least)
            return True

    def _reserve(self, least: int) -> None:
        schema = "CREATE TABLE IF NOT EXISTS reserved (below INTEGER NOT NULL)"
        with closing(open_database(self._path, schema)) as database:
            try:
                database.execute("BEGIN IMMEDIATE")
                (below,) = database.execute("SELECT COALESCE(MAX(below), 1) FROM reserved").fetchone()
                start = max(below, least)
                database.execute("DELETE FROM reserved")
                database.execute("INSERT INTO reserved VALUES (?)", (start + NODE_BLOCK,))
                database.execute("COMMIT")
            except sqlite3.Error as error:
                raise IdentityError(f"cannot reserve numbers of requests in {self._path}: {error}.") from error
        self._next, self._end = start, start + NODE_BLOCK


class SequenceRefused(Exception):
    """A number that was used, or that is too old to know. least: the smallest number that is accepted."""

    def __init__(self, reason: str, least: int) -> None:
        super().__init__(reason)
        self.least = least


class SequenceWindows:
    """The numbers that a server has accepted of each node.

    Of a node's last `WINDOW` numbers each is accepted once, in any order; lower ones are refused.  All that was or may
    have been accepted before a restart is refused after it: opening the file moves the floor of every node to the end
    of the block that was in use, in one write for all nodes.
    """

    def __init__(self, path: Path) -> None:
        schema = (
            "CREATE TABLE IF NOT EXISTS opened (times INTEGER NOT NULL);"
            "CREATE TABLE IF NOT EXISTS ahead (node TEXT PRIMARY KEY, below INTEGER NOT NULL)"
        )
        self._lock = threading.Lock()
        self._database = open_database(path, schema)
        self._database.execute("BEGIN IMMEDIATE")
        (times,) = self._database.execute("SELECT COALESCE(MAX(times), -1) + 1 FROM opened").fetchone()
        self._database.execute("DELETE FROM opened")
        self._database.execute("INSERT INTO opened VALUES (?)", (times,))
        rows = self._database.execute("SELECT node, below FROM ahead").fetchall()
        self._database.execute("COMMIT")
        self._floor, self._below = times * SERVER_BLOCK, (times + 1) * SERVER_BLOCK
        self._ahead: dict[str, int] = {}
        self._windows: dict[str, tuple[int, int]] = {  # node -> (largest number, bits of those below it)
            node: (below - 1, (1 << WINDOW) - 1) for node, below in rows if below > self._floor
        }

    def close(self) -> None:
        """Closes the file; a call of another thread that is under way ends first."""
        with self._lock:
            self._database.close()

    def accept(self, node: str, sequence: int) -> None:
        """Marks a number as used, durably.

        Raises:
            SequenceRefused: if it was used, or is below all that can be known to be unused.
        """
        with self._lock:
            largest, bits = self._windows.get(node, (self._floor - 1, (1 << WINDOW) - 1))
            age = largest - sequence
            if age >= WINDOW or sequence < self._floor:
                least = largest + 1
                raise SequenceRefused(
                    f"the number {sequence} of the request is old; the next is {least} or more", least
                )
            if age >= 0 and bits >> age & 1:
                raise SequenceRefused(f"the number {sequence} of the request was used before", largest + 1)
            if sequence >= max(self._below, self._ahead.get(node, 0)):
                below = min(sequence + SERVER_BLOCK, LARGEST_SEQUENCE + 1)
                self._database.execute("INSERT OR REPLACE INTO ahead VALUES (?, ?)", (node, below))
                self._ahead[node] = below
            if age < 0:
                bits = (bits << -age if -age < WINDOW else 0) & ((1 << WINDOW) - 1) | 1
                self._windows[node] = (sequence, bits)
            else:
                self._windows[node] = (largest, bits | 1 << age)

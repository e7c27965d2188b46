"""The file of a privacy ledger: lines of JSON, each with the digest of the one before, on the disk before it counts.

No line can be changed, left out or put in later without a change of all that follow.  Lines that are cut off at the end
do not show here: checkpoints hold how many there were, and the last digest.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from headway.core.errors import RunFolderError
from headway.numerics.canonical import canonical, digest_of
from headway.observe.folder_lock import sync_folder
from headway.observe.run_folder import LEDGER as LEDGER
from headway.observe.run_folder import writing

FORMAT = 1
Entry = dict[str, Any]


class LedgerError(RunFolderError):
    """A ledger whose chain is broken.  line: the first at fault, from 1."""

    def __init__(self, line: int, message: str) -> None:
        self.line = line
        super().__init__(message)


class LedgerFile:
    """The entries of a ledger, in a file or, without a path, in memory alone.

    entries: all of them, oldest first.  notices: what a user should know of the file.

    Raises:
        RunFolderError: if the file cannot be read.
        LedgerError: if its chain is broken, with the first line at fault.
    """

    def __init__(self, path: Path | None) -> None:
        self.path, self.entries, self.notices = path, list[Entry](), list[str]()
        self._unfinished: int | None = None  # where a line begins that was not finished when the process ended
        if path is not None and path.exists():
            self._read(path)

    @property
    def head(self) -> str:
        """The digest of the last entry; empty before the first."""
        return str(self.entries[-1]["digest"]) if self.entries else ""

    def append(self, values: Mapping[str, Any]) -> Entry:
        """Adds an entry, which is on the disk when this returns.

        Raises:
            RunFolderError: if the disk refuses; then nothing may be released under it.
        """
        entry: Entry = plain({"format": FORMAT, "number": len(self.entries), "previous": self.head, **values})
        entry["digest"] = digest_of(entry)
        if self.path is not None:
            with writing(self.path, "Nothing was released; free some space, then resume."):
                self._write(self.path, canonical(entry) + b"\n")
        self.entries.append(entry)
        return entry

    def check_prefix(self, count: int, digest: str) -> None:
        """Refuses a file from which lines are missing that were there when a checkpoint was written.

        Raises:
            RunFolderError: naming the line.
        """
        if len(self.entries) < count:
            raise RunFolderError(
                f"{self.path} has {len(self.entries)} lines, and had {count} at the checkpoint that the run goes on "
                "from: lines are missing, and with them what they spent. Restore the file from a copy; a run whose "
                "spent budget is not known cannot go on."
            )
        if count and self.entries[count - 1]["digest"] != digest:
            raise RunFolderError(
                f"{self.path}, line {count}: it is not the line that was there at the checkpoint that the run goes on "
                "from. Restore the file from a copy; a run whose spent budget is not known cannot go on."
            )

    def _read(self, path: Path) -> None:
        with writing(path):
            data = path.read_bytes()
        whole, _, rest = data.rpartition(b"\n")
        if rest:
            # it was not on the disk whole, so nothing was released under it
            self._unfinished = len(data) - len(rest)
            self.notices.append(
                f"{path}: the last line was not finished when the process ended, so nothing was released under it; it "
                "is left out."
            )
        self.entries = list(_checked(path, whole.split(b"\n") if whole else []))

    def _write(self, path: Path, line: bytes) -> None:
        new = not path.exists()
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        try:
            if self._unfinished is not None:
                os.ftruncate(handle, self._unfinished)
                self._unfinished = None
            begin = os.fstat(handle).st_size
            try:
                if os.write(handle, line) != len(line):
                    raise OSError("the disk took only part of the line")
                os.fsync(handle)
            except OSError:
                self._unfinished = begin  # what stands there of the line is not part of the chain
                raise
        finally:
            os.close(handle)
        if new:
            sync_folder(path.parent)


def plain(value: Any) -> Any:
    """The value as it is read back from JSON: lists for tuples, and a text for a number that is not finite.

    >>> plain({"a": (1, math.inf)})
    {'a': [1, 'inf']}
    """
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def _checked(path: Path, lines: list[bytes]) -> Iterator[Entry]:
    """The entries of lines.

    Raises:
        LedgerError: at the first line that is damaged, of another format, or not the one that was written.
    """
    previous = ""
    for number, line in enumerate(lines, start=1):
        try:
            entry = json.loads(line)
            digest = entry.pop("digest")
            fault = _fault(entry, digest, previous, number)
        except (ValueError, KeyError, AttributeError, TypeError):
            fault = "it is no entry of a ledger"
        if fault:
            raise LedgerError(
                number,
                f"{path}, line {number}: {fault}. What the run has spent is not known any more: restore the file from "
                "a copy; a run whose spent budget is not known cannot go on.",
            )
        previous = digest
        yield {**entry, "digest": digest}


def read_entries(path: Path) -> list[Entry]:
    """The entries of a file that is only read; a line that is not finished is left out.

    Raises:
        RunFolderError: if there is none, or its chain is broken, with the first line at fault.
    """
    if not path.is_file():
        raise RunFolderError(f"{path} is missing: a run has a privacy ledger if a stage adds noise.")
    return LedgerFile(path).entries


def _fault(entry: Entry, digest: str, previous: str, number: int) -> str:
    """What is wrong with an entry; empty if nothing is."""
    if digest_of(entry) != digest:
        return "its content does not agree with its digest"
    if entry["format"] != FORMAT:
        return f"it has format {entry['format']}, and this headway reads format {FORMAT}"
    if entry["previous"] != previous:
        return "it does not follow the line before it"
    if entry["number"] != number - 1:
        return f"it has number {entry['number']}, and {number - 1} is due"
    return ""

"""The run folder: what is needed to go on with a run, or to trust it later.

run.toml        the resolved configuration          run.json     identity: versions, seed, fingerprints
data.json       the names of the classes, and what reading the data took: what was dropped, filled in or rescaled
journal.sqlite  rounds, clients, metrics            memory.sqlite  what clients keep
checkpoints/    round-000010.safetensors, the last k   best.safetensors   the best model so far
ledger.jsonl    the privacy ledger: every noisy release, written before it is made
replay/         answers of rounds since the newest checkpoint, where clients took long
events.sqlite, spool/, manifests/   of a server: what happened, the updates, and the manifests of rounds
"""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import shutil
import sqlite3
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import safetensors
from torch import Tensor

from headway.core import stopping
from headway.core.errors import RunFolderError
from headway.observe.folder_lock import LOCK, FolderLock, sync_folder
from headway.observe.tensor_pieces import pieces

FORMAT = 1
AGAIN = "What was saved before is whole; free some space or choose another folder, then resume."
REPLAY = "replay"  # a folder: the completed effects of rounds since the newest checkpoint, where they took long
IDENTITY, CONFIG, DATA_NOTES, JOURNAL, MEMORY, BEST = (
    "run.json",
    "run.toml",
    "data.json",
    "journal.sqlite",
    "memory.sqlite",
    "best.safetensors",
)
LEDGER = "ledger.jsonl"  # see `privacy.ledger_file`
EVENTS, SPOOL, MANIFESTS, JOB = "events.sqlite", "spool", "manifests", "job.json"  # of a server: see `federation.spool`
VECTORS = "vectors"  # a folder of a server: vectors that are mapped into memory while it runs
OWN = {IDENTITY, CONFIG, DATA_NOTES, JOURNAL, MEMORY, BEST, REPLAY, LEDGER, LOCK, EVENTS, SPOOL, MANIFESTS, JOB}
OWN |= {VECTORS, "checkpoints"}
SIDE_FILES = ("-wal", "-shm", "-journal")  # of SQLite, beside its own


class RunFolder:
    """One folder, held by one process at a time.  passed: damaged checkpoints that `latest` has passed over."""

    def __init__(self, path: Path, identity: Mapping[str, Any], keep: int = 3) -> None:
        self.path, self.identity, self.keep = path, dict(identity), keep
        self.passed: list[str] = []
        self._lock = _lock(path)

    @classmethod
    def create(cls, path: Path, identity: Mapping[str, Any], config: str | None = None, keep: int = 3) -> RunFolder:
        """A new folder; it appears whole or not at all.

        Raises:
            RunFolderError: if the place is taken, or cannot be written.  A run of which no round was kept is not in the
                way: the new one takes its place.
        """
        begun = _check_place(path)
        staging = path.with_name(f".{path.name}.{os.getpid()}")

        def clear() -> None:
            shutil.rmtree(staging, ignore_errors=True)

        try:
            with (
                stopping.deferred(),
                stopping.undoing(clear),
                writing(path, "Choose another place, or see what it lacks."),
            ):
                (staging / "checkpoints").mkdir(parents=True)
                write_atomically(staging / IDENTITY, json.dumps({"format": FORMAT, **identity}, indent=2).encode())
                if config is not None:
                    write_atomically(staging / CONFIG, config.encode())
                if begun:
                    _remove(path)
                elif path.exists():
                    path.rmdir()
                staging.rename(path)
        finally:
            clear()
        return cls(path, identity, keep)

    @classmethod
    def open(cls, path: Path, keep: int = 3) -> RunFolder:
        """A folder that exists.

        Raises:
            RunFolderError: if it is no run folder, of another format, or in use.
        """
        return cls(path, read_identity(path), keep)

    def check_draws(self, wanted: int) -> None:
        """Refuses to go on with a run that drew from its keys in another way.

        Raises:
            RunFolderError: naming the version that it was begun with.
        """
        versions = self.identity.get("versions", {})
        if versions.get("draws", 1) != wanted:
            raise RunFolderError(
                f"the run in {self.path} was begun with headway {versions.get('headway', '?')}, whose clients draw "
                "their batches otherwise, so that it would end elsewhere: finish it with that, or start a new run."
            )

    def save(self, round_: int, tensors: Mapping[str, Tensor], notes: Mapping[str, Any]) -> None:
        """Writes a checkpoint, whole or not at all, and removes those older than the last k.

        Raises:
            RunFolderError: if it cannot be written; the earlier ones stay.
        """
        path = self.path / "checkpoints" / f"round-{round_:06d}.safetensors"
        with writing(path):
            write_tensors(path, tensors, {"round": round_, "format": FORMAT, **notes})
            for old in self.checkpoints()[: -self.keep]:
                old.unlink()

    def save_best(self, tensors: Mapping[str, Tensor], notes: Mapping[str, Any]) -> None:
        """Writes the best model so far."""
        with writing(self.path / BEST):
            write_tensors(self.path / BEST, tensors, {"format": FORMAT, **notes})

    def checkpoints(self) -> list[Path]:
        """The checkpoint files, oldest first."""
        return sorted((self.path / "checkpoints").glob("round-*.safetensors"))

    def oldest_kept(self, saving: int) -> int:
        """The earliest round that a resume may start from once `saving` is written."""
        rounds = [*(int(path.stem.removeprefix("round-")) for path in self.checkpoints()), saving]
        return min(sorted(set(rounds))[-self.keep :])

    def latest(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """The tensors and notes of the newest checkpoint that can be read.

        Raises:
            RunFolderError: if there is none, naming the fault of each.
        """
        self.passed = []
        for path in reversed(self.checkpoints()):
            try:
                return read_tensors(path)
            except RunFolderError as error:
                self.passed.append(str(error))
        if not self.passed:
            raise RunFolderError(f"{self.path} holds no checkpoint, so there is nothing to resume from; run it anew.")
        raise RunFolderError(" ".join(self.passed) + " No earlier checkpoint is left; run it anew.")

    def close(self) -> None:
        """Lets another process have the folder."""
        self._lock.close()


def read_identity(path: Path) -> dict[str, Any]:
    """The identity of the run in a folder.

    Raises:
        RunFolderError: if it is no run folder, or of another format.
    """
    file = path / IDENTITY
    if not file.is_file():
        raise RunFolderError(f"{path} is no run folder: it has no {IDENTITY}.")
    try:
        identity: dict[str, Any] = json.loads(file.read_text())
        format_ = identity.pop("format")
    except (ValueError, KeyError, AttributeError) as error:
        raise RunFolderError(f"{file} is damaged ({error}); restore it from a copy, or run anew.") from error
    if format_ != FORMAT:
        made_by = identity.get("versions", {}).get("headway", "an unknown version")
        raise RunFolderError(
            f"{path} has run format {format_} (made by headway {made_by}), and this headway reads format {FORMAT}: "
            "resume it with the version that made it."
        )
    return identity


def write_tensors(path: Path, tensors: Mapping[str, Tensor], notes: Mapping[str, Any]) -> None:
    """Tensors and notes as one safetensors file, atomically."""
    write_atomically(path, pieces(tensors, {"headway": json.dumps(notes)}))


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors and notes of a file that `write_tensors` made.

    Raises:
        RunFolderError: if it is missing or damaged.
    """
    with _reading(path) as file:
        notes: dict[str, Any] = json.loads((file.metadata() or {})["headway"])
        return {name: file.get_tensor(name) for name in file.keys()}, notes  # noqa: SIM118


def read_notes(path: Path) -> dict[str, Any]:
    """The notes alone of a file that `write_tensors` made.

    Raises:
        RunFolderError: if it is missing or damaged.
    """
    with _reading(path) as file:
        notes: dict[str, Any] = json.loads((file.metadata() or {})["headway"])
        return notes


@contextlib.contextmanager
def _reading(path: Path) -> Iterator[Any]:
    """An open file of tensors; what is wrong with it as a sentence."""
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            yield file
    except (safetensors.SafetensorError, OSError, KeyError, ValueError) as error:
        raise RunFolderError(f"the checkpoint {path} is missing or damaged ({error}).") from error


def write_atomically(path: Path, data: bytes | Iterable[bytes | memoryview]) -> None:
    """Writes beside the place, flushes to the disk, and renames: a reader sees the old file or the new one.

    data: whole, or a piece at a time.
    """
    staging = path.with_name(f".{path.name}.{os.getpid()}")
    with stopping.deferred(), stopping.undoing(lambda: staging.unlink(missing_ok=True)):
        _write_and_rename(staging, path, [data] if isinstance(data, bytes) else data)


def _write_and_rename(staging: Path, path: Path, data: Iterable[bytes | memoryview]) -> None:
    try:
        with open(staging, "wb") as file:
            for piece in data:
                file.write(piece)
            file.flush()
            os.fsync(file.fileno())
        os.replace(staging, path)
        sync_folder(path.parent)
    finally:
        with contextlib.suppress(OSError):
            staging.unlink(missing_ok=True)


@contextlib.contextmanager
def writing(path: Path, do_this: str = AGAIN) -> Iterator[None]:
    """Turns what the disk refuses into a sentence; do_this: how it ends.

    Raises:
        RunFolderError: naming the file and the cause, and that the earlier content is whole.
    """
    try:
        yield
    except (OSError, sqlite3.OperationalError) as error:
        why = getattr(error, "strerror", None) or str(error)
        raise RunFolderError(f"{path} cannot be written: {why.rstrip('.')}. {do_this}") from error


def is_begun(path: Path) -> bool:
    """Whether this is the folder of a run that was stopped, or failed, before its first round was kept."""
    if not (path / IDENTITY).is_file():
        return False
    kept = (path / "checkpoints").glob("round-*.safetensors")
    return all(int(each.stem.removeprefix("round-")) == 0 for each in kept) and not _has_released(path)


def _has_released(path: Path) -> bool:
    """Whether the run's privacy ledger holds more than its first line: what is spent stays spent, also of a first round
    that came to nothing."""
    with writing(path):
        return (path / LEDGER).is_file() and (path / LEDGER).read_bytes().count(b"\n") > 1


def _check_place(path: Path) -> bool:
    """Whether a run that never got anywhere is in this place, which makes way for the new one.

    Raises:
        RunFolderError: if the place is taken by anything else, with what can be done.
    """
    if path.name in ("", ".."):
        raise RunFolderError(f"a run needs a folder of its own, found {str(path)!r}: name one that does not exist yet.")
    if not path.exists() and not path.is_symlink():
        return False
    if not path.is_dir():
        raise RunFolderError(f"{path} is not a folder, and a run is kept in one: choose another name.")
    names = {each.name for each in path.iterdir()}
    if not names:
        return False
    if IDENTITY not in names:
        raise RunFolderError(f"{path} exists already and holds other files: choose another folder.")
    if not is_begun(path):
        how = f"`headway resume {shlex.quote(str(path))}`" if CONFIG in names else "Run(..., resume=True) in Python"
        raise RunFolderError(f"{path} exists already and holds a run: resume it with {how}, or choose another folder.")
    _lock(path).close()  # another process may be about to train in it
    if strange := sorted(names - OWN - {f"{name}{end}" for name in (JOURNAL, MEMORY, EVENTS) for end in SIDE_FILES}):
        raise RunFolderError(
            f"{path} holds a run that has trained no round, which could make way, and also {strange[0]!r}, which is "
            "not of that run: choose another folder."
        )
    return True


def _remove(path: Path) -> None:
    """Removes a run that never got anywhere, while no other process has it."""
    lock = _lock(path)
    try:
        for each in path.iterdir():
            if each.name != LOCK:  # held open, and on Windows not to be removed before it is closed
                shutil.rmtree(each) if each.is_dir() and not each.is_symlink() else each.unlink()
    finally:
        lock.close()
    shutil.rmtree(path)


def _lock(path: Path) -> FolderLock:
    """Holds the folder for this process; the lock goes with the process, however it ends."""
    try:
        return FolderLock(path)
    except OSError as error:
        raise RunFolderError(f"{path} is in use by another process; wait for it or stop it first.") from error

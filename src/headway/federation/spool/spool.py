"""The spool: updates and messages on disk under the SHA-256 of their bytes, and uploads that go on where they broke.

blobs/  one file for each content, named by its digest     parts/  what has come of unfinished uploads, by client

A name from a client is never part of a path: a part has the name of a digest of it.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import shutil
import threading
import time
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from headway.core import fault_points
from headway.federation.spool.disk_errors import AGAIN, SpoolError, UploadRefused, disk
from headway.observe.folder_lock import sync_folder

PIECE = 1 << 20  # bytes that are read at a time
PER_CLIENT = 8 << 30  # bytes of unfinished uploads of one client
SPARE = 64 << 20  # bytes of the disk that uploads leave free, for the event log, the journal and the checkpoint
GRACE_S = 60.0  # between the end of an upload and its event, at most, and again as long
DIGEST = re.compile(r"[0-9a-f]{64}")
BLOBS, PARTS, PART, DONE = "blobs", "parts", ".part", ".done"


@dataclass(slots=True)
class _Upload:
    """An upload: the stem of its files, its bytes, the digest of these while it is known, and the finished digest."""

    stem: Path
    received: int = 0
    hash: hashlib._Hash | None = None
    digest: str | None = None
    lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def part(self) -> Path:
        return self.stem.with_suffix(PART)

    @property
    def done(self) -> Path:
        return self.stem.with_suffix(DONE)


class Spool:
    """Content on disk by its digest, and unfinished uploads; for any number of threads of one process.

    folder: is made when something is written.  per_client: bytes of unfinished uploads of one client, whose oldest
    ones make way for a new one.  spare: bytes of the disk that uploads leave free.  grace_s: seconds for which `forget`
    leaves a new content.  read_only: whether contents are only read.

    Raises:
        SpoolError: if the folder cannot be made or read.
    """

    def __init__(
        self,
        folder: Path,
        *,
        per_client: int = PER_CLIENT,
        spare: int = SPARE,
        grace_s: float = GRACE_S,
        read_only: bool = False,
    ) -> None:
        self.folder, self.per_client, self.spare = Path(folder), per_client, spare
        self.blobs, self._parts = self.folder / BLOBS, self.folder / PARTS
        self._lock = threading.Lock()
        self._uploads: dict[str, _Upload] = {}
        self._begun: dict[str, dict[str, _Upload]] = {}  # those that are not finished, by the folder of their client
        self._grace_s, self._opened = grace_s, time.monotonic()
        self._used: dict[str, float] = {}  # when a content was put or finished last
        self._fresh, self._made = 0, False
        if not read_only and self.folder.exists():
            with disk(self.folder):
                self._make()
                self._find_uploads()

    # uploads --------------------------------------------------------------------------------------------

    def received(self, upload: str) -> int:
        """How many bytes of an upload are there, before and after a restart; all of them once it is finished."""
        with self._lock:
            found = self._uploads.get(_stem(upload))
        return 0 if found is None else found.received

    def append(self, upload: str, offset: int, data: bytes, *, most: int | None = None, client: str = "") -> int:
        """Adds a piece to an upload; how many bytes are there now.

        most: how many bytes the whole upload may have.  client: whose disk space it takes.

        Raises:
            UploadRefused: for a piece that does not begin where the last one ended, or more bytes than may come.
            SpoolError: if the disk refuses; the bytes before this piece stay.
        """
        held = self._upload(upload, client)
        with held.lock:
            here, end = held.received, offset + len(data)
            if offset != here or held.digest is not None:
                done = " and is finished" if held.digest is not None else ""
                message = (
                    f"a piece at byte {here} was expected, found one at byte {offset}: the upload has {here}{done}."
                )
                raise UploadRefused("offset", here, message)
            limit = self.per_client if most is None else min(most, self.per_client)
            if end > limit:
                message = f"an upload of at most {limit} bytes was expected, found {end}: the rest is not taken."
                raise UploadRefused("too_large", here, message)
            self._make_way(held, end)
            with disk(held.part):
                self._write(held, data)
            fault_points.at("after a piece is written")
            return held.received

    def finish(self, upload: str, size: int, digest: str) -> Path:
        """The file of a finished upload, which is on the disk when this returns; the same again for a second call.

        Raises:
            UploadRefused: if bytes are missing, or are not those of the digest; then the upload begins anew.
            SpoolError: if the disk refuses; the call may be repeated.
        """
        _check(digest)
        with self._lock:
            held = self._uploads.get(_stem(upload)) or _Upload(self._parts / _stem("") / _stem(upload))
        with held.lock:
            if held.received != size:
                message = (
                    f"{size} bytes were announced, found {held.received}: send the rest from byte {held.received}."
                )
                raise UploadRefused("offset", held.received, message)
            with disk(self.blobs / digest):
                if held.digest is not None and not self._is_there(held.digest, held.received):
                    self._restart(held)  # it was forgotten
                found = held.digest or (held.hash.hexdigest() if held.hash is not None else _digest_of(held.part))
                if found != digest:
                    self._restart(held)
                elif held.digest is None:
                    self._keep(held, digest)
            if found == digest:
                return self.blobs / digest
        message = f"bytes with the SHA-256 {digest} were announced, found {found}: send the update again from byte 0."
        raise UploadRefused("digest", 0, message)

    def discard(self, upload: str) -> None:
        """Drops what has come of an upload that is no longer wanted; a finished one keeps its content."""
        with self._lock:
            held = self._uploads.pop(_stem(upload), None)
        if held is not None:
            with held.lock, disk(held.stem):
                held.part.unlink(missing_ok=True)
                held.done.unlink(missing_ok=True)

    # contents -------------------------------------------------------------------------------------------

    def put(self, data: bytes) -> str:
        """The digest of bytes that are on the disk when this returns.

        Raises:
            SpoolError: if the disk refuses.
        """
        digest = hashlib.sha256(data).hexdigest()
        if not self._is_there(digest, len(data)):
            with self.staged() as path:
                path.write_bytes(data)
                self._rename(path, digest)
        return digest

    def put_file(self, path: Path, *, move: bool = False, digest: str | None = None) -> str:
        """The digest of a file's content, which is on the disk when this returns.

        move: the file itself is taken.  digest: where it is known already.

        Raises:
            SpoolError: if it cannot be read, or the disk refuses.
        """
        with disk(path):
            self._make()
            digest, size = _check(digest or _digest_of(path)), path.stat().st_size
            if self._is_there(digest, size):
                if move:
                    path.unlink()
                return digest
        with self.staged() as copy:
            if not move:
                shutil.copyfile(path, copy)
            self._rename(path if move else copy, digest)
        return digest

    @contextlib.contextmanager
    def staged(self) -> Iterator[Path]:
        """A place on the disk of the spool for a file that is to be put; what is left there afterwards is removed.

        Raises:
            SpoolError: if the disk refuses.
        """
        with self._lock:
            self._fresh += 1
            path = self._parts / f".{os.getpid()}-{self._fresh}"
        with disk(path):
            self._make()
            try:
                yield path
            finally:
                with contextlib.suppress(OSError):
                    path.unlink(missing_ok=True)

    def path(self, digest: str) -> Path:
        """The file of a content, which is there unless it was forgotten or never put: see `holds`."""
        return self.blobs / _check(digest)

    def holds(self, digest: str) -> bool:
        """Whether a content is there."""
        return (self.blobs / _check(digest)).is_file()

    def is_whole(self, digest: str) -> bool:
        """Whether the file of a content still has its digest."""
        path = self.path(digest)
        with disk(path):
            return _digest_of(path) == digest

    def forget(self, keep: Collection[str]) -> int:
        """Removes contents that are not to be kept; how many bytes that freed.

        One that was put or finished less than the grace period ago stays: its event may be on the way.
        """
        freed, until = 0, time.monotonic() - self._grace_s
        with disk(self.blobs), self._lock:
            there = {each.name for each in self.blobs.iterdir()} if self.blobs.exists() else set()
            gone = {each for each in there - set(keep) if self._used.get(each, self._opened) <= until}
            for stem in [stem for stem, held in self._uploads.items() if held.digest in gone]:
                self._uploads.pop(stem).done.unlink(missing_ok=True)
            for digest in gone:
                freed += (self.blobs / digest).stat().st_size
                (self.blobs / digest).unlink()
            self._used = {each: at for each, at in self._used.items() if at > until}
        return freed

    @property
    def size(self) -> int:
        """How many bytes contents and unfinished uploads take."""
        with disk(self.folder):
            return sum(each.stat().st_size for each in self.folder.rglob("*") if each.is_file())

    # inside ---------------------------------------------------------------------------------------------

    def _make(self) -> None:
        """Makes the folders, once: a look at the disk for each piece would take half the time of small uploads."""
        if not self._made:
            self.blobs.mkdir(parents=True, exist_ok=True)
            self._parts.mkdir(exist_ok=True)
            self._made = True

    def _find_uploads(self) -> None:
        """Takes up the uploads of an earlier process; a mark of a finished one whose content is gone is removed."""
        for left in self._parts.glob(".*"):
            left.unlink()  # was to be put when that process ended
        for done in self._parts.glob(f"*/*{DONE}"):
            held = _Upload(done.with_suffix(""))
            with contextlib.suppress(ValueError, KeyError, TypeError):
                noted = json.loads(done.read_text())
                digest, size = str(noted["digest"]), int(noted["size"])
                if DIGEST.fullmatch(digest) and self._is_there(digest, size):
                    held.digest, held.received = digest, size
            if held.digest is None:
                done.unlink()
            else:
                held.part.unlink(missing_ok=True)
                self._uploads[held.stem.name] = held
        for part in self._parts.glob(f"*/*{PART}"):
            held = self._uploads[part.stem] = _Upload(part.with_suffix(""), part.stat().st_size)
            self._begun.setdefault(part.parent.name, {})[part.stem] = held

    def _upload(self, upload: str, client: str) -> _Upload:
        stem = _stem(upload)
        with self._lock:
            if stem not in self._uploads:
                self._uploads[stem] = _Upload(self._parts / _stem(client) / stem, hash=hashlib.sha256())
            return self._uploads[stem]

    def _write(self, held: _Upload, data: bytes) -> None:
        """Writes a piece at the end of a part; what was written of it is taken back if the disk refuses."""
        begun = held.received > 0
        if not begun:
            held.stem.parent.mkdir(exist_ok=True)
        with open(held.part, "r+b" if begun else "w+b", buffering=0) as file:
            file.seek(held.received)
            try:
                view = memoryview(data)
                while view:
                    view = view[file.write(view) or 0 :]
            except OSError:
                with contextlib.suppress(OSError):
                    file.truncate(held.received)
                raise
        if held.hash is not None:
            held.hash.update(data)
        held.received += len(data)

    def _make_way(self, held: _Upload, end: int) -> None:
        """Drops the oldest unfinished uploads of a client beyond its space, and checks the space of the disk.

        Raises:
            SpoolError: if the disk would be too full.
        """
        with self._lock:
            own = self._begun.setdefault(held.stem.parent.name, {})
            own.setdefault(held.stem.name, held)
            for stem in [stem for stem, each in own.items() if each.digest or self._uploads.get(stem) is not each]:
                del own[stem]
            others = [each for each in own.values() if each is not held]
        excess = end + sum(each.received for each in others) - self.per_client
        for other in others:  # in the order in which they were begun
            if excess <= 0:
                break
            excess -= other.received
            with self._lock:
                self._uploads.pop(other.stem.name, None)
            with disk(other.part):
                other.part.unlink(missing_ok=True)
        with disk(self.folder):
            self._make()
            free = shutil.disk_usage(self.folder).free
        if free - (end - held.received) < self.spare:
            raise SpoolError(f"{self.folder} has {free} bytes left, of which uploads leave {self.spare} free. {AGAIN}")

    def _keep(self, held: _Upload, digest: str) -> None:
        """Makes a whole part a content: first a mark that says which, then the rename, so that both survive."""
        size = held.received
        if not size:  # no piece has made its file
            held.stem.parent.mkdir(exist_ok=True)
            held.part.touch()
        held.done.write_text(json.dumps({"digest": digest, "size": size}))
        if self._is_there(digest, size):
            held.part.unlink()
        else:
            self._rename(held.part, digest)
        held.digest, held.hash = digest, None

    def _restart(self, held: _Upload) -> None:
        held.done.unlink(missing_ok=True)
        held.part.unlink(missing_ok=True)
        held.received, held.hash, held.digest = 0, hashlib.sha256(), None

    def _rename(self, path: Path, digest: str) -> None:
        """Flushes a file to the disk and gives it the name of its content."""
        fault_points.at("before a content is on disk")
        with open(path, "r+b") as file:
            os.fsync(file.fileno())
        os.replace(path, self.blobs / digest)
        sync_folder(self.blobs)
        fault_points.at("after a content is on disk")

    def _is_there(self, digest: str, size: int) -> bool:
        """Whether a content is there, whose grace period begins anew.

        A file of another size is what a power failure left, and is written anew.
        """
        with self._lock:
            self._used[digest] = time.monotonic()
            try:
                return (self.blobs / digest).stat().st_size == size
            except (FileNotFoundError, NotADirectoryError):
                return False


def _stem(name: str) -> str:
    return hashlib.sha256(name.encode()).hexdigest()[:32]


def _check(digest: str) -> str:
    """The digest, which may come from a client and becomes a file name."""
    if not DIGEST.fullmatch(digest):
        raise SpoolError(f"a SHA-256 of 64 hexadecimal digits was expected, found {digest[:80]!r}.")
    return digest


def _digest_of(path: Path) -> str:
    if not path.exists():
        return hashlib.sha256().hexdigest()
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()

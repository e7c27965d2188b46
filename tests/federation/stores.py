"""A log and a spool without durability, for tests of what uses them."""

import contextlib
import hashlib
from pathlib import Path


class MemoryLog:
    """Events and verdicts in memory, which outlive an engine but not a process."""

    def __init__(self):
        self.events, self.verdicts = [], {}

    def append(self, event):
        self.events.append(event)
        return len(self.events)

    def after(self, number):
        return [(place, event) for place, event in enumerate(self.events, 1) if place > number]

    def record_verdicts(self, verdicts):
        for client, verdict in verdicts.items():
            self.verdicts.setdefault((client, verdict.round, verdict.attempt), verdict)

    def verdict(self, client, round, attempt):
        return self.verdicts.get((client, round, attempt))

    def close(self):
        pass


class FolderFiles:
    """Files by the digest of their contents, and uploads in parts."""

    def __init__(self, folder: Path):
        self.folder, self.parts = folder, folder / "parts"
        self.parts.mkdir(parents=True, exist_ok=True)

    def received(self, upload):
        part = self.parts / upload
        return part.stat().st_size if part.exists() else 0

    def append(self, upload, offset, data):
        assert offset == self.received(upload)
        with open(self.parts / upload, "ab") as file:
            file.write(data)

    def finish(self, upload, size, digest):
        part = self.parts / upload
        if part.exists():
            data = part.read_bytes()
            assert (len(data), hashlib.sha256(data).hexdigest()) == (size, digest)
            part.replace(self.path(digest))
        return self.path(digest)

    def put(self, data):
        digest = hashlib.sha256(data).hexdigest()
        self.path(digest).write_bytes(data)
        return digest

    @contextlib.contextmanager
    def staged(self):
        yield self.folder / "staged"

    def put_file(self, path, *, move=False, digest=None):
        return self.put(path.read_bytes())

    def path(self, digest):
        return self.folder / digest

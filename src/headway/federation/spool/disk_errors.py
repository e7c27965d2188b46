"""What the disk refuses, and uploads that cannot be taken, in sentences."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from headway.core.errors import HeadwayError, RunFolderError
from headway.federation.http_api import OFFSET

AGAIN = "What was acknowledged before is whole; free some space or mend the disk, then go on."
Refusal = Literal["offset", "too_large", "digest"]


class SpoolError(RunFolderError):
    """The disk refuses to keep an update, a message or an event; nothing of it was acknowledged.

    status: of the answer over HTTP, by which a client tries again later.
    """

    status = 503


class UploadRefused(HeadwayError):
    """A piece or the end of an upload that cannot be taken.

    kind: why.  received: how many bytes are there.  status, headers: of the answer over HTTP.
    """

    def __init__(self, kind: Refusal, received: int, message: str) -> None:
        self.kind, self.received = kind, received
        self.status = 413 if kind == "too_large" else 409
        self.headers = {OFFSET: str(received)}
        super().__init__(message)


@contextlib.contextmanager
def disk(path: Path) -> Iterator[None]:
    """Turns what the disk refuses into a sentence."""
    try:
        yield
    except OSError as error:
        why = (error.strerror or str(error)).rstrip(".")
        raise SpoolError(f"{path} cannot be written or read: {why}. {AGAIN}") from error

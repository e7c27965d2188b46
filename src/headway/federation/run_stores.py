"""The durable parts of a run at a server: its log of events, its spool, and the record of its job.

A run's folder appears whole when its parts have been checked, so what lies in it is opened after that.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from headway.core.errors import RunFolderError
from headway.federation.http_api import RoundVerdict
from headway.federation.serving.assignments import State
from headway.federation.spool.event_log import EventLog
from headway.federation.spool.round_event import RoundEvent
from headway.federation.spool.spool import Spool
from headway.observe.run_folder import EVENTS, SPOOL, write_atomically, writing

RECORD = "job.json"  # in the run's folder


class RunLog:
    """The log of events of a run folder, which may not be there yet."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._log: EventLog | None = None

    @property
    def log(self) -> EventLog:
        """The log itself, made where there is none."""
        if self._log is None:
            self._log = EventLog(self.folder)
        return self._log

    @property
    def is_there(self) -> bool:
        """Whether there is a log."""
        return self._log is not None or (self.folder / EVENTS).is_file()

    def append(self, event: RoundEvent) -> int:
        """Writes an event; its number."""
        return self.log.append(event)

    def after(self, number: int) -> list[tuple[int, RoundEvent]]:
        """The events with a larger number, in order."""
        return self.log.after(number) if self.is_there else []

    def ends(self, numbers: Sequence[int]) -> Mapping[int, RoundEvent]:
        """The event by which each of these tickets has ended, where there is one."""
        return self.log.ends(numbers) if self.is_there else {}

    def record_verdicts(self, verdicts: Mapping[str, RoundVerdict]) -> None:
        """Writes verdicts, by client."""
        self.log.record_verdicts(verdicts)

    def verdict(self, client: str, round: int, attempt: int) -> RoundVerdict | None:
        """The verdict on the update of a client; `None` while there is none."""
        return self.log.verdict(client, round, attempt) if self.is_there else None

    def close(self) -> None:
        """Closes the log."""
        if self._log is not None:
            self._log.close()


class RunFiles:
    """The spool of a run folder, which may not be there yet."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._spool: Spool | None = None

    @property
    def spool(self) -> Spool:
        """The spool itself, made where there is none."""
        if self._spool is None:
            self._spool = Spool(self.folder / SPOOL)
        return self._spool

    def put(self, data: bytes) -> str:
        """Keeps these bytes; their digest."""
        return self.spool.put(data)

    def staged(self) -> AbstractContextManager[Path]:
        """A place for a file that is to be put."""
        return self.spool.staged()

    def put_file(self, path: Path, *, move: bool = False, digest: str | None = None) -> str:
        """Keeps a file; its digest."""
        return self.spool.put_file(path, move=move, digest=digest)

    def path(self, digest: str) -> Path:
        """The file of these contents."""
        return self.spool.path(digest)


@dataclass(frozen=True)
class JobRecord:
    """The record of a job in its run's folder: its identifier, which agents know it by, and how it ended."""

    job: str
    state: State = "waiting"
    reason: str = ""

    @classmethod
    def of(cls, folder: Path, name: str) -> JobRecord:
        """The record in a folder; a new one where there is none.

        Raises:
            RunFolderError: if it is damaged.
        """
        path = folder / RECORD
        if not path.is_file():
            made = cls(f"{name}-{secrets.token_hex(6)}")
            made.write(folder)
            return made
        try:
            values: Any = json.loads(path.read_text(encoding="utf-8"))
            return cls(str(values["job"]), values["state"], str(values["reason"]))
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise RunFolderError(f"{path} is damaged ({error}); restore it from a copy, or run anew.") from error

    def ended(self, folder: Path, state: State, reason: str = "") -> JobRecord:
        """The record with a state, which is written."""
        made = replace(self, state=state, reason=reason)
        made.write(folder)
        return made

    def write(self, folder: Path) -> None:
        """Writes the record."""
        with writing(folder / RECORD):
            write_atomically(folder / RECORD, json.dumps(asdict(self), ensure_ascii=False, indent=2).encode())

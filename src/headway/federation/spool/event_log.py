"""The event log: what happened in each round of a server, on the disk before it is acted upon.

A resumed run restores its checkpoint and goes through the events of the open round again, so that the same updates
count.  The verdicts on updates stay until their clients have carried them out.
"""

from __future__ import annotations

import contextlib
import json
import sqlite3
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

from headway.core import fault_points
from headway.federation.http_api import RoundVerdict
from headway.federation.spool.disk_errors import AGAIN, SpoolError
from headway.federation.spool.round_event import EventKind, RoundEvent
from headway.observe.journal import open_read_only
from headway.observe.run_folder import EVENTS as EVENTS

SCHEMA = """
CREATE TABLE IF NOT EXISTS events (
    id INTEGER PRIMARY KEY AUTOINCREMENT, kind TEXT NOT NULL, round INTEGER NOT NULL, attempt INTEGER NOT NULL,
    at REAL NOT NULL, number INTEGER NOT NULL, client TEXT NOT NULL, digest TEXT NOT NULL,
    weight REAL NOT NULL, reason TEXT NOT NULL, more TEXT NOT NULL);
CREATE INDEX IF NOT EXISTS events_by_round ON events (round);
CREATE INDEX IF NOT EXISTS events_by_number ON events (number);
CREATE TABLE IF NOT EXISTS verdicts (
    client TEXT, round INTEGER, attempt INTEGER, counted INTEGER NOT NULL, reason TEXT NOT NULL, settled INTEGER,
    PRIMARY KEY (client, round, attempt));
"""
AT_A_TIME = 500  # tickets in one query
VERDICT = "round, attempt, counted, reason"
COLUMNS = "kind, round, attempt, at, number, client, digest, weight, reason, more"


class EventLog:
    """The events and verdicts of a run in one SQLite file (a `RoundLog`); for any number of threads of one process.

    A change is on the disk when its call returns (write-ahead log, synchronous=FULL).

    folder: in which the file is made when something is written.  read_only: whether it is only read.

    Raises:
        SpoolError: if the file cannot be opened, or is damaged.
    """

    def __init__(self, folder: Path, *, read_only: bool = False) -> None:
        self.path, self._lock, self._read_only = Path(folder) / EVENTS, threading.RLock(), read_only
        self._held: sqlite3.Connection | None = None
        if self.path.exists():
            with self._disk():
                self._connected()

    def append(self, event: RoundEvent) -> int:
        """The number of an event that is on the disk when this returns.

        Raises:
            SpoolError: if the disk refuses; then the log does not hold it.
        """
        return self.append_all([event])

    def append_all(self, events: Iterable[RoundEvent]) -> int:
        """`append` of several in one commit, all or none; the number of the last."""
        rows = [_row(event) for event in events]
        with self._changing() as connection:
            fault_points.at("before an event is on disk")
            for row in rows:
                cursor = connection.execute(f"INSERT INTO events ({COLUMNS}) VALUES (?,?,?,?,?,?,?,?,?,?)", row)
        fault_points.at("after an event is on disk")
        return int(cursor.lastrowid or 0) if rows else self.last()

    def events(self, round: int) -> list[RoundEvent]:
        """The events of a round, in their order."""
        return [_event(row) for row in self._read(f"SELECT {COLUMNS} FROM events WHERE round = ? ORDER BY id", round)]

    def after(self, number: int) -> list[tuple[int, RoundEvent]]:
        """The events with a larger number, in order."""
        rows = self._read(f"SELECT id, {COLUMNS} FROM events WHERE id > ? ORDER BY id", number)
        return [(int(row[0]), _event(row[1:])) for row in rows]

    def ends(self, numbers: Sequence[int]) -> dict[int, RoundEvent]:
        """The event by which each of these tickets has ended, an arrival or a failure, where there is one."""
        found: dict[int, RoundEvent] = {}
        for start in range(0, len(numbers), AT_A_TIME):
            part = numbers[start : start + AT_A_TIME]
            where = f"kind IN ('arrived', 'failed') AND number IN ({','.join('?' * len(part))})"
            for row in self._read(f"SELECT {COLUMNS} FROM events WHERE {where} ORDER BY id", *part):
                event = _event(row)
                found[event.number] = event
        return found

    def rounds(self) -> list[int]:
        """The rounds that have events."""
        return [int(round_) for (round_,) in self._read("SELECT DISTINCT round FROM events ORDER BY round")]

    def last(self) -> int:
        """The number of the last event; 0 if there is none."""
        return int(_first(self._read("SELECT max(id) FROM events")))

    def last_time(self) -> float:
        """The latest time that an event holds; 0 if there is none."""
        return float(_first(self._read("SELECT max(at) FROM events")))

    def forget_after(self, round: int) -> None:
        """Removes the events of later rounds, which a run begins anew."""
        with self._changing() as connection:
            connection.execute("DELETE FROM events WHERE round > ?", (round,))

    def record_verdicts(self, verdicts: Mapping[str, RoundVerdict]) -> None:
        """Writes verdicts, by client, in one commit; a verdict that is there already stays.

        Raises:
            SpoolError: if the disk refuses; then none is kept.
        """
        rows = [(client, v.round, v.attempt, int(v.counted), v.reason) for client, v in verdicts.items()]
        with self._changing() as connection:
            fault_points.at("before verdicts are on disk")
            connection.executemany("INSERT OR IGNORE INTO verdicts VALUES (?,?,?,?,?,0)", rows)
        fault_points.at("after verdicts are on disk")

    def verdict(self, client: str, round: int, attempt: int) -> RoundVerdict | None:
        """The verdict on the update of a client; `None` while there is none."""
        where = "client = ? AND round = ? AND attempt = ?"
        found = self._read(f"SELECT {VERDICT} FROM verdicts WHERE {where}", client, round, attempt)
        return _verdict(found[0]) if found else None

    def verdicts(self, client: str) -> tuple[RoundVerdict, ...]:
        """The verdicts on a client's updates that it has not carried out yet, the earliest first."""
        query = f"SELECT {VERDICT} FROM verdicts WHERE client = ? AND NOT settled ORDER BY round, attempt"
        return tuple(_verdict(row) for row in self._read(query, client))

    def set_settled(self, client: str, settled: Iterable[tuple[int, int]]) -> None:
        """Notes which verdicts, by round and attempt, a client has carried out."""
        if rows := [(client, round_, attempt) for round_, attempt in settled]:
            where = "client = ? AND round = ? AND attempt = ?"
            with self._changing() as connection:
                connection.executemany(f"UPDATE verdicts SET settled = 1 WHERE {where}", rows)

    def close(self) -> None:
        """Closes the file, which is opened again if it is used."""
        with self._lock:
            if self._held is not None:
                self._held.close()
                self._held = None

    def _connected(self) -> sqlite3.Connection:
        """The open file."""
        if self._held is None and self._read_only:
            self._held = open_read_only(self.path, check_same_thread=False)
        elif self._held is None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            connection = sqlite3.connect(self.path, check_same_thread=False)
            try:
                connection.execute("PRAGMA journal_mode=WAL")
                connection.execute("PRAGMA synchronous=FULL")
                connection.executescript(SCHEMA)
            except BaseException:
                connection.close()
                raise
            self._held = connection
        return self._held

    def _read(self, query: str, *values: object) -> list[tuple[Any, ...]]:
        with self._lock, self._disk():
            if self._held is None and not self.path.exists():
                return []
            return self._connected().execute(query, values).fetchall()

    @contextlib.contextmanager
    def _changing(self) -> Iterator[sqlite3.Connection]:
        """One commit: all or nothing."""
        with self._lock, self._disk(), self._connected() as connection:
            yield connection

    @contextlib.contextmanager
    def _disk(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.OperationalError as error:
            raise SpoolError(f"{self.path} cannot be written or read: {error}. {AGAIN}") from error
        except sqlite3.DatabaseError as error:
            raise SpoolError(f"{self.path} is damaged ({error}): restore the run folder from a copy.") from error
        except OSError as error:
            raise SpoolError(f"{self.path} cannot be written or read: {error.strerror or error}. {AGAIN}") from error


def _first(rows: list[tuple[Any, ...]]) -> Any:
    """The number of a query for one; 0 if there is none."""
    return (rows[0][0] if rows else None) or 0


def _row(event: RoundEvent) -> tuple[Any, ...]:
    assert event.kind in get_args(EventKind), event.kind
    more = json.dumps(dict(event.more), allow_nan=False)
    columns = (event.kind, event.round, event.attempt, event.at, event.number, event.client, event.digest)
    return (*columns, event.weight, event.reason, more)


def _event(row: tuple[Any, ...]) -> RoundEvent:
    named: dict[str, Any] = dict(zip(COLUMNS.split(", "), row, strict=True))
    return RoundEvent(**{**named, "more": json.loads(named["more"])})


def _verdict(row: tuple[Any, ...]) -> RoundVerdict:
    round_, attempt, counted, reason = row
    return RoundVerdict(round=round_, attempt=attempt, counted=bool(counted), reason=reason)

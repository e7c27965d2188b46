"""The journal: every round, client, metric, byte and second of a run, in one SQLite file."""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import sqlite3
from collections.abc import Sequence
from itertools import repeat
from pathlib import Path
from typing import Any

from headway.core.errors import RunFolderError
from headway.observe.alarms import Figures
from headway.observe.observer import Observer
from headway.observe.round_report import RoundReport
from headway.observe.workload import Workload, read_work

SCHEMA = """
CREATE TABLE IF NOT EXISTS rounds (
    round INTEGER PRIMARY KEY, cohort INTEGER, counted INTEGER, rejected INTEGER, dropped INTEGER,
    train_loss REAL, bytes_up INTEGER, bytes_down INTEGER, seconds REAL, evaluation_seconds REAL);
CREATE TABLE IF NOT EXISTS clients (
    round INTEGER, client TEXT, status TEXT, examples INTEGER, steps INTEGER, norm REAL, train_loss REAL,
    bytes_up INTEGER, bytes_down INTEGER, seconds REAL, reason TEXT, PRIMARY KEY (round, client));
CREATE TABLE IF NOT EXISTS metrics (
    round INTEGER, scope TEXT, name TEXT, value REAL, PRIMARY KEY (round, scope, name));
CREATE TABLE IF NOT EXISTS alarms (
    round INTEGER, kind TEXT, clients TEXT, camps TEXT, text TEXT, numbers TEXT, PRIMARY KEY (round, kind));
CREATE TABLE IF NOT EXISTS earlier (
    round INTEGER, client TEXT, place INTEGER, asked_s REAL, ended_s REAL, bytes_down INTEGER, reason TEXT,
    PRIMARY KEY (round, client, place));
CREATE TABLE IF NOT EXISTS flying (round INTEGER, client TEXT PRIMARY KEY, asked_s REAL);
CREATE TABLE IF NOT EXISTS notes (round INTEGER, place INTEGER, text TEXT, PRIMARY KEY (round, place));
"""
EARLIER_NAMES = {  # of metrics, in journals of 0.1.0
    "camp": "cluster",
    "camps": "clusters",
    "within_camps": "within_clusters",
    "between_camps": "between_clusters",
}
ROUND_TABLES = ("rounds", "clients", "metrics", "alarms", "earlier", "notes")  # whose rows of a round stay
TABLES = (*ROUND_TABLES, "flying")


class Journal(Observer):
    """Appends finished rounds, one transaction each.

    In `metrics` the scope is "clients" (the mean over them), "central", "drift", "clock", "training" (the learning
    rate, as "lr"), "privacy" (the epsilon of each account) or "client:NAME".  In `alarms`, clients, clusters and
    numbers are JSON.  `earlier` has the requests that came to nothing, to clients that were asked again in the same
    round (the later request is in `clients`); `flying` the requests that were open after the last round.  `notes` has
    other events, such as batches of clients that trained one at a time.
    """

    def __init__(self, path: Path) -> None:
        self._connection = sqlite3.connect(path)
        try:
            self._connection.execute("PRAGMA journal_mode=WAL")
            self._connection.execute("PRAGMA synchronous=NORMAL")
            self._connection.executescript(SCHEMA)
        except sqlite3.OperationalError:  # of the disk, not of what is in the file
            raise
        except sqlite3.DatabaseError as error:
            self._connection.close()
            raise RunFolderError(
                f"{path} is damaged ({error}): restore it from a copy, or move it away to go on without what it "
                "holds of the rounds until now."
            ) from error

    def on_round(self, report: RoundReport) -> None:
        """Adds the round."""
        self.record(report)

    def record(self, report: RoundReport) -> None:
        """Adds a round."""
        cohort = len(report.clients)
        numbers = (cohort, *(report.count(status) for status in ("counted", "rejected", "dropped")))
        with self._connection as connection:
            connection.execute(
                "INSERT OR REPLACE INTO rounds VALUES (?,?,?,?,?,?,?,?,?,?)",
                (
                    report.round,
                    *numbers,
                    report.train_loss,
                    report.bytes_up,
                    report.bytes_down,
                    report.seconds,
                    report.evaluation_seconds,
                ),
            )
            connection.executemany(
                "INSERT OR REPLACE INTO clients VALUES (?,?,?,?,?,?,?,?,?,?,?)", _client_rows(report)
            )
            connection.executemany("INSERT OR REPLACE INTO metrics VALUES (?,?,?,?)", _metric_rows(report))
            connection.executemany("INSERT OR REPLACE INTO alarms VALUES (?,?,?,?,?,?)", _alarm_rows(report))
            connection.executemany("INSERT OR REPLACE INTO earlier VALUES (?,?,?,?,?,?,?)", _earlier_rows(report))
            notes = [(report.round, place, note) for place, note in enumerate(report.notes)]
            connection.executemany("INSERT OR REPLACE INTO notes VALUES (?,?,?)", notes)
            connection.execute("DELETE FROM flying")
            connection.executemany(
                "INSERT INTO flying VALUES (?,?,?)", [(report.round, *ask) for ask in report.flying.items()]
            )

    def forget_after(self, round_: int) -> None:
        """Deletes the rounds after one: they are run again when a run resumes from it."""
        with self._connection as connection:
            for table in TABLES:
                connection.execute(f"DELETE FROM {table} WHERE round > ?", (round_,))

    def rows(self, table: str) -> list[dict[str, Any]]:
        """All rows of one of the tables, by round."""
        assert table in TABLES
        cursor = self._connection.execute(f"SELECT * FROM {table} ORDER BY rowid")
        names = [column[0] for column in cursor.description]
        return sorted((dict(zip(names, row, strict=True)) for row in cursor), key=lambda row: row["round"])

    def series(self, scope: str, name: str) -> list[tuple[int, float]]:
        """A metric over rounds; NaN where it was not defined."""
        cursor = self._connection.execute(
            "SELECT round, value FROM metrics WHERE scope = ? AND name = ? ORDER BY round", (scope, name)
        )
        return [(int(round_), math.nan if value is None else float(value)) for round_, value in cursor]

    def client_means(self, name: str, rounds: Sequence[int]) -> dict[str, float]:
        """Each client's mean of a metric over some rounds; one for which it was not defined is left out."""
        if not rounds:
            return {}
        cursor = self._connection.execute(
            "SELECT substr(scope, 8), value FROM metrics WHERE name = ? AND scope LIKE 'client:%' "
            "AND round BETWEEN ? AND ? ORDER BY scope, round",
            (name, min(rounds), max(rounds)),
        )
        values: dict[str, list[float]] = {}
        for client, value in cursor:
            values.setdefault(client, []).append(math.nan if value is None else float(value))
        means = {client: math.fsum(each) / len(each) for client, each in values.items()}
        return {client: mean for client, mean in means.items() if not math.isnan(mean)}

    def figures(self, after: int) -> list[Figures]:
        """The drift of the rounds after one, oldest first, as alarms are raised from it."""
        clients: dict[int, dict[str, dict[str, float]]] = {}
        cohort: dict[int, dict[str, float]] = {}
        for round_, scope, name, value in self._connection.execute(
            "SELECT round, scope, name, value FROM metrics WHERE round > ? AND value IS NOT NULL"
            " AND (scope = 'drift' OR name IN ('agreement', 'cluster', 'camp'))",
            (after,),
        ):
            name = EARLIER_NAMES.get(name, name)
            if scope == "drift":
                cohort.setdefault(round_, {})[name] = value
            else:
                clients.setdefault(round_, {}).setdefault(scope.removeprefix("client:"), {})[name] = value
        for round_, client, norm in self._connection.execute(
            "SELECT round, client, norm FROM clients WHERE round > ? AND status = 'counted'", (after,)
        ):
            if client in clients.get(round_, {}) and norm is not None:
                clients[round_][client]["norm"] = norm
        return [Figures(round_, clients[round_], cohort.get(round_, {})) for round_ in sorted(clients)]

    def empty_rounds(self) -> tuple[int, int]:
        """The number of rounds, and of those in which no client counted."""
        query = "SELECT count(*), sum(round NOT IN (SELECT round FROM clients WHERE status = 'counted')) FROM rounds"
        total, empty = self._connection.execute(query).fetchone()
        return int(total), int(empty or 0)

    def work(self) -> Workload | None:
        """The work of the clients by a simulated clock, if the run has one."""
        return read_work(self._connection)

    def close(self) -> None:
        """Closes the file."""
        self._connection.close()


def open_read_only(path: Path, **options: Any) -> sqlite3.Connection:
    """A connection to a database that is only read, in a folder where no file is made if no other process writes."""
    how = "mode=ro" if path.with_name(f"{path.name}-wal").exists() else "mode=ro&immutable=1"
    connection: sqlite3.Connection = sqlite3.connect(f"{path.absolute().as_uri()}?{how}", uri=True, **options)
    return connection


def rounds_of(path: Path) -> list[int]:
    """The rounds that a journal has.

    Raises:
        RunFolderError: if it cannot be read.
    """
    try:
        with contextlib.closing(open_read_only(path)) as connection:
            return [int(round_) for (round_,) in connection.execute("SELECT round FROM rounds ORDER BY round")]
    except sqlite3.Error as error:
        raise RunFolderError(f"the journal {path} cannot be read: {error}.") from error


def digest_of_round(path: Path, round_: int) -> str:
    """The SHA-256 of all that a journal holds of one round, except the requests that were open after it.

    Raises:
        RunFolderError: if the journal cannot be read.
    """
    digest = hashlib.sha256()
    try:
        with contextlib.closing(open_read_only(path)) as connection:
            for table in ROUND_TABLES:
                rows = connection.execute(f"SELECT * FROM {table} WHERE round = ?", (round_,)).fetchall()
                for row in sorted(map(repr, rows)):
                    digest.update(f"{table} {row}\n".encode())
    except sqlite3.Error as error:
        raise RunFolderError(f"the journal {path} cannot be read: {error}.") from error
    return digest.hexdigest()


def _client_rows(report: RoundReport) -> list[tuple[Any, ...]]:
    asked = report.clients
    columns = (
        asked.clients,
        asked.statuses,
        asked.examples,
        asked.steps,
        asked.norms,
        asked.metric("train_loss"),
        asked.bytes_up,
        asked.bytes_down,
        asked.seconds,
        asked.reasons,
    )
    return list(zip(repeat(report.round, len(asked)), *columns, strict=True))


def _alarm_rows(report: RoundReport) -> list[tuple[Any, ...]]:
    return [
        (
            report.round,
            alarm.kind,
            json.dumps(alarm.clients),
            json.dumps(alarm.clusters),
            alarm.text,
            json.dumps(dict(alarm.numbers)),
        )
        for alarm in report.alarms
    ]


def _earlier_rows(report: RoundReport) -> list[tuple[Any, ...]]:
    return [
        (
            report.round,
            ask.client,
            place,
            ask.metrics.get("asked_s"),
            ask.metrics.get("ended_s"),
            ask.bytes_down,
            ask.reason,
        )
        for place, ask in enumerate(report.earlier)
    ]


def _metric_rows(report: RoundReport) -> list[tuple[Any, ...]]:
    scopes: dict[str, dict[str, float]] = {
        "clients": dict(report.metrics),
        "central": dict(report.central),
        "drift": dict(report.drift),
        "clock": dict(report.clock),
        "training": {} if report.lr is None else {"lr": report.lr},
        "privacy": dict(report.privacy),
        "reputation": dict(report.reputation),
        "quarantine": dict(report.quarantine),
        "exchanged": dict(report.exchanged),
    }
    for client, metrics in report.evaluation.items():
        scopes[f"client:{client}"] = dict(metrics)
    if report.clients.metrics.keys() - {"train_loss"}:
        for asked in report.clients:
            others = {name: value for name, value in asked.metrics.items() if name != "train_loss"}
            scopes[f"client:{asked.client}"] = others | scopes.get(f"client:{asked.client}", {})
    return [
        (report.round, scope, name, None if value != value else value)
        for scope, metrics in scopes.items()
        for name, value in metrics.items()
    ]

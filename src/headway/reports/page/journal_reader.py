"""Reading one run's journal, for looking at: nothing is written, and rows are summed up by the database."""

from __future__ import annotations

import math
import sqlite3
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import quote

from headway.core.errors import RunFolderError
from headway.observe.workload import Workload, read_work
from headway.reports.page.standings_reader import KeptStanding, read_standings

DRIFT = ("headway", "leeway", "cosine")  # what the journal holds of each client's drift
SCOPES = ("central", "clients", "drift", "clock", "privacy", "exchanged")
TIMES = ("asked_s", "ended_s", "age")  # and of each ask, by a simulated clock
Curve = Mapping[int, float]  # a value by round


@dataclass(frozen=True, slots=True)
class Pull:
    """One client's drift, as means over its rounds: along the common direction, across it, and the cosine."""

    headway: float
    leeway: float
    cosine: float
    rounds: int


@dataclass(frozen=True, slots=True)
class Trouble:
    """A client that was not counted: how, why, in how many rounds, the first and the last of them."""

    client: str
    status: str
    reason: str
    count: int
    first: int
    last: int


@dataclass(frozen=True, slots=True)
class Alarmed:
    """One kind of alarm about the same clients: the number of rounds, the first and the last, and the latest text."""

    kind: str
    text: str
    count: int
    first: int
    last: int


@dataclass(frozen=True, slots=True)
class Record:
    """The contents of one run's journal.

    rounds: all that were finished.  loss, bytes_up, bytes_down, seconds, evaluation_seconds: by round; a loss
    that is protected has no entry.  central, clients, drift, clock: metrics by name, then by round.
    privacy: the epsilon of each account of the privacy ledger, and "delta", by round.
    exchanged: of the bytes "up" and "down", those of a protocol's exchanges, by round.
    standings: of each client with the server, where the algorithm has a reputation.
    work: what clients did by a simulated clock.  empty: the rounds in which no client was counted.
    tails: each client's own metrics by name, each a mean over the last evaluated rounds.
    """

    rounds: tuple[int, ...]
    loss: Curve
    bytes_up: Curve
    bytes_down: Curve
    seconds: Curve
    evaluation_seconds: Curve
    central: Mapping[str, Curve]
    clients: Mapping[str, Curve]
    drift: Mapping[str, Curve]
    tails: Mapping[str, Mapping[str, float]]
    pulls: Mapping[str, Pull]
    troubles: tuple[Trouble, ...]
    alarms: tuple[Alarmed, ...] = ()
    clock: Mapping[str, Curve] = field(default_factory=dict)
    work: Workload | None = None
    empty: tuple[int, ...] = ()
    privacy: Mapping[str, Curve] = field(default_factory=dict)
    standings: Mapping[str, KeptStanding] = field(default_factory=dict)
    exchanged: Mapping[str, Curve] = field(default_factory=dict)

    def headline(self, metric: str) -> Curve:
        """A metric by round: on the central test set where there is one, else over the clients."""
        return self.central.get(metric) or self.clients.get(metric) or {}

    def bytes_until(self) -> dict[int, int]:
        """Bytes up and down from the start to each round."""
        total, until = 0, {}
        for round_ in self.rounds:
            total += int(self.bytes_up[round_] + self.bytes_down[round_])
            until[round_] = total
        return until


def read_record(path: Path, tail: int) -> Record:
    """The record in a journal; a client's own metrics are means over the last `tail` evaluated rounds.

    Raises:
        RunFolderError: if there is no such file, it is damaged, or holds no round.
    """
    if not path.is_file():
        raise RunFolderError(f"{path} is missing, so there is nothing to report; run it first, or leave it out.")
    try:
        with closing(_open(path)) as database:
            record = _record(database, tail)
    except (sqlite3.Error, ValueError, TypeError, UnicodeError) as error:
        raise RunFolderError(f"{path} is damaged ({error}); restore it from a copy, or leave it out.") from error
    if not record.rounds:
        raise RunFolderError(f"{path} holds no finished round yet, so there is nothing to report; let it run first.")
    return record


def _open(path: Path) -> sqlite3.Connection:
    """Opened for reading; a journal without a writer is not touched, not even by a lock file."""
    how = "mode=ro" if path.with_name(f"{path.name}-wal").exists() else "immutable=1"
    return sqlite3.connect(f"file:{quote(str(path.resolve()))}?{how}", uri=True)


def _record(database: sqlite3.Connection, tail: int) -> Record:
    figures: tuple[dict[int, float], ...] = ({}, {}, {}, {}, {})
    query = (
        "SELECT round, train_loss, bytes_up, bytes_down, seconds, evaluation_seconds FROM rounds "
        "WHERE round IS NOT NULL ORDER BY round"
    )
    rounds = []
    for round_, *values in database.execute(query):
        rounds.append(int(round_))
        for place, value in enumerate(values):
            if value is not None or place:  # a loss may be protected; the others were always measured
                figures[place][int(round_)] = float(value or 0)
    scopes: dict[str, dict[str, dict[int, float]]] = {name: {} for name in SCOPES}
    query = (
        f"SELECT scope, name, round, value FROM metrics WHERE scope IN ({', '.join('?' * len(SCOPES))}) "
        "AND value IS NOT NULL ORDER BY round, rowid"
    )
    for scope, name, round_, value in database.execute(query, SCOPES):
        scopes[scope].setdefault(str(name), {})[int(round_)] = float(value)
    evaluated = sorted({r for scope in ("central", "clients") for curve in scopes[scope].values() for r in curve})
    return Record(
        rounds=tuple(rounds),
        loss=figures[0],
        bytes_up=figures[1],
        bytes_down=figures[2],
        seconds=figures[3],
        evaluation_seconds=figures[4],
        central=scopes["central"],
        clients=scopes["clients"],
        drift=scopes["drift"],
        tails=_tails(database, evaluated[-tail:]),
        pulls=_pulls(database),
        troubles=_troubles(database),
        alarms=_alarms(database),
        clock=scopes["clock"],
        work=read_work(database),
        empty=_empty(database),
        privacy=scopes["privacy"],
        standings=read_standings(database),
        exchanged=scopes["exchanged"],
    )


def _empty(database: sqlite3.Connection) -> tuple[int, ...]:
    counted = "SELECT round FROM clients WHERE status = 'counted'"
    query = f"SELECT round FROM rounds WHERE round NOT IN ({counted}) ORDER BY round"
    return tuple(int(round_) for (round_,) in database.execute(query))


def _tails(database: sqlite3.Connection, rounds: list[int]) -> dict[str, dict[str, float]]:
    """By metric, then by client; a client at which the metric was not defined in one of the rounds is left out."""
    if not rounds:
        return {}
    query = (
        "SELECT name, substr(scope, 8), avg(value) FROM metrics WHERE scope LIKE 'client:%' AND round >= ? "
        "AND name NOT IN (?, ?, ?, ?, ?, ?) GROUP BY name, scope HAVING count(value) = count(*) ORDER BY name, scope"
    )
    found: dict[str, dict[str, float]] = {}
    for name, client, value in database.execute(query, (rounds[0], *DRIFT, *TIMES)):
        found.setdefault(str(name), {})[str(client)] = float(value)
    return found


def _pulls(database: sqlite3.Connection) -> dict[str, Pull]:
    query = (
        "SELECT substr(scope, 8), name, avg(value), count(value) FROM metrics WHERE scope LIKE 'client:%' "
        "AND name IN (?, ?, ?) GROUP BY scope, name ORDER BY scope"
    )
    found: dict[str, dict[str, tuple[float, int]]] = {}
    for client, name, value, count in database.execute(query, DRIFT):
        if value is not None and math.isfinite(float(value)):
            found.setdefault(str(client), {})[name] = (float(value), int(count))
    return {
        client: Pull(numbers["headway"][0], numbers["leeway"][0], numbers["cosine"][0], rounds=numbers["headway"][1])
        for client, numbers in found.items()
        if len(numbers) == len(DRIFT)
    }


def _troubles(database: sqlite3.Connection) -> tuple[Trouble, ...]:
    query = (
        "SELECT client, status, coalesce(reason, ''), count(*), min(round), max(round) FROM clients "
        "WHERE status <> 'counted' GROUP BY client, status, reason ORDER BY status DESC, count(*) DESC, client, reason"
    )
    return tuple(
        Trouble(str(client), str(status), str(reason), int(count), int(first), int(last))
        for client, status, reason, count, first, last in database.execute(query)
    )


def _alarms(database: sqlite3.Connection) -> tuple[Alarmed, ...]:
    """Most often raised first; a journal of before there were alarms has none."""
    if not database.execute("SELECT 1 FROM sqlite_master WHERE name = 'alarms'").fetchone():
        return ()
    found: dict[tuple[str, str, str], Alarmed] = {}
    query = "SELECT kind, clients, camps, text, round FROM alarms ORDER BY round, kind"
    for kind, clients, clusters, words, round_ in database.execute(query):
        about = (str(kind), str(clients), str(clusters))
        earlier = found.get(about)
        first, count = (int(round_), 0) if earlier is None else (earlier.first, earlier.count)
        found[about] = Alarmed(str(kind), str(words), count + 1, first, int(round_))
    return tuple(sorted(found.values(), key=lambda alarm: (-alarm.count, alarm.kind, alarm.first)))

"""The clients' reputation and quarantine in a run's journal."""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class KeptStanding:
    """One client: its last reputation and the lowest, of how many rounds; and before how many it was in quarantine."""

    last: float
    lowest: float
    rounds: int
    quarantined: int


def read_standings(database: sqlite3.Connection) -> dict[str, KeptStanding]:
    """By client; empty where the algorithm has no reputation."""
    outside = "SELECT name, count(*) FROM metrics WHERE scope = 'quarantine' GROUP BY name"
    quarantined = {str(client): int(count) for client, count in database.execute(outside)}
    query = "SELECT name, value FROM metrics WHERE scope = 'reputation' ORDER BY round, rowid"
    scores: dict[str, list[float]] = {}
    for client, score in database.execute(query):
        scores.setdefault(str(client), []).append(float(score))
    return {
        client: KeptStanding(each[-1], min(each), len(each), quarantined.get(client, 0))
        for client, each in scores.items()
    }

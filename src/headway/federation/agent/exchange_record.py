"""The record of what a client has answered in the rounds of a protocol, so that no key masks two updates.

A mask hides one update.  Two updates under the same mask show their difference, and a client whose shares were revealed
in one attempt at a round must not take part in another: both sums together would show single updates.  The rules hold
whatever a server asks, and across restarts, since each answer is in the record before it is sent:

- a step (an exchange by its name, or the training) is answered once in an attempt; the same request gets the same bytes
  again, another one is declined;
- an attempt that is older than the newest one is declined, and so is every step of an attempt that is settled;
- once an exchange that follows the training was answered, no other attempt at the round is.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass

from headway.client_state.sqlite_versions import memory_from_bytes, memory_to_bytes
from headway.client_state.store import Tag
from headway.core.update import Tensors

SCHEMA = """
CREATE TABLE IF NOT EXISTS exchanges (
    job TEXT NOT NULL, round INTEGER NOT NULL, attempt INTEGER NOT NULL, step TEXT NOT NULL, place INTEGER NOT NULL,
    request TEXT NOT NULL, digest TEXT NOT NULL, size INTEGER NOT NULL, PRIMARY KEY (job, round, attempt, step));
CREATE TABLE IF NOT EXISTS secrets (
    job TEXT PRIMARY KEY, round INTEGER NOT NULL, attempt INTEGER NOT NULL, secret BLOB NOT NULL);
"""
TRAINING = "train"  # the step of the request to train
GONE = ""  # the digest of a reply that is not kept any more


@dataclass(frozen=True, slots=True)
class Step:
    """One step of an attempt at a round.

    request: the digest of the request and that of the client's own tensors.
    """

    tag: Tag
    name: str
    request: str


@dataclass(frozen=True, slots=True)
class Known:
    """The reply that a step has had: its digest and size; or the reason why it gets none."""

    digest: str = GONE
    size: int = 0
    refusal: str = ""


class ExchangeRecord:
    """The record of one agent, in the database of its store.

    transaction: opens one, whose changes are on disk when it ends.
    """

    def __init__(self, transaction: Callable[[], AbstractContextManager[sqlite3.Connection]]) -> None:
        self._transaction = transaction

    def known(self, job: str, step: Step) -> Known | None:
        """What a step has had, or why it gets no reply; `None` for one that is to be answered."""
        (round_, attempt), name = step.tag, step.name
        with self._transaction() as database:
            rows = database.execute(
                "SELECT round, attempt, step, place, request, digest, size FROM exchanges WHERE job = ?", (job,)
            ).fetchall()
        for *tag, known, _, request, digest, size in rows:
            if (*tag, known) == (round_, attempt, name):
                if request == step.request and digest != GONE:
                    return Known(digest, size)
                why = "over" if digest == GONE else f"answered in {name!r} for another request"
                return Known(refusal=f"attempt {attempt + 1} at round {round_ + 1} is {why}, and no key is used twice")
        if (newest := max(((row[0], row[1]) for row in rows), default=step.tag)) > step.tag:
            return Known(refusal=f"attempt {newest[1] + 1} at round {newest[0] + 1} is newer")
        trained = {row[:2]: row[3] for row in rows if row[2] == TRAINING}
        for row in rows:
            if row[0] == round_ and row[1] != attempt and row[3] > trained.get(row[:2], row[3]):
                return Known(
                    refusal=f"shares were revealed in attempt {row[1] + 1} at round {round_ + 1}, and a second sum over"
                    " the same clients would show single updates"
                )
        return None

    def answered(self, job: str, tag: Tag, name: str) -> bool:
        """Whether a step was answered."""
        with self._transaction() as database:
            where = "job = ? AND round = ? AND attempt = ? AND step = ?"
            return database.execute(f"SELECT 1 FROM exchanges WHERE {where}", (job, *tag, name)).fetchone() is not None

    def secret(self, job: str, tag: Tag) -> Tensors:
        """The secret of the exchanges in an attempt; empty where there is none."""
        with self._transaction() as database:
            where = "job = ? AND round = ? AND attempt = ?"
            row = database.execute(f"SELECT secret FROM secrets WHERE {where}", (job, *tag)).fetchone()
        return {} if row is None else memory_from_bytes(row[0])["secret"]

    def digests(self) -> set[str]:
        """The digests of the replies that are kept."""
        with self._transaction() as database:
            return {row[0] for row in database.execute("SELECT digest FROM exchanges")} - {GONE}


def keep_step(
    database: sqlite3.Connection, job: str, step: Step, digest: str, size: int, secret: Tensors | None
) -> None:
    """Writes the reply of a step and the secret after it, within a transaction; those of earlier rounds are deleted."""
    round_, attempt = step.tag
    database.execute("DELETE FROM exchanges WHERE job = ? AND round < ?", (job, round_))
    database.execute(
        "INSERT INTO exchanges SELECT ?, ?, ?, ?, count(*), ?, ?, ? FROM exchanges "
        "WHERE job = ? AND round = ? AND attempt = ?",
        (job, round_, attempt, step.name, step.request, digest, size, job, round_, attempt),
    )
    if secret:
        held = memory_to_bytes({"secret": secret})
        database.execute("INSERT OR REPLACE INTO secrets VALUES (?, ?, ?, ?)", (job, round_, attempt, held))


def settle_steps(database: sqlite3.Connection, job: str, tag: Tag) -> None:
    """Deletes, within a transaction, the secret of a settled attempt and the replies in it, which stay forbidden."""
    database.execute("DELETE FROM secrets WHERE job = ? AND (round, attempt) <= (?, ?)", (job, *tag))
    database.execute("UPDATE exchanges SET digest = ? WHERE job = ? AND (round, attempt) <= (?, ?)", (GONE, job, *tag))

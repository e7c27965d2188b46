"""An agent's files: replies that are not delivered yet, its memory with what awaits a verdict, its receipts.

    folder/agent.sqlite     what there is, committed with synchronous=FULL before anything is sent; the secrets of
                            exchanges, until their round is settled
    folder/blobs/DIGEST     bytes of replies and memories, by the SHA-256 of their contents
    folder/messages/        requests as they are fetched
    folder/receipts/JOB/    the server's receipts, a JSON file for each update

A reply and the memory that belongs to it become one entry in one transaction: after a stop at any moment there is
either both or neither.  Nothing here needs more than files and SQLite, on any system.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import secrets
import sqlite3
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import safetensors

from headway.client_state.sqlite_versions import memory_from_bytes, memory_to_bytes
from headway.client_state.store import Memory, Tag
from headway.core import fault_points
from headway.federation.agent import exchange_record
from headway.federation.agent.agent_memory import AgentMemory
from headway.federation.agent.answering import Answered
from headway.federation.agent.exchange_record import ExchangeRecord, keep_step, settle_steps
from headway.federation.agent.whole_files import AgentStateError, in_a_sentence, move_whole, unwritable, write_whole
from headway.federation.http_api import Assignment, Pending, Receipt
from headway.numerics.keys import Key

SCHEMA = """
CREATE TABLE IF NOT EXISTS replies (
    job TEXT NOT NULL, assignment TEXT NOT NULL, kind TEXT NOT NULL, round INTEGER NOT NULL, attempt INTEGER NOT NULL,
    message TEXT NOT NULL, digest TEXT NOT NULL, size INTEGER NOT NULL, delivered INTEGER NOT NULL DEFAULT 0,
    PRIMARY KEY (job, assignment));
CREATE TABLE IF NOT EXISTS memory (
    job TEXT PRIMARY KEY, committed TEXT,
    round INTEGER, attempt INTEGER, digest TEXT, pending TEXT);
CREATE TABLE IF NOT EXISTS facts (name TEXT PRIMARY KEY, value TEXT NOT NULL);
"""
KEPT_JOBS = 8  # of which memory is kept after their end
UNUSABLE = re.compile(r"[^A-Za-z0-9._-]")


@dataclass(frozen=True, slots=True)
class StoredReply:
    """A reply that was computed.

    delivered: whether the server holds it and has given a receipt.
    """

    job: str
    assignment: str
    kind: str
    round: int
    attempt: int
    message: str
    digest: str
    size: int
    delivered: bool


class AgentStore:
    """The state of one agent in a folder, which no other process uses at the same time.

    Raises:
        AgentStateError: if the folder cannot be written, or another agent works with it.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self.blobs, self.messages = folder, folder / "blobs", folder / "messages"
        self._lock = threading.RLock()
        self.exchanges = ExchangeRecord(self._transaction)
        try:
            for each in (self.blobs, self.messages, folder / "receipts"):
                each.mkdir(parents=True, exist_ok=True)
            with contextlib.suppress(OSError):
                folder.chmod(0o700)
            os.close(os.open(folder / "agent.sqlite", os.O_RDWR | os.O_CREAT, 0o600))
            self._database = sqlite3.connect(folder / "agent.sqlite", check_same_thread=False, timeout=1.0)
        except (OSError, sqlite3.Error) as error:
            raise unwritable(folder, error) from error
        try:
            self._database.execute("PRAGMA locking_mode=EXCLUSIVE")  # a lock of the system, which ends with the process
            self._database.execute("PRAGMA journal_mode=WAL")
            self._database.execute("PRAGMA synchronous=FULL")
            self._database.execute("PRAGMA secure_delete=ON")  # of secrets nothing stays in the file
            self._database.executescript(SCHEMA + exchange_record.SCHEMA)
            with self._database:
                self._database.execute("INSERT OR REPLACE INTO facts VALUES ('schema', '1')")
        except sqlite3.Error as error:
            self._database.close()
            if "locked" in str(error):
                raise AgentStateError(
                    f"another agent works with {folder}: one process has a state folder for itself. Stop the other "
                    "one, or choose another folder (--state)."
                ) from error
            raise unwritable(folder, error) from error

    def close(self) -> None:
        """Lets another process have the folder; a call of another thread that is under way ends first."""
        with self._lock:
            self._database.close()

    # replies --------------------------------------------------------------------------------------------

    def reply(self, job: str, assignment: str) -> StoredReply | None:
        """The reply to an assignment, if it was computed before."""
        found = self._replies("WHERE job = ? AND assignment = ?", job, assignment)
        return found[0] if found else None

    def undelivered(self, job: str) -> list[StoredReply]:
        """The replies that the server has not acknowledged, in the order of their rounds."""
        return self._replies("WHERE job = ? AND NOT delivered ORDER BY round, attempt", job)

    def keep(self, assignment: Assignment, answered: Answered) -> StoredReply:
        """Keeps a reply with the memory that awaits its verdict; both are on disk when this returns.

        Raises:
            AgentStateError: if the disk refuses; nothing is then kept.
        """
        a, written, proposed, step = assignment, answered.written, answered.proposed, answered.step
        with self._lock:
            digest = written.digest
            if not answered.again:
                with in_a_sentence(self.folder):
                    move_whole(answered.file, self.blob(digest))
            pending = None if proposed is None else self._put(memory_to_bytes(proposed[1]))
            fault_points.at("agent: between a reply's file and its entry")
            row = (a.job, a.assignment, a.kind, a.round, a.attempt, a.message, digest, written.size)
            with self._transaction() as database:
                database.execute("INSERT INTO replies VALUES (?, ?, ?, ?, ?, ?, ?, ?, 0)", row)
                database.execute("INSERT OR IGNORE INTO memory (job) VALUES (?)", (a.job,))
                if proposed is not None:
                    database.execute(
                        "UPDATE memory SET round = ?, attempt = ?, digest = ?, pending = ? WHERE job = ?",
                        (*proposed[0], digest, pending, a.job),
                    )
                if step is not None and not answered.again:
                    keep_step(database, a.job, step, digest, written.size, answered.secret)
        return StoredReply(*row, False)

    def deliver(self, reply: StoredReply, receipt: Receipt | None) -> None:
        """Notes that a reply needs no more sending; keeps the receipt of an update beside it."""
        with self._lock:
            if receipt is not None and reply.kind == "train":
                folder = self.folder / "receipts" / _file_name(reply.job)
                with in_a_sentence(self.folder):
                    folder.mkdir(exist_ok=True)
                    name = f"{reply.round:06}-{reply.attempt}-{_file_name(reply.assignment)}.json"
                    write_whole(folder / name, receipt.model_dump_json().encode() + b"\n")
            with self._transaction() as database:
                database.execute(
                    "UPDATE replies SET delivered = 1 WHERE job = ? AND assignment = ?", (reply.job, reply.assignment)
                )
                database.execute(  # the last one stays, in case it is asked for again
                    "DELETE FROM replies WHERE job = ? AND delivered AND (round, attempt, assignment) != (?, ?, ?)",
                    (reply.job, reply.round, reply.attempt, reply.assignment),
                )
            self._sweep()

    @property
    def fresh(self) -> Path:
        """Where the reply that is computed now is written."""
        return self.folder / "reply.new"

    def blob(self, digest: str) -> Path:
        """The file of these contents."""
        return self.blobs / digest

    # memory ---------------------------------------------------------------------------------------------

    def memory(self, job: str, client: str) -> AgentMemory:
        """The memory that the client's work on a job begins with."""
        return AgentMemory(client, self.committed(job))

    def committed(self, job: str) -> Memory | None:
        """The client's memory of a job, `None` before the first update that counted.

        Raises:
            AgentStateError: if its file is gone or damaged.
        """
        row = self._row(job)
        return None if row is None or row[0] is None else self._memory(row[0])

    def pending(self, job: str) -> Pending | None:
        """The memory without a verdict, by its round, attempt and update."""
        row = self._row(job)
        return None if row is None or row[4] is None else Pending(round=row[1], attempt=row[2], digest=row[3])

    def settle(self, job: str, tag: Tag, counted: bool) -> bool:
        """Carries out a verdict: pending memory of exactly this attempt is committed, or dropped; whether there was
        some."""
        with self._transaction() as database:
            kept = "committed = pending, " if counted else ""
            done = database.execute(
                f"UPDATE memory SET {kept}round = NULL, attempt = NULL, digest = NULL, pending = NULL "
                "WHERE job = ? AND round = ? AND attempt = ? AND pending IS NOT NULL",
                (job, *tag),
            ).rowcount
            settle_steps(database, job, tag)
        self._sweep()
        self._clear_log()
        return bool(done)

    def forget_secret(self, job: str) -> None:
        """Deletes the secret of a job that has ended."""
        with self._transaction() as database:
            database.execute("DELETE FROM secrets WHERE job = ?", (job,))
        self._clear_log()

    def _clear_log(self) -> None:
        """Empties the write-ahead log, in which nothing of a deleted secret stays then."""
        with self._lock, in_a_sentence(self.folder):
            self._database.execute("PRAGMA wal_checkpoint(TRUNCATE)")

    def private_key(self) -> Key:
        """The key from which this client alone draws, made at its first use; the server never learns it."""
        path = self.folder / "private.key"
        with in_a_sentence(self.folder):
            if not path.is_file():
                write_whole(path, secrets.token_bytes(32))
            return Key(path.read_bytes())

    # jobs -----------------------------------------------------------------------------------------------

    def begin(self, job: str) -> None:
        """Makes ready for a job; what belongs to jobs long past is removed."""
        with self._transaction() as database:
            database.execute("INSERT OR IGNORE INTO memory (job) VALUES (?)", (job,))
            database.execute(
                "DELETE FROM memory WHERE rowid NOT IN (SELECT rowid FROM memory ORDER BY rowid DESC LIMIT ?)",
                (KEPT_JOBS,),
            )
            for table in ("replies", "exchanges", "secrets"):
                database.execute(f"DELETE FROM {table} WHERE job NOT IN (SELECT job FROM memory)")
        self._sweep()
        for stale in self.messages.iterdir():
            with contextlib.suppress(OSError):
                stale.unlink()

    def forget_messages(self, keep: set[str]) -> None:
        """Removes fetched requests except these."""
        for each in self.messages.iterdir():
            if each.name.removesuffix(".part") not in keep:
                with contextlib.suppress(OSError):
                    each.unlink()

    # helpers --------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        with self._lock, in_a_sentence(self.folder), self._database:
            yield self._database

    def _replies(self, condition: str, *values: str) -> list[StoredReply]:
        with self._lock, in_a_sentence(self.folder):
            rows = self._database.execute(f"SELECT * FROM replies {condition}", values).fetchall()
        return [StoredReply(*(*row[:-1], bool(row[-1]))) for row in rows]

    def _row(self, job: str) -> tuple[str | None, int, int, str | None, str | None] | None:
        columns = "committed, round, attempt, digest, pending"
        with self._lock, in_a_sentence(self.folder):
            row: tuple[str | None, int, int, str | None, str | None] | None = self._database.execute(
                f"SELECT {columns} FROM memory WHERE job = ?", (job,)
            ).fetchone()
        return row

    def _put(self, data: bytes) -> str:
        digest = hashlib.sha256(data).hexdigest()
        with in_a_sentence(self.folder):
            if not self.blob(digest).is_file():
                write_whole(self.blob(digest), data)
        return digest

    def _memory(self, digest: str) -> Memory:
        try:
            raw = self.blob(digest).read_bytes()
            if hashlib.sha256(raw).hexdigest() != digest:
                raise ValueError("its contents have changed")
            return memory_from_bytes(raw)
        except (OSError, ValueError, safetensors.SafetensorError) as error:
            raise AgentStateError(
                f"the client's memory in {self.blob(digest)} cannot be read ({error}), and to train without it gives "
                "another result: restore the folder from a copy, or choose a new one (--state), by which the client "
                "begins again without memory."
            ) from error

    def _sweep(self) -> None:
        """Removes the blobs that nothing names any more."""
        with self._lock, in_a_sentence(self.folder):
            rows = self._database.execute(
                "SELECT digest FROM replies UNION SELECT committed FROM memory UNION SELECT pending FROM memory"
            ).fetchall()
            named = {row[0] for row in rows} | self.exchanges.digests()
            for blob in self.blobs.iterdir():
                if blob.name not in named:
                    with contextlib.suppress(OSError):
                        blob.unlink()


def _file_name(name: str) -> str:
    """A name of the server's as a file name on any system, different for different names."""
    return f"{UNUSABLE.sub('_', name)[:60]}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"

"""The memory of clients on disk: one row for each client and round in which its memory changed."""

from __future__ import annotations

import hashlib
import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import closing
from pathlib import Path

import safetensors
import safetensors.torch
from torch import Tensor

from headway.core.chain import Labelled
from headway.core.errors import RunFolderError


def write_versions(path: Path, round_: int, kept: Iterable[tuple[str, Labelled]], oldest_kept: int) -> str:
    """Adds versions marked with the round, in one transaction; drops those that no resume from `oldest_kept` needs.

    Returns:
        A digest of all that was written to the file until now, by which `check_saved` knows it again.
    """
    with closing(_open(path)) as connection, connection:
        digest = hashlib.blake2b(_digest_at(connection, round_ - 1).encode(), digest_size=16)

        def rows() -> Iterator[tuple[str, int, bytes]]:
            for client, memory in kept:
                raw = memory_to_bytes(memory)
                digest.update(client.encode())
                digest.update(raw)
                yield client, round_, raw

        connection.executemany("INSERT OR REPLACE INTO memory VALUES (?, ?, ?)", rows())
        connection.execute(
            "DELETE FROM memory WHERE EXISTS (SELECT 1 FROM memory AS newer WHERE newer.client = memory.client"
            " AND newer.round > memory.round AND newer.round <= ?)",
            (oldest_kept,),
        )
        (clients,) = connection.execute("SELECT COUNT(DISTINCT client) FROM memory").fetchone()
        connection.execute("DELETE FROM saved WHERE round < ?", (oldest_kept,))
        connection.execute("INSERT OR REPLACE INTO saved VALUES (?, ?, ?)", (round_, clients, digest.hexdigest()))
    return digest.hexdigest()


def check_saved(path: Path, round_: int, digest: str | None) -> None:
    """Refuses to go on without what clients kept when a checkpoint was written.

    digest: as `write_versions` gave it then; `None` if no client kept anything, "unknown" where it was not written
    down.

    Raises:
        RunFolderError: if the file is gone, damaged, or not the one that belongs to the checkpoint.
    """
    if digest is None:
        return
    how = "restore the file from a copy, or start the run anew."
    if not path.is_file():
        raise RunFolderError(
            f"{path} is gone: it holds what clients keep between rounds, such as control variates, without which the "
            f"run would go on to another result: {how}"
        )
    if digest == "unknown":
        return
    try:
        with closing(_open(path)) as connection:
            (clients,) = connection.execute(
                "SELECT COUNT(DISTINCT client) FROM memory WHERE round <= ?", (round_,)
            ).fetchone()
            saved = connection.execute("SELECT clients, digest FROM saved WHERE round = ?", (round_,)).fetchone()
    except sqlite3.DatabaseError as error:
        raise _unreadable(path, error) from error
    if saved != (clients, digest):
        raise RunFolderError(
            f"{path} does not belong to the checkpoint of round {round_}: it was replaced, or lacks what some clients "
            f"kept by then: {how}"
        )


def read_client(path: Path, round_: int, client: str) -> Labelled | None:
    """One client's memory as it was after a round, `None` if it has none; nothing is deleted.

    Raises:
        RunFolderError: if the file is damaged.
    """
    if not path.is_file():
        return None
    try:
        with closing(_open(path)) as connection:
            wanted = "SELECT tensors FROM memory WHERE client = ? AND round <= ? ORDER BY round DESC LIMIT 1"
            found = connection.execute(wanted, (client, round_)).fetchone()
    except sqlite3.DatabaseError as error:
        raise _unreadable(path, error) from error
    return None if found is None else memory_from_bytes(found[0])


def read_versions(path: Path, round_: int) -> Iterator[tuple[str, Labelled]]:
    """Every client's memory as it was after a round, one at a time; what was written later is deleted.

    Raises:
        RunFolderError: if the file is damaged.
    """
    try:
        with closing(_open(path)) as connection, connection:
            connection.execute("DELETE FROM memory WHERE round > ?", (round_,))
            connection.execute("DELETE FROM saved WHERE round > ?", (round_,))
            found = connection.execute("SELECT client, MAX(round), tensors FROM memory GROUP BY client")
            for client, _, raw in found:
                yield client, memory_from_bytes(raw)
    except (sqlite3.DatabaseError, safetensors.SafetensorError) as error:
        raise _unreadable(path, error) from error


def flat(memory: Labelled) -> dict[str, Tensor]:
    """The tensors under flat names, `label/name`."""
    return {f"{label}/{name}": tensor for label, kept in memory.items() for name, tensor in kept.items()}


def memory_to_bytes(memory: Labelled) -> bytes:
    """A client's memory as bytes, for `memory_from_bytes`."""
    raw: bytes = safetensors.torch.save({name: tensor.contiguous() for name, tensor in flat(memory).items()})
    return raw


def memory_from_bytes(raw: bytes) -> Labelled:
    """The memory in these bytes.

    Raises:
        SafetensorError: if they are damaged.
    """
    memory: dict[str, dict[str, Tensor]] = {}
    for path, tensor in safetensors.torch.load(raw).items():
        label, name = path.split("/", 1)
        memory.setdefault(label, {})[name] = tensor
    return memory


def _digest_at(connection: sqlite3.Connection, round_: int) -> str:
    """The digest of the last save up to a round."""
    found = connection.execute("SELECT digest FROM saved WHERE round <= ? ORDER BY round DESC", (round_,)).fetchone()
    return "" if found is None else str(found[0])


def _unreadable(path: Path, error: Exception) -> RunFolderError:
    return RunFolderError(
        f"the clients' memory in {path} cannot be read ({error}); without it the run cannot go on to the same "
        "result: restore the file from a copy, or start the run anew."
    )


def _open(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(path)
    connection.execute(
        "CREATE TABLE IF NOT EXISTS memory (client TEXT, round INTEGER, tensors BLOB, PRIMARY KEY (client, round))"
    )
    connection.execute("CREATE TABLE IF NOT EXISTS saved (round INTEGER PRIMARY KEY, clients INTEGER, digest TEXT)")
    return connection

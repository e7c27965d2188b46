"""What clients keep between rounds, beside their data and never at the server.

The commit rule: training writes *pending* memory; it becomes the client's memory only when its update was
counted, and is forgotten otherwise.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable
from pathlib import Path

import safetensors.torch
from torch import Tensor

from headway.core.chain import Labelled
from headway.core.errors import RunFolderError

Memory = Labelled
TRAINER = "trainer"  # the label of what the trainer keeps
Tag = tuple[int, int]  # (round, attempt)


class MemoryStore:
    """The committed and pending memory of the clients of one process, with versions on disk.

    `save` writes what changed since the last save, marked with the round; `load` brings back the memory as it
    was at a round, so that a resumed run starts from the same bits.
    """

    def __init__(self) -> None:
        self._committed: dict[str, Memory] = {}
        self._pending: dict[str, tuple[Tag, Memory]] = {}
        self._unsaved: set[str] = set()

    def get(self, client: str) -> Memory | None:
        """The committed memory, `None` for a client that has none yet."""
        return self._committed.get(client)

    def propose(self, client: str, tag: Tag, memory: Memory) -> None:
        """Keeps memory as pending until the verdict on its update is known."""
        if memory:
            self._pending[client] = (tag, memory)

    def settle(self, tag: Tag, counted: Iterable[str]) -> None:
        """The verdict on one attempt of a round: counted clients' pending memory is committed, all other forgotten."""
        accepted = set(counted)
        verdict = {client: memory for client, (of, memory) in self._pending.items() if client in accepted and of == tag}
        self._pending = {}
        self._unsaved |= verdict.keys()
        self._committed.update(verdict)

    def save(self, path: Path, round_: int, oldest_kept: int) -> None:
        """Writes the changes up to a round in one transaction; versions older than needed are dropped.

        oldest_kept: the earliest round that a resume may still start from.
        """
        rows = [(client, round_, _to_bytes(self._committed[client])) for client in sorted(self._unsaved)]
        if not rows and not path.exists():
            return
        with _open(path) as connection:
            connection.executemany("INSERT OR REPLACE INTO memory VALUES (?, ?, ?)", rows)
            connection.execute(
                "DELETE FROM memory WHERE EXISTS (SELECT 1 FROM memory AS newer WHERE newer.client = memory.client"
                " AND newer.round > memory.round AND newer.round <= ?)",
                (oldest_kept,),
            )
        connection.close()
        self._unsaved.clear()

    def load(self, path: Path, round_: int) -> None:
        """The memory as it was after a round; what was written later is deleted.

        Raises:
            RunFolderError: if the file is damaged.
        """
        self._committed, self._pending, self._unsaved = {}, {}, set()
        if not path.exists():
            return
        try:
            with _open(path) as connection:
                connection.execute("DELETE FROM memory WHERE round > ?", (round_,))
                rows = connection.execute("SELECT client, MAX(round), tensors FROM memory GROUP BY client")
                self._committed = {client: _from_bytes(raw) for client, _, raw in rows}
            connection.close()
        except (sqlite3.DatabaseError, safetensors.SafetensorError) as error:
            raise RunFolderError(
                f"the clients' memory in {path} cannot be read ({error}); without it the run cannot go on to the same "
                "result: restore the file from a copy, or start the run anew."
            ) from error

    def clients(self) -> Iterable[str]:
        """The clients that have memory."""
        return self._committed.keys()


def flat(memory: Memory) -> dict[str, Tensor]:
    """The tensors under flat names, `label/name`."""
    return {f"{label}/{name}": tensor for label, kept in memory.items() for name, tensor in kept.items()}


def _to_bytes(memory: Memory) -> bytes:
    raw: bytes = safetensors.torch.save({name: tensor.contiguous() for name, tensor in flat(memory).items()})
    return raw


def _from_bytes(raw: bytes) -> Memory:
    memory: dict[str, dict[str, Tensor]] = {}
    for path, tensor in safetensors.torch.load(raw).items():
        label, name = path.split("/", 1)
        memory.setdefault(label, {})[name] = tensor
    return memory


def _open(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(path)
    connection.execute(
        "CREATE TABLE IF NOT EXISTS memory (client TEXT, round INTEGER, tensors BLOB, PRIMARY KEY (client, round))"
    )
    return connection

"""What clients keep, on disk: one row for each client and round in which its memory changed."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import closing
from pathlib import Path

import safetensors
import safetensors.torch
from torch import Tensor

from headway.core.chain import Labelled
from headway.core.errors import RunFolderError


def write_versions(path: Path, round_: int, kept: Iterable[tuple[str, Labelled]], oldest_kept: int) -> None:
    """Adds versions marked with the round, in one transaction; drops those that no resume from `oldest_kept` needs."""
    rows = ((client, round_, _to_bytes(memory)) for client, memory in kept)
    with closing(_open(path)) as connection, connection:
        connection.executemany("INSERT OR REPLACE INTO memory VALUES (?, ?, ?)", rows)
        connection.execute(
            "DELETE FROM memory WHERE EXISTS (SELECT 1 FROM memory AS newer WHERE newer.client = memory.client"
            " AND newer.round > memory.round AND newer.round <= ?)",
            (oldest_kept,),
        )


def read_versions(path: Path, round_: int) -> Iterator[tuple[str, Labelled]]:
    """Every client's memory as it was after a round, one at a time; what was written later is deleted.

    Raises:
        RunFolderError: if the file is damaged.
    """
    try:
        with closing(_open(path)) as connection, connection:
            connection.execute("DELETE FROM memory WHERE round > ?", (round_,))
            found = connection.execute("SELECT client, MAX(round), tensors FROM memory GROUP BY client")
            for client, _, raw in found:
                yield client, _from_bytes(raw)
    except (sqlite3.DatabaseError, safetensors.SafetensorError) as error:
        raise RunFolderError(
            f"the clients' memory in {path} cannot be read ({error}); without it the run cannot go on to the same "
            "result: restore the file from a copy, or start the run anew."
        ) from error


def flat(memory: Labelled) -> dict[str, Tensor]:
    """The tensors under flat names, `label/name`."""
    return {f"{label}/{name}": tensor for label, kept in memory.items() for name, tensor in kept.items()}


def _to_bytes(memory: Labelled) -> bytes:
    raw: bytes = safetensors.torch.save({name: tensor.contiguous() for name, tensor in flat(memory).items()})
    return raw


def _from_bytes(raw: bytes) -> Labelled:
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

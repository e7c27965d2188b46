"""The memory of clients between rounds, which lies with their data and never at the server.

The commit rule: training writes *pending* memory; it becomes the client's memory only when its update was
counted, and is forgotten otherwise.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Protocol

import numpy as np
from torch import Tensor

from headway.client_state.commit_flags import CommitFlags, Tag
from headway.client_state.shared_memory import shared_array
from headway.client_state.sqlite_versions import flat, read_versions, write_versions
from headway.client_state.tensor_table import TensorTable
from headway.core.chain import Labelled
from headway.core.errors import ConfigError, RunFolderError
from headway.core.names import NumberedNames, place_in, places_in

__all__ = ["TRAINER", "Memories", "Memory", "MemoryStore", "Tag", "flat"]

Memory = Labelled
TRAINER = "trainer"  # the label of the trainer's own memory


class GroupMemory(Protocol):
    """The memory of clients that train one after another."""

    @property
    def committed(self) -> Sequence[Memory | None]:
        """The memory of each client; `None` for one that has none yet."""

    def propose(self, place: int, memory: Memory) -> None:
        """The next memory of the client at this place in the group."""

    def close(self) -> None:
        """Marks all that was proposed as pending."""


class Memories(Protocol):
    """The clients' memory as an engine uses it, wherever it lies; each method is as in `MemoryStore`."""

    def enrol(self, clients: Sequence[str]) -> None:
        """Adds clients to the population."""

    def declare(self, first: Memory) -> None:
        """Makes ready for memory like this."""

    def get(self, client: str) -> Memory | None:
        """The committed memory of a client."""

    def gather(self, clients: Sequence[str], first: Memory) -> Memory:
        """Copies of the memory of several clients, each `[C, ...]`."""

    def of_group(self, clients: Sequence[str], tag: Tag) -> GroupMemory:
        """The memory of clients that train one after another in one attempt of a round."""

    def propose(self, client: str, tag: Tag, memory: Memory) -> None:
        """Pending memory of a client."""

    def propose_stacked(self, clients: Sequence[str], tag: Tag, memory: Memory) -> None:
        """Pending memory of several clients, each `[C, ...]`."""

    def settle(self, tag: Tag, counted: Iterable[str]) -> None:
        """The verdict on one attempt of a round."""

    def save(self, path: Path, round_: int, oldest_kept: int) -> str | None:
        """Writes the changes up to a round; a digest of what the file then holds."""

    def load(self, path: Path, round_: int) -> None:
        """The memory as it was after a round."""

    def clients(self) -> Iterable[str]:
        """The clients that have memory, sorted."""


class MemoryStore:
    """The committed and pending memory of a population, shared with processes forked later, with versions on disk.

    There is a table for each (label, name), with two slots for each client; a verdict flips which of them is the
    client's memory.  A table costs what was written to it: in main memory while it is small, in an unlinked file
    beyond that.  `save` writes what changed since the last save, marked with the round; `load` brings back the memory
    as it was at a round, so that a resumed run starts from the same bits.

    Processes forked after `declare` may `get`, `gather` and `propose`, each client in one process at a time; `settle`,
    `save` and `load` belong to the one that made the store, while no other is training.

    clients: the population, at best sorted, which is then neither copied nor indexed.  folder: where large tables
    lie; with `None`, where temporary files do.
    """

    def __init__(self, clients: Sequence[str] = (), folder: Path | None = None) -> None:
        self._folder = folder
        self._tables: dict[tuple[str, str], TensorTable] = {}
        self._made = shared_array((1,), np.int64)  # tables in any process: one made after the fork is lost to others
        self._populate(clients)

    def _populate(self, clients: Sequence[str]) -> None:
        ordered = isinstance(clients, NumberedNames) or all(one < two for one, two in pairwise(clients))
        self._clients = clients if ordered else sorted(set(clients))
        self._slots = CommitFlags(len(self._clients))
        self._unsaved = np.zeros(len(self._clients), dtype=bool)

    def enrol(self, clients: Sequence[str]) -> None:
        """Adds clients to the population, before anything is kept or declared."""
        if all(place_in(self._clients, client) is not None for client in clients):
            return
        assert not self._tables, "enrol clients before their memory is declared or kept"
        self._populate(sorted({*self._clients, *clients}))

    def declare(self, first: Memory) -> None:
        """Makes the tables for memory like this, so that processes forked later share them.

        first: any one client's; its values are not used.  Names that appear later get a table of this process alone.

        Raises:
            ConfigError: if a table exists, of another shape or dtype.
            RunFolderError: if there is no place for a table.
        """
        for label, kept in first.items():
            for name, tensor in kept.items():
                self._table((label, name), tensor.shape, tensor)

    def get(self, client: str) -> Memory | None:
        """The committed memory, `None` for a client that has none yet.

        The tensors are the rows themselves and not copies: they are not to be written to, and hold until the second
        proposal from now, if the first is counted, and until a `load`.
        """
        return self._committed(self._places([client]))[0]

    def _committed(self, places: Sequence[int]) -> list[Memory | None]:
        """The committed memory of the clients at these places, as `get` has it."""
        self._check_shared()
        rows = self._slots.committed(places)
        each: list[dict[str, dict[str, Tensor]]] = [{} for _ in rows]
        for (label, name), table in self._tables.items():
            for memory, held in zip(each, table.held(rows), strict=True):
                if held is not None:
                    memory.setdefault(label, {})[name] = held
        return [memory if row >= 0 else None for row, memory in zip(rows, each, strict=True)]

    def of_group(self, clients: Sequence[str], tag: Tag) -> StoredGroup:
        """The memory of clients that train one after another, in one attempt of a round and until its verdict."""
        places = self._places(clients)
        self._slots.withdraw(places)
        return StoredGroup(self, self._slots, places, self._committed(places), tag)

    def gather(self, clients: Sequence[str], first: Memory) -> Memory:
        """Copies of the memory of several clients under the names of `first`, each `[C, ...]`.

        first: what a client without memory starts from, as `Chain.remember` makes it.  What a client keeps under other
        names, such as the trainer's, is not gathered.

        Raises:
            ConfigError: if a client keeps something, but nothing under a name of `first`; or a shape differs.
        """
        if not first:
            return {}
        self._check_shared()
        rows = self._slots.committed(self._places(clients))
        stacked: dict[str, dict[str, Tensor]] = {}
        for label, kept in first.items():
            for name, tensor in kept.items():
                table = self._table((label, name), tensor.shape, tensor)
                for client, row, held in zip(clients, rows, table.held(rows), strict=True):
                    if row >= 0 and held is None:
                        raise not_alike(label, name, client)
                stacked.setdefault(label, {})[name] = table.gather(rows, tensor)
        return stacked

    def propose(self, client: str, tag: Tag, memory: Memory) -> None:
        """Keeps memory as pending until the verdict on its update is known; empty memory changes nothing.

        Raises:
            ConfigError: if a tensor has another shape or dtype than other clients'.
            RunFolderError: if there is no place for it; committed and pending memory are as before.
        """
        one = {label: {name: t.unsqueeze(0) for name, t in kept.items()} for label, kept in memory.items()}
        self.propose_stacked([client], tag, one)

    def propose_stacked(self, clients: Sequence[str], tag: Tag, memory: Memory) -> None:
        """`propose` for several clients, each of them once; every tensor is `[C, ...]`.

        Raises:
            What `propose` raises.
        """
        assert len(set(clients)) == len(clients), "each client proposes its memory once"
        if memory:
            self._check_shared()
            places = self._places(clients)
            self._write(places, memory)
            self._slots.propose(places, tag)

    def adopt(self, client: str, memory: Memory, changed: bool = False) -> None:
        """Makes this the client's committed memory, without any verdict; changed: since the last save."""
        (place,) = self._places([client])
        self.write_row(self._slots.free([place])[0], memory)
        self._slots.commit(place)
        self._unsaved[place] = changed

    def forget(self) -> None:
        """Removes all memory, committed and pending."""
        self._slots.clear()
        self._unsaved.fill(False)

    def changed(self) -> list[str]:
        """The clients whose memory is not as it was saved last."""
        return [self._clients[index] for index in np.flatnonzero(self._unsaved).tolist()]

    def saved(self) -> None:
        """All memory has been written."""
        self._unsaved.fill(False)

    def pending(self, client: str, tag: Tag) -> Memory | None:
        """The memory that awaits the verdict on this attempt, `None` if there is none; rows as those of `get`."""
        self._check_shared()
        (place,) = self._places([client])
        if not self._slots.is_pending(place, tag):
            return None
        memory: dict[str, dict[str, Tensor]] = {}
        rows = self._slots.free([place])
        for (label, name), table in self._tables.items():
            (held,) = table.held(rows)
            if held is not None:
                memory.setdefault(label, {})[name] = held
        return memory

    def settle(self, tag: Tag, counted: Iterable[str]) -> None:
        """The verdict on one attempt of a round: counted clients' pending memory is committed, all other forgotten."""
        self._check_shared()
        if not self._tables:  # no client keeps anything
            return
        self._unsaved[self._slots.settle(tag, self._places(list(counted)))] = True

    def save(self, path: Path, round_: int, oldest_kept: int) -> str | None:
        """Writes the changes up to a round in one transaction; versions older than needed are dropped.

        oldest_kept: the earliest round that a resume may still start from.

        Returns:
            A digest of what the file then holds, for `check_saved`; `None` if there is none, since no client keeps
            anything.
        """
        changed = self.changed()
        if not changed and not path.exists():
            return None
        digest = write_versions(path, round_, ((client, self.get(client) or {}) for client in changed), oldest_kept)
        self.saved()
        return digest

    def load(self, path: Path, round_: int) -> None:
        """The memory as it was after a round; what was written later is deleted.

        A store without clients takes the clients of the file.

        Raises:
            RunFolderError: if the file is damaged, or of other clients.
        """
        self.forget()
        if not path.exists():
            return
        if not self._clients:
            self.enrol([client for client, _ in read_versions(path, round_)])
        try:
            for client, memory in read_versions(path, round_):
                if place_in(self._clients, client) is None:
                    raise of_others(path, client, len(self._clients))
                self.adopt(client, memory)
        except BaseException:
            self.forget()
            raise

    def clients(self) -> Iterable[str]:
        """The clients that have memory, sorted."""
        return [self._clients[index] for index in self._slots.known().tolist()]

    def _write(self, places: Sequence[int], memory: Memory) -> None:
        """Writes the free rows of several clients, every tensor `[C, ...]`; what was pending there is forgotten."""
        given = {(label, name): tensor for label, kept in memory.items() for name, tensor in kept.items()}
        rows = self._slots.free(places)
        for key, tensor in given.items():
            assert len(tensor) == len(rows), f"{key} is of {len(tensor)} clients, not of {len(rows)}"
            self._table(key, tensor.shape[1:], tensor).reserve(rows)
        self._slots.withdraw(places)
        for key, table in self._tables.items():
            if key in given:
                table.write(rows, given[key])
            else:
                table.drop(rows)

    def write_row(self, row: int, memory: Memory) -> None:
        """Writes one row of each table, which then holds this memory and nothing else."""
        given = []
        for label, kept in memory.items():
            for name, tensor in kept.items():
                key = (label, name)
                given.append(key)
                (self._tables.get(key) or self._table(key, tensor.shape, tensor)).put(row, tensor)
        if len(given) < len(self._tables):
            for key in self._tables.keys() - given:
                self._tables[key].drop(row)

    def _table(self, key: tuple[str, str], shape: Sequence[int], like: Tensor) -> TensorTable:
        """The table, made if need be, of rows of this shape and like's dtype."""
        found = self._tables.get(key)
        if found is None:
            found = TensorTable("/".join(key), shape, like.dtype, len(self._clients), self._folder)
            self._tables[key] = found
            self._made[0] += 1
        found.check(shape, like.dtype)
        return found

    def _check_shared(self) -> None:
        made = int(self._made[0])
        assert made == len(self._tables), (
            "another process has made a table that is lost here: declare it before forking"
        )

    def _places(self, clients: Sequence[str]) -> list[int]:
        """The clients' places in the population."""
        try:
            return places_in(self._clients, clients)
        except KeyError as unknown:
            raise AssertionError(f"{unknown} is not in the population") from None


class StoredGroup:
    """The memory of a group in a `MemoryStore`: places, rows and flags are looked up once for all of its clients.

    committed: the memory of each client, as `MemoryStore.get` has it.
    """

    def __init__(
        self, store: MemoryStore, flags: CommitFlags, places: list[int], committed: list[Memory | None], tag: Tag
    ) -> None:
        self.committed = committed
        self._store, self._flags, self._places, self._tag = store, flags, places, tag
        self._rows = flags.free(places)
        self._written: list[int] = []

    def propose(self, place: int, memory: Memory) -> None:
        """Writes the next memory of the client at this place in the group; empty memory leaves it as it is."""
        if memory:
            self._store.write_row(self._rows[place], memory)
            self._written.append(self._places[place])

    def close(self) -> None:
        """Marks all that was proposed as pending, until the verdict."""
        self._flags.propose(self._written, self._tag)


def not_alike(label: str, name: str, client: str) -> ConfigError:
    """The error that a client's memory cannot be stacked with others'."""
    return ConfigError(
        f"memory can be stacked if all clients keep the same names: needed {label}/{name} of every client that keeps "
        f"anything; found none at client {client!r}. It is caused by {label}: let it return all that it remembers, or "
        "train the clients one at a time."
    )


def of_others(path: Path, client: str, count: int) -> RunFolderError:
    """The error that a file holds the memory of a client that is none of these."""
    return RunFolderError(
        f"the clients' memory in {path} is of other clients: needed one of the {count} of these data, found "
        f"{client!r}. Restore the file from a copy, or start the run anew."
    )

"""A keeper of clients' memory, as an actor of its own; a method that is called twice has the effect of one call."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch

from headway.client_state.store import Memory, MemoryStore, Tag
from headway.engines.processes.arrays import Arrays, arrays_of, tensor_of

Kept = Mapping[str, Arrays]  # a memory, as arrays


class StateReplica:
    """Keeps the memory of some clients, in a process of its own."""

    def __init__(self, clients: Sequence[str]) -> None:
        torch.set_num_threads(1)
        self.store = MemoryStore(clients)
        self.settled: Tag = (-1, -1)

    def node(self) -> str:
        """Which node it is on."""
        return node_here()

    def get(self, clients: Sequence[str], names: Sequence[tuple[str, str]] | None) -> list[Kept | None]:
        """Each client's memory, `None` where it has none; names: of these tensors only."""
        return [None if (memory := self.store.get(c)) is None else arrays_in(memory, names) for c in clients]

    def propose(self, clients: Sequence[str], tag: Tag, kept: Kept) -> None:
        """Pending memory of clients, each tensor `[C, ...]`; of a round that is over, it is too late."""
        if tag > self.settled:
            self.store.propose_stacked(clients, tag, tensors_in(kept))

    def settle(self, tag: Tag, counted: Sequence[str]) -> None:
        """The verdict on a round; repeated, it changes nothing."""
        if tag > self.settled:
            self.store.settle(tag, counted)
            self.settled = tag

    def adopt(self, memories: tuple[Sequence[str], Sequence[Kept], Sequence[bool]]) -> None:
        """Memory from a file or from another keeper, with whether it is not saved yet."""
        for client, kept, changed in zip(*memories, strict=True):
            self.store.adopt(client, tensors_in(kept), changed)

    def export(self, clients: Sequence[str]) -> tuple[Sequence[str], Sequence[Kept], Sequence[bool]]:
        """The memory of some clients, as `adopt` takes it."""
        changed = set(self.store.changed())
        return clients, [arrays_in(self.store.get(c) or {}) for c in clients], [c in changed for c in clients]

    def clients(self) -> list[str]:
        """The clients that have memory."""
        return list(self.store.clients())

    def changed(self) -> list[str]:
        """The clients whose memory is not saved."""
        return self.store.changed()

    def saved(self) -> None:
        """Marks the memory of all clients as saved."""
        self.store.saved()

    def forget(self) -> None:
        """Removes the memory of all clients."""
        self.store.forget()
        self.settled = (-1, -1)


def node_here() -> str:
    """The name of the node that this actor is on."""
    import ray

    found: str = ray.get_runtime_context().get_node_id()
    return found


def arrays_in(memory: Memory, names: Sequence[tuple[str, str]] | None = None) -> Kept:
    """A memory as arrays; names: of these tensors only, where it has them."""
    if names is not None:
        labels = dict.fromkeys(label for label, _ in names)
        memory = {
            label: {n: memory[label][n] for where, n in names if where == label and n in memory[label]}
            for label in labels
            if label in memory
        }
    return {label: arrays_of(kept) for label, kept in memory.items()}


def tensors_in(kept: Kept) -> Memory:
    """The memory again, its tensors on the arrays' own memory."""
    return {label: {name: tensor_of(array) for name, array in named.items()} for label, named in kept.items()}

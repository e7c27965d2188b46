"""The memory of an agent's one client, between its files and its work."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import torch
from torch import Tensor

from headway.client_state.store import GroupMemory, Memories, Memory, Tag
from headway.core.update import Tensors


class AgentMemory(Memories):
    """The committed memory of one client, and what its training proposes; the store of the agent writes both.

    committed: its memory, `None` before its first update that counted.  proposed: what training left, and the round
    and attempt that it belongs to, until it is taken.
    """

    def __init__(self, client: str, committed: Memory | None = None) -> None:
        self.client, self.committed = client, committed
        self.proposed: tuple[Tag, Memory] | None = None

    def take(self) -> tuple[Tag, Memory] | None:
        """What training has proposed, which is then no longer here."""
        proposed, self.proposed = self.proposed, None
        return proposed

    def enrol(self, clients: Sequence[str]) -> None:
        """There is one client."""
        assert list(clients) == [self.client]

    def declare(self, first: Memory) -> None:
        """Nothing is made ready."""

    def get(self, client: str) -> Memory | None:
        """The committed memory."""
        assert client == self.client
        return self.committed

    def gather(self, clients: Sequence[str], first: Memory) -> Memory:
        """The memory with a leading axis of one client; `first` where there is none yet."""
        held = self.committed or first
        return {label: {name: torch.stack([t]) for name, t in kept.items()} for label, kept in held.items()}

    def of_group(self, clients: Sequence[str], tag: Tag) -> GroupMemory:
        """An agent's client is trained alone."""
        raise AssertionError("an agent has one client, which is no group")

    def propose(self, client: str, tag: Tag, memory: Memory) -> None:
        """Holds the memory that training left; empty memory changes nothing."""
        assert client == self.client
        if memory:
            self.proposed = tag, {label: _copied(kept) for label, kept in memory.items()}

    def propose_stacked(self, clients: Sequence[str], tag: Tag, memory: Memory) -> None:
        """`propose` for the one client."""
        assert list(clients) == [self.client]
        self.propose(
            self.client, tag, {label: {name: t[0] for name, t in kept.items()} for label, kept in memory.items()}
        )

    def settle(self, tag: Tag, counted: Iterable[str]) -> None:
        """The verdicts go to the agent's store, which then sets `committed`."""

    def save(self, path: Path, round_: int, oldest_kept: int) -> str | None:
        """Nothing is written here."""
        return None

    def load(self, path: Path, round_: int) -> None:
        """Nothing is read here."""

    def clients(self) -> Iterable[str]:
        """The client, if it has memory."""
        return [] if self.committed is None else [self.client]


def _copied(kept: Tensors) -> dict[str, Tensor]:
    return {name: tensor.detach().cpu().clone() for name, tensor in kept.items()}

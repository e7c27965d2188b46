"""The commit rule as flags: which of a client's two slots is its memory, and which verdict the other awaits."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from headway.client_state.shared_memory import shared_array

Tag = tuple[int, int]  # (round, attempt)


class CommitFlags:
    """Flags of N clients in shared memory: a verdict flips a flag for each counted client, and copies nothing.

    Clients are numbers from 0 on; row 2 i + s is slot s of client i.  What is pending is marked with the number of
    verdicts before it, so that one increment forgets all that is pending, of however many clients.
    """

    def __init__(self, clients: int) -> None:
        self._committed = shared_array((clients,), np.uint8)  # 0: none; 1: slot 0; 2: slot 1
        self._pending = shared_array((clients, 3), np.int64)  # verdicts before it, round, attempt
        self._verdicts = shared_array((1,), np.int64)
        self._verdicts[0] = 1

    def committed(self, clients: Sequence[int]) -> list[int]:
        """The rows of these clients' memory, -1 for a client without any."""
        flags = self._committed[clients].astype(np.int64)
        rows: list[int] = np.where(flags > 0, 2 * np.asarray(clients, dtype=np.int64) + flags - 1, -1).tolist()
        return rows

    def free(self, clients: Sequence[int]) -> list[int]:
        """The rows to write these clients' next memory to: for each the one that is not committed."""
        rows: list[int] = (2 * np.asarray(clients, dtype=np.int64) + (self._committed[clients] == 1)).tolist()
        return rows

    def propose(self, clients: int | Sequence[int], tag: Tag) -> None:
        """Marks what was written to the clients' free rows as pending, until the verdict on this attempt."""
        self._pending[clients] = (self._verdicts[0], *tag)

    def withdraw(self, clients: int | Sequence[int]) -> None:
        """Forgets what is pending of some clients, because it is about to be written over."""
        self._pending[clients, 0] = 0

    def is_pending(self, client: int, tag: Tag) -> bool:
        """Whether the client's free row awaits the verdict on this attempt."""
        return bool((self._pending[client] == (self._verdicts[0], *tag)).all())

    def settle(self, tag: Tag, counted: Sequence[int]) -> NDArray[np.int64]:
        """Commits what is pending of these clients for exactly this attempt, and forgets all else; returns them."""
        rows: NDArray[np.int64] = np.asarray(counted, dtype=np.int64)
        rows = rows[(self._pending[rows] == (self._verdicts[0], *tag)).all(axis=1)]
        self._committed[rows] = np.where(self._committed[rows] == 1, 2, 1)
        self._verdicts[0] += 1
        return rows

    def commit(self, client: int) -> None:
        """Makes what was written to the client's free row its memory, without any verdict."""
        self._committed[client] = 2 if self._committed[client] == 1 else 1

    def clear(self) -> None:
        """Removes all memory, committed and pending."""
        self._committed.fill(0)
        self._verdicts[0] += 1

    def known(self) -> NDArray[np.int64]:
        """The clients that have memory."""
        return np.flatnonzero(self._committed)

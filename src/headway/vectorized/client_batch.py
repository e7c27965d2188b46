"""Clients that train at once, with their keys and examples."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from headway.data import Examples
from headway.numerics.keys import Keys


@dataclass(frozen=True, slots=True)
class ClientBatch:
    """Some clients of a round, in a fixed order.

    keys: of each in this round.  store: the examples of all clients.  rows: the places in it of each client's training
    examples, one client after another, int64 `[sum n]`; sizes: how many each has, int64 `[C]`.
    """

    clients: tuple[str, ...]
    keys: Keys
    store: Examples
    rows: Tensor
    sizes: Tensor

    def __len__(self) -> int:
        return len(self.clients)

    def chosen(self, order: list[int]) -> ClientBatch:
        """These of the clients, in this order."""
        if order == list(range(len(self))):
            return self
        parts = self.rows.split(self.sizes.tolist())
        return ClientBatch(
            tuple(self.clients[i] for i in order),
            self.keys.chosen(order),
            self.store,
            torch.cat([parts[i] for i in order]),
            self.sizes[order],
        )

    def examples(self) -> list[Examples]:
        """Each client's training examples."""
        return [self.store.take(rows) for rows in self.rows.split(self.sizes.tolist())]

"""The number of training examples of each class at each client, counted on demand."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import final

import torch

from headway.data.dataset.client_index import ClientIndex
from headway.data.dataset.examples import HeldExamples


@final
class LabelCounts(Mapping[str, tuple[int, ...]]):
    """The number of training examples of each class, by client; empty where there are no classes.

    Counts are made on demand, so that a million clients cost nothing until they are used.

    >>> from headway.data import FederatedData
    >>> data = FederatedData.from_clients({"a": ([[0.0], [1.0]], [0, 1]), "b": ([[2.0]], [1])})
    >>> counts = LabelCounts(data)
    >>> counts["a"], counts["b"], counts.total()
    ((1, 1), (0, 1), (1, 2))
    """

    def __init__(self, data: HeldExamples) -> None:
        self._parts, self._targets, self._classes = ClientIndex.of(data.train), data.store.targets, data.classes
        self._total: tuple[int, ...] | None = None

    def __getitem__(self, client: str) -> tuple[int, ...]:
        if self._classes is None:
            raise KeyError(client)
        return self._count(self._parts[client])

    def __contains__(self, client: object) -> bool:
        return self._classes is not None and client in self._parts

    def __iter__(self) -> Iterator[str]:
        return iter(self._parts if self._classes is not None else ())

    def __len__(self) -> int:
        return len(self._parts) if self._classes is not None else 0

    def total(self) -> tuple[int, ...]:
        """The sum over all clients, counted once; empty where there are no classes."""
        if self._total is None:
            blocks = [self._count(index) for index in self._parts.blocks()] if self._classes is not None else []
            self._total = tuple(map(sum, zip(*blocks, strict=True)))
        return self._total

    def _count(self, index: torch.Tensor) -> tuple[int, ...]:
        assert self._classes is not None
        return tuple(torch.bincount(self._targets[index].flatten(), minlength=self._classes).tolist())

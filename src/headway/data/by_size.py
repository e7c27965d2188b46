"""Partitions that do not look at the labels: in equal parts, in unlike amounts, or by owner."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from headway.core.errors import DataError
from headway.core.keys import Key
from headway.data.dealing import (
    Counts,
    Partitioner,
    by_group,
    check_alpha,
    check_counts,
    check_min_examples,
    cut,
    deal_until_enough,
)


@dataclass(frozen=True)
class Iid(Partitioner):
    """A random order, cut into parts whose sizes differ by at most one.

    >>> sorted(len(part) for part in Iid().assign(torch.zeros(5), 2, Key.root(0)))
    [2, 3]
    """

    kind: ClassVar[str] = "iid"

    def assign(self, labels: Tensor, clients: int, key: Key) -> list[Tensor]:
        """Indices of each client; `labels` only says how many examples there are."""
        check_counts(len(labels), clients)
        return [part.sort().values for part in torch.tensor_split(key.permutation(len(labels)), clients)]


@dataclass(frozen=True)
class Quantity(Partitioner):
    """`quantity`: clients hold the same mix in unlike amounts, drawn as q ~ Dir(alpha) over the clients.

    The draw is repeated until every client has `min_examples` examples.

    Reference: NIID-Bench, arXiv 2102.02079, section 4.3.
    """

    kind: ClassVar[str] = "quantity"
    alpha: float
    min_examples: int = 10

    def __post_init__(self) -> None:
        check_alpha(self.kind, self.alpha)
        check_min_examples(self.kind, self.min_examples)

    def assign(self, labels: Tensor, clients: int, key: Key) -> list[Tensor]:
        """Indices of each client; `labels` only says how many examples there are."""
        alike = torch.zeros(len(labels), dtype=torch.int64)
        return deal_until_enough(self, self._counts, alike, clients, key)

    def _counts(self, sizes: Counts, clients: int, rng: np.random.Generator) -> Counts:
        return cut(rng.dirichlet([self.alpha] * clients, size=1), sizes)


@dataclass(frozen=True)
class Column(Partitioner):
    """`column`: the natural partition, by a column that says who each example came from.

    >>> [part.tolist() for part in Column().assign(torch.tensor([1, 0, 1]), 2, Key.root(0))]
    [[1], [0, 2]]
    """

    kind: ClassVar[str] = "column"

    def assign(self, labels: Tensor, clients: int, key: Key) -> list[Tensor]:
        """Indices of each client; here `labels` (int64 `[N]`, 0..clients-1) are the examples' owners."""
        check_counts(len(labels), clients)
        if bool(((labels < 0) | (labels >= clients)).any()):
            raise DataError(f"an example's owner is not among the clients 0 to {clients - 1}.")
        return by_group(labels, torch.bincount(labels, minlength=clients))

"""Partitions that do not look at the labels: in equal parts, in different amounts, or by owner."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from headway.core.errors import DataError
from headway.data.partition.allocation import (
    LARGEST,
    Counts,
    Partitioner,
    allocate,
    allocate_until_enough,
    by_group,
    check_counts,
    check_enough,
    check_min_examples,
    check_repeated,
    cut,
)
from headway.numerics.keys import Key


@dataclass(frozen=True)
class Iid(Partitioner):
    """A random order, cut into parts whose sizes differ by at most one.

    >>> sorted(len(part) for part in Iid().assign(torch.zeros(5), 2, Key.root(0)))
    [2, 3]
    """

    kind: ClassVar[str] = "iid"

    def assign(self, labels: Tensor, clients: int, key: Key) -> list[Tensor]:
        """Indices of each client; only the number of `labels` is used."""
        check_counts(len(labels), clients)
        return [part.sort().values for part in torch.tensor_split(key.permutation(len(labels)), clients)]


@dataclass(frozen=True)
class Quantity(Partitioner):
    """`quantity`: clients hold the same mix in different amounts, drawn as q ~ Dir(alpha) over the clients.

    The draw is repeated until every client has `min_examples` examples.

    Reference: NIID-Bench, arXiv 2102.02079, section 4.3.
    """

    kind: ClassVar[str] = "quantity"
    bins: ClassVar[None] = None
    alpha: float
    min_examples: int = 10

    def __post_init__(self) -> None:
        check_repeated(self)

    def assign(self, labels: Tensor, clients: int, key: Key) -> list[Tensor]:
        """Indices of each client; only the number of `labels` is used."""
        alike = torch.zeros(len(labels), dtype=torch.int64)
        return allocate_until_enough(self, self._counts, alike, clients, key)

    def _counts(self, sizes: Counts, clients: int, rng: np.random.Generator) -> Counts:
        return cut(rng.dirichlet([min(self.alpha, LARGEST)] * clients, size=1), sizes)


@dataclass(frozen=True)
class PowerLaw(Partitioner):
    """`power-law`: clients hold the same mix in amounts that fall with their rank, as r^-exponent.

    Of N examples the client of rank r = 1..n gets n_r = m + (N - n m) r^-a / sum_s s^-a, where m is
    `min_examples` and a the `exponent`; the n_r are cut cumulatively to whole numbers, so that they sum to N.
    Ranks go to clients in random order.  Exponent 0 gives sizes that differ by at most one.

    Differs from the papers: they say "power law" and give no formula; FedProx's code allocates log-normal amounts
    on top of a fixed minimum, and drops what does not fit.

    Reference: Li et al., arXiv 1812.06127, section 5.1; LEAF, arXiv 1812.01097 (whose users are like this).

    >>> sorted(len(part) for part in PowerLaw(min_examples=1).assign(torch.zeros(14), 3, Key.root(0)))
    [3, 4, 7]
    """

    kind: ClassVar[str] = "power-law"
    exponent: float = 1.0
    min_examples: int = 10

    def __post_init__(self) -> None:
        if not 0.0 <= self.exponent < float("inf"):
            raise DataError(f"exponent of {self.kind!r} is {self.exponent}, but a number of at least 0 is needed.")
        check_min_examples(self.kind, self.min_examples)

    def assign(self, labels: Tensor, clients: int, key: Key) -> list[Tensor]:
        """Indices of each client; only the number of `labels` is used."""
        check_counts(len(labels), clients)
        check_enough(len(labels), clients, self.min_examples)
        shares = np.arange(1, clients + 1, dtype=np.float64) ** -self.exponent
        beyond = np.array([len(labels) - clients * self.min_examples])
        counts = self.min_examples + cut(shares[None] / shares.sum(), beyond)
        ranks = key.derive("ranks").permutation(clients).numpy()
        return allocate(torch.zeros(len(labels), dtype=torch.int64), counts[:, ranks], key)


@dataclass(frozen=True)
class Column(Partitioner):
    """`column`: the natural partition, by a column that names the client of each example.

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

"""The allocation of examples to clients: shares become whole counts, and counts become examples."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import ClassVar, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from headway.core.errors import DataError
from headway.numerics.keys import Key

ATTEMPTS = 2_000
LARGEST = 1e290  # an alpha, above which the sum of many overflows; shares are the same in all digits from 1e20 on
HOPELESS = {10: 20, 100: 6}  # draws: clients with too few examples in each of them, by which more draws are in vain

Counts = NDArray[np.int64]
Draw = Callable[[Counts, int, np.random.Generator], Counts]


class Partitioner(ABC):
    """A rule that gives each example to one client: plain numbers, rebuilt by `partitioner(kind, **numbers)`."""

    kind: ClassVar[str]

    @abstractmethod
    def assign(self, labels: Tensor, clients: int, key: Key) -> list[Tensor]:
        """Sorted int64 indices into `labels` (int64 `[N]`) for each of `clients` clients.

        Raises:
            DataError: the examples cannot be divided like this.
        """


class Repeated(Protocol):
    """A partition whose draw is repeated until every client has enough examples."""

    kind: ClassVar[str]

    @property
    def alpha(self) -> float:
        """The parameter of the Dirichlet distribution."""

    @property
    def min_examples(self) -> int:
        """The number of examples that each client needs."""

    @property
    def bins(self) -> int | None:
        """The number of classes that a target of numbers is cut into, if it may be one."""


def check_alpha(kind: str, alpha: float) -> None:
    """Refuses a Dirichlet parameter that is not a number above 0."""
    if not 0.0 < alpha < float("inf"):
        raise DataError(f"alpha of {kind!r} is {alpha}, but a number above 0 is needed.")


def check_min_examples(kind: str, min_examples: int) -> None:
    """Refuses a minimum that would let a client have no example."""
    if min_examples < 1:
        raise DataError(f"min_examples of {kind!r} is {min_examples}, but at least 1 is needed.")


def check_repeated(partition: Repeated) -> None:
    """Refuses numbers out of range of a partition whose draw is repeated."""
    check_alpha(partition.kind, partition.alpha)
    check_bins(partition.kind, partition.bins)
    check_min_examples(partition.kind, partition.min_examples)


def check_counts(examples: int, clients: int) -> None:
    """Refuses to divide examples among no client, or among more clients than there are examples."""
    if clients < 1:
        raise DataError(f"{clients} clients were asked for, but at least 1 is needed.")
    if clients > examples:
        raise DataError(f"{examples} examples cannot be divided among {clients} clients; ask for fewer clients.")


def check_enough(examples: int, clients: int, min_examples: int) -> None:
    """Refuses a minimum that the examples cannot meet."""
    if clients * min_examples > examples:
        raise DataError(
            f"{examples} examples cannot give each of {clients} clients {min_examples}; "
            "ask for fewer clients or a smaller min_examples."
        )


def generator(key: Key) -> np.random.Generator:
    """NumPy's generator as a pure function of a key, for the draws that are not uniform."""
    return np.random.Generator(np.random.Philox(key=key.bits(2).numpy().astype(np.uint64)))


def check_bins(kind: str, bins: int | None) -> None:
    """Refuses to cut a target into fewer than two classes."""
    if bins is not None and bins < 2:
        raise DataError(f"bins of {kind!r} is {bins}, but at least 2 are needed.")


def groups(labels: Tensor, kind: str, bins: int | None = None) -> tuple[Tensor, Counts]:
    """The class of each example numbered without gaps (int64 `[N]`), and the class sizes.

    bins: a target of numbers is cut into so many classes of about equal size; equal targets are in the same one.
    """
    if labels.is_floating_point() and labels.numel() == len(labels):
        values = labels.flatten().double()
        if bins is None:
            raise DataError(
                f"the partition {kind!r} goes by class labels, but the target is a number: use 'iid', 'quantity' or "
                f"'power-law', which do not look at it, or cut it into classes for the division, such as bins = 5."
            )
        _, place, counts = values.unique(return_inverse=True, return_counts=True)
        middle = counts.cumsum(0) - counts / 2  # of each value's places in the order of all
        labels = (middle * bins / len(values)).long()[place]
    elif labels.ndim != 1 or labels.is_floating_point():
        raise DataError(
            f"the partition {kind!r} needs one class label per example, but the targets have shape "
            f"{list(labels.shape)} and {labels.dtype}; use 'iid', 'quantity' or 'power-law', which do not look at them."
        )
    _, group, sizes = torch.unique(labels, return_inverse=True, return_counts=True)
    return group, sizes.numpy()


def cut(shares: NDArray[np.float64], sizes: Counts) -> Counts:
    """Whole counts from shares `[classes, clients]`: cumulative cuts, so that each row sums to its size."""
    cuts = (shares.cumsum(axis=1)[:, :-1] * sizes[:, None]).astype(np.int64).clip(0, sizes[:, None])
    return np.diff(cuts, axis=1, prepend=0, append=sizes[:, None])


def allocate_until_enough(partition: Repeated, draw: Draw, labels: Tensor, clients: int, key: Key) -> list[Tensor]:
    """The examples of each client, after as many draws `draw(sizes, clients, rng) -> counts` as give all enough.

    It ends early where every draw leaves many clients with too few, as more draws would too.
    """
    check_counts(len(labels), clients)
    check_enough(len(labels), clients, partition.min_examples)
    group, sizes = groups(labels, partition.kind, partition.bins)
    fewest, best = clients, 0  # clients with too few examples in the best draw, and the most that all clients had
    for attempt in range(1, ATTEMPTS + 1):
        counts = draw(sizes, clients, generator(key.derive("shares", attempt - 1)))
        held = counts.sum(axis=0)
        if held.min() >= partition.min_examples:
            return allocate(group, counts, key)
        fewest, best = min(fewest, int((held < partition.min_examples).sum())), max(best, int(held.min()))
        if fewest >= HOPELESS.get(attempt, clients + 1):
            break
    smaller = f", or min_examples = {best}, which a draw met" if best else ""
    raise DataError(
        f"{attempt} draws of {partition.kind!r} with alpha {partition.alpha} never gave each of {clients} clients "
        f"{partition.min_examples} example{'s' * (partition.min_examples != 1)} (in the best, {fewest} had fewer): "
        f"use a larger alpha or fewer clients{smaller}."
    )


def allocate(group: Tensor, counts: Counts, key: Key) -> list[Tensor]:
    """Random examples of each class for each client, by `counts` `[classes, clients]`."""
    order = key.derive("deal").permutation(len(group))
    by_class = order[group[order].argsort(stable=True)]
    owners = torch.arange(counts.shape[1]).repeat(counts.shape[0])
    owner = torch.empty_like(group)
    owner[by_class] = owners.repeat_interleave(torch.from_numpy(counts.reshape(-1)))
    return by_group(owner, torch.from_numpy(counts.sum(axis=0)))


def by_group(owner: Tensor, sizes: Tensor) -> list[Tensor]:
    """The sorted indices that belong to each owner."""
    return list(torch.split(owner.argsort(stable=True), sizes.tolist()))

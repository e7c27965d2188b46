"""The drawing of clients that samplers share: with equal probabilities, or with probabilities by weight."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from headway.core.errors import ConfigError
from headway.core.fields import at_least
from headway.core.names import NumberedNames
from headway.core.sampler import Sampler
from headway.numerics.keys import Key
from headway.protocol.client_history import ClientHistory

MANY = 16  # times the cohort: a population beyond which only the drawn clients are looked at


class _Population:
    """The population that was last drawn from, sorted: that of a run is the same object in every round."""

    last: tuple[tuple[str, ...], Sequence[str]] = ((), ())


def in_order(clients: Sequence[str]) -> Sequence[str]:
    """The names sorted; a tuple that is given again and again is sorted once.

    >>> in_order(("b", "a"))
    ('a', 'b')
    """
    if isinstance(clients, NumberedNames):
        return clients
    if type(clients) is not tuple:  # it may have changed since
        return sorted(clients)
    given, ordered = _Population.last
    if given is not clients:
        ordered = tuple(sorted(clients))
        _Population.last = (clients, ordered)
    return ordered


def smallest(values: Tensor, count: int) -> list[int]:
    """The places of the `count` smallest of the values `[N]`, ascending; of equal ones the first, as in a stable sort.

    >>> import torch
    >>> smallest(torch.tensor([3, 1, 3, 0]), 3)
    [0, 1, 3]
    """
    if count >= len(values):
        return list(range(len(values)))
    if count < 1:
        return []
    numbers = values.numpy()
    limit = np.partition(numbers, count - 1)[count - 1]
    below = np.flatnonzero(numbers < limit)
    equal = np.flatnonzero(numbers == limit)[: count - len(below)]
    places: list[int] = np.sort(np.concatenate([below, equal])).tolist()
    return places


def evenly(population: int, count: int, key: Key) -> list[int]:
    """Which `count` of so many are drawn, each set of them as likely as any other, ascending.

    Those with the smallest of one random number for each; or, of a population that is many times as large, the first
    different ones of a stream of random places, so that what it costs follows from the count.

    >>> evenly(10, 3, Key.root(0)) == evenly(10, 3, Key.root(0)), len(set(evenly(1000, 3, Key.root(0))))
    (True, 3)
    """
    if count * MANY > population:
        return smallest(key.bits(population), count)
    length = count + count // 4 + 16
    while True:
        places, first = np.unique(key.integers(0, population - 1, length).numpy(), return_index=True)
        if len(first) >= count:
            chosen: list[int] = np.sort(places[np.argsort(first)[:count]]).tolist()
            return chosen
        length *= 2  # the stream goes on: what was drawn stays


def first_of(count: int, *orders: Tensor) -> list[int]:
    """The places of the first `count`, ascending, when sorted by the first of the orders `[N]`, then by the next.

    >>> import torch
    >>> first_of(2, torch.tensor([1, 0, 1]), torch.tensor([5, 9, 3]))
    [1, 2]
    """
    order = np.lexsort([each.numpy() for each in reversed(orders)])
    return sorted(order[:count].tolist())


def waits(weights: Tensor, key: Key) -> Tensor:
    """The waiting time of each of N clients: an exponential number of the rate w_i, float64 `[N]`.

        E_i = -ln(1 - u_i) / w_i,    u_i uniform

    The first k are drawn without replacement, each with a probability proportional to its weight among those that are
    left (successive sampling).  Who weighs nothing waits for ever.

    Reference: Efraimidis & Spirakis, Information Processing Letters 97 (2006), Algorithm A, whose keys are exp(-E_i).
    """
    patience = -torch.log1p(-key.uniform(len(weights)))
    return torch.where(weights > 0, patience / weights.double(), math.inf)


def by_weight(weights: Tensor, count: int, key: Key) -> list[int]:
    """The places of the `count` that are drawn, ascending: see `waits`.  Weights of zero come last, evenly.

    >>> import torch
    >>> by_weight(torch.tensor([0.0, 3.0, 0.0, 1.0]), 2, Key.root(0))
    [1, 3]
    """
    times = waits(weights, key)
    if int((weights > 0).sum()) >= count:
        return smallest(times, count)
    return first_of(count, times, key.derive("nothing").bits(len(weights)))


def number_to_draw(sampler: Sampler, count: int, available: int, busy: int) -> int:
    """How many to draw: `count`, or, while others are at work on earlier asks, as many as are missing and available.

    Raises:
        ConfigError: if no client is at work, and fewer are available.
    """
    if busy:
        return min(max(count - busy, 0), available)
    if count > available:
        raise ConfigError(f"{sampler!r} was asked to draw from {available} clients only.")
    return count


def required_history(sampler: Sampler, history: ClientHistory | None) -> ClientHistory:
    """The history of the clients.

    Raises:
        ConfigError: if there is none.
    """
    if history is None:
        raise ConfigError(
            f"{type(sampler).__name__} draws by the clients' history, and got none: call its draw with "
            "history=ClientHistory(...), as a run does."
        )
    return history


@dataclass(frozen=True)
class FixedNumber(Sampler):
    """A sampler of a fixed number of clients, by their history.

    Raises:
        ConfigError: if count is below 1; when drawing, if fewer are available.
    """

    count: int = at_least(1)

    def draw(
        self, clients: Sequence[str], round: int, key: Key, history: ClientHistory | None = None, busy: int = 0
    ) -> tuple[str, ...]:
        """The drawn clients, sorted."""
        history = required_history(self, history)
        places = self.among(history, clients, key)
        chosen = self.choose(history, places, number_to_draw(self, self.count, len(places), busy), round, key)
        return history.named(chosen)

    def among(self, history: ClientHistory, clients: Sequence[str], key: Key) -> Tensor:
        """The rows of the clients that may be drawn, ascending."""
        return history.places(clients)

    @abstractmethod
    def choose(self, history: ClientHistory, places: Tensor, count: int, round: int, key: Key) -> list[int]:
        """The rows of the drawn clients, `count` of these rows."""

    def enough(self, clients: Sequence[str]) -> bool:
        """Whether as many are available as are drawn."""
        return len(clients) >= self.count

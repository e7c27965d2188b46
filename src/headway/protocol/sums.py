"""The sum over clients: of a group in a fixed order, and of all exactly, in any order."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from headway.core.context import slice_tensors
from headway.core.update import Update
from headway.numerics.exact_sum import ExactScalar, ExactSum

COLUMNS = 1 << 17  # numbers of all lanes that are lifted at a time, in float64 of about a megabyte
ON_DEVICE = 1 << 23  # the same on a GPU, which has no cache to stay in and a fixed cost for each operation
LEAST = 256


def not_finite(vector: Tensor) -> str | None:
    """How many of the numbers are NaN or infinite, as a phrase; `None` if all are finite."""
    if math.isfinite(float(torch.dot(vector, vector))) or bool(torch.isfinite(vector).all()):
        return None
    nan, infinite = int(torch.isnan(vector).sum()), int(torch.isinf(vector).sum())
    return f"is not finite ({nan} NaN and {infinite} infinite of {vector.numel()} numbers)"


class GroupSum:
    """The updates of clients that were trained together, summed in float64 in the fixed order in which they are added.

    Which clients form a group is a pure function of the sorted cohort, so this order is too.
    """

    def __init__(self) -> None:
        self.vectors: dict[str, Tensor] = {}
        self._numbers = ExactTotal()
        self._weights: list[float] = []
        self._sums: dict[str, list[float]] = {}

    @property
    def total(self) -> ExactTotal:
        """The weights, the sums and the count, exactly."""
        self._numbers.weight.add_all(self._weights)
        for name, numbers in self._sums.items():
            self._numbers.sums.setdefault(name, ExactScalar()).add_all(numbers)
        self._numbers.count += len(self._weights)
        self._weights, self._sums = [], {}
        return self._numbers

    def add(self, term: Update) -> None:
        """Adds one lifted update of one client, `[P]`."""
        for name, vector in term.vectors.items():
            held = self.vectors.get(name)
            if held is None:
                self.vectors[name] = vector.clone()
            else:
                held += vector
        self.add_numbers(term)

    def add_numbers(self, term: Update) -> None:
        """Adds the weight and the sums of one lifted update alone."""
        self._weights.append(float(term.weight))
        for name, number in term.sums.items():
            self._sums.setdefault(name, []).append(float(number))

    def add_lanes(self, update: Update, lift: Callable[[Update, slice], Update]) -> Tensor:
        """Adds many updates `[C, P]`, each lifted, a few coordinates at a time, which `lift` gets; returns their
        lifted weights `[C]`."""
        numbers = COLUMNS if update.delta.is_cpu else ON_DEVICE
        width = max(numbers // max(len(update.weight), 1), LEAST)
        weight = update.weight
        for start in range(0, max(vector.shape[-1] for vector in update.vectors.values()), width):
            columns = slice(start, start + width)
            part = {name: vector[:, columns] for name, vector in update.vectors.items()}
            term = lift(replace(update, vectors=part), columns)
            for name, lifted in term.vectors.items():
                whole = update.vectors[name].shape[-1]
                held = self.vectors.setdefault(name, lifted.new_zeros(whole))
                held[columns] += lifted.sum(0)
            if start == 0:
                weight = term.weight
                self.total.add_many_numbers(term)
        return weight

    def add_sum(self, vectors: Mapping[str, Tensor], terms: Update) -> None:
        """Adds what many lifted updates come to; terms: their weights and sums `[C]`."""
        for name, vector in vectors.items():
            held = self.vectors.setdefault(name, vector.new_zeros(vector.shape, dtype=torch.float64))
            held += vector
        self.total.add_many_numbers(terms)


class ExactTotal:
    """The exact sum of lifted updates: merging is associative and commutative, to the bit.

    Integer vectors (a ring) add with wrap-around.  A whole-cohort rule keeps the updates themselves in
    `rows`, by client.  It lies in main memory, wherever its terms come from; but for vectors in `rounded`, whose sum
    was rounded to float64 a block of columns at a time, and to which nothing is added any more.
    """

    def __init__(self) -> None:
        self.vectors: dict[str, ExactSum] = {}
        self.integers: dict[str, Tensor] = {}
        self.weight = ExactScalar()
        self.sums: dict[str, ExactScalar] = {}
        self.count = 0
        self.rows: dict[str, Update] = {}
        self.rounded: dict[str, Tensor] = {}

    @property
    def terms(self) -> int:
        """How many terms a rule aggregates: the rows, of which one may be a sum over clients; else the updates."""
        return len(self.rows) or self.count

    def add(self, term: Update) -> None:
        """Adds one lifted update."""
        self._add_vectors(term.vectors)
        self.add_numbers(term)

    def add_group(self, group: GroupSum) -> None:
        """Adds a group's sum."""
        self._add_vectors(group.vectors)
        self.merge(group.total)

    def add_row(self, client: str, update: Update) -> None:
        """Keeps one update whole, for a rule that needs the cohort at once."""
        assert client not in self.rows
        self.rows[client] = update = update.cpu()
        self.add_numbers(update)

    def add_numbers(self, term: Update) -> None:
        """Adds the weight, the sums and the count alone."""
        self.weight.add(float(term.weight))
        for name, number in term.sums.items():
            self.sums.setdefault(name, ExactScalar()).add(float(number))
        self.count += 1

    def add_many_numbers(self, term: Update) -> None:
        """`add_numbers` of many clients `[C]`."""
        _add_all(self.weight, term.weight)
        for name, numbers in term.sums.items():
            _add_all(self.sums.setdefault(name, ExactScalar()), numbers)
        self.count += len(term.weight)

    def columns(self, start: int, stop: int, size: int) -> ExactTotal:
        """Columns `start..stop` of the vectors of this length, all of which are rounded; shorter ones stay whole."""
        assert not self.vectors | self.integers, "only a rounded sum is divided"
        part = ExactTotal()
        part.weight, part.sums, part.count = self.weight, self.sums, self.count
        part.rounded = slice_tensors(self.rounded, start, stop, size)
        return part

    def to_state(self) -> dict[str, Any]:
        """The weight, the sums and the count in whole numbers, without rounding, for another process."""
        sums = {name: number.units for name, number in self.sums.items()}
        return {"weight": self.weight.units, "sums": sums, "count": self.count}

    @classmethod
    def from_state(
        cls, state: Mapping[str, Any], vectors: dict[str, ExactSum], integers: dict[str, Tensor]
    ) -> ExactTotal:
        """The total of these vectors, these vectors of integers, and of the numbers that `to_state` gave."""
        total = cls()
        total.vectors, total.integers = vectors, integers
        total.weight, total.count = ExactScalar(state["weight"]), state["count"]
        total.sums = {name: ExactScalar(units) for name, units in state["sums"].items()}
        return total

    def merge(self, other: ExactTotal) -> None:
        """Adds all that another total holds."""
        assert not self.rounded | other.rounded, "a rounded sum is no term of another"
        for name, held in other.vectors.items():
            self.vectors.setdefault(name, ExactSum()).merge(held)
        for name, integers in other.integers.items():
            self._add_integers(name, integers)
        for name, number in other.sums.items():
            self.sums.setdefault(name, ExactScalar()).merge(number)
        self.weight.merge(other.weight)
        self.count += other.count
        assert not (self.rows.keys() & other.rows.keys())
        self.rows |= other.rows

    def means(self, decode: Callable[[Update], Update], dtype: torch.dtype) -> ExactTotal:
        """The means of rows that are sums of several clients, each decoded, by their weights."""
        means = ExactTotal()
        for name, row in self.rows.items():
            summed = decode(row)
            vectors = {each: (vector.double() / summed.weight).to(dtype) for each, vector in summed.vectors.items()}
            means.add_row(name, Update(vectors, summed.weight))
        means.count = self.count
        return means

    def value(self) -> Update:
        """The sum as an update: float64 vectors (integers in a ring), total weight, total sums."""
        vectors = {name: held.value() for name, held in self.vectors.items()} | self.integers | self.rounded
        return Update(
            vectors,
            torch.tensor(self.weight.value(), dtype=torch.float64),
            {name: torch.tensor(n.value(), dtype=torch.float64) for name, n in self.sums.items()},
        )

    def _add_vectors(self, vectors: Mapping[str, Tensor]) -> None:
        for name, vector in vectors.items():
            if vector.is_floating_point():
                self.vectors.setdefault(name, ExactSum()).add(vector.cpu())
            else:
                self._add_integers(name, vector.cpu())

    def _add_integers(self, name: str, vector: Tensor) -> None:
        held = self.integers.get(name)
        self.integers[name] = vector.clone() if held is None else held + vector


def _add_all(total: ExactScalar, numbers: Tensor) -> None:
    """Adds each of the numbers `[C]`: at once, where they are whole and their sum is exact in float64."""
    numbers = numbers.cpu()
    whole = bool((numbers == numbers.round()).all()) and float(numbers.double().abs().sum()) < 2.0**53
    total.add_all([float(numbers.double().sum())] if whole else numbers.tolist())

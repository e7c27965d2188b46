"""Integers modulo a power of two: a whole update as one vector of them, and the sum of many split again.

A client's integers are signed, at most `largest` in absolute value.  Their sum over clients is at most
`clients * largest`, plus what noise adds to it; modulo `2^bits` it is unambiguous if that is below `2^(bits - 1)`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Tensor

from headway.core.errors import ConfigError

MOST_BITS = 62  # so that the sums of residues of up to two vectors fit in int64
FRACTION = 30  # bits after the point of a weight or a sum
MOST_NUMBER = 2.0**31  # of a weight or a sum, so that it fits in 62 bits
TAIL = 60 * math.log(2)  # the noise of a coordinate leaves its tail with a probability of at most 2^-59


def noise_tail(variance: float) -> int:
    """How far from 0 the noise of a sum lies at most, but for a probability of 2^-59 for each coordinate.

    Formula: `t = L / 3 + sqrt(L^2 / 9 + 2 L v)` with `P(|X| >= t) <= 2 exp(-t^2 / (2 (v + t / 3)))` and
    `L = 60 log 2`: Bernstein's inequality, which holds for a Skellam (and a Gaussian) variable of variance v.

    >>> noise_tail(0.0), noise_tail(1e6)
    (0, 9135)
    """
    return math.ceil(TAIL / 3 + math.sqrt(TAIL * TAIL / 9 + 2 * TAIL * variance)) if variance > 0 else 0


def ring_bits(clients: int, largest: int, variance: float = 0.0) -> int:
    """The fewest bits b for which a sum modulo `2^b` is unambiguous: `2 (clients * largest + tail) < 2^b`.

    clients: how many integers are added at most.  largest: the largest absolute value of one client's integers.
    variance: that of the noise of one client on each integer.

    >>> ring_bits(clients=100, largest=2**15 - 1)
    23
    """
    return (2 * (clients * largest + noise_tail(clients * variance))).bit_length()


def residues(numbers: Tensor, bits: int) -> Tensor:
    """Integers modulo `2^bits`, in `[0, 2^bits)`.

    >>> residues(torch.tensor([-1, 5, 9]), 3).tolist()
    [7, 5, 1]
    """
    return numbers & ((1 << bits) - 1)


def centred(numbers: Tensor, bits: int) -> Tensor:
    """The integers of `[-2^(bits - 1), 2^(bits - 1))` that are these modulo `2^bits`.

    >>> centred(torch.tensor([7, 5, 1, -9]), 3).tolist()
    [-1, -3, 1, -1]
    """
    half = 1 << (bits - 1)
    return ((numbers + half) & ((1 << bits) - 1)) - half


@dataclass(frozen=True)
class RingLayout:
    """The place of each part of an update in one vector of integers modulo `2^bits`.

    lengths: how many integers each vector has, by name, in this order.
    bits: b, of `ring_bits`, which makes the sum unambiguous.  largest: the largest absolute value of an integer.
    numbers: the largest absolute value of the weight and of each additive sum, by name, in this order after the
    vectors.  A number has 30 bits after the point and as many before as its largest value needs; it is cut
    into pieces of at most `largest`, each a coordinate of its own, so that it takes no larger modulus than the vectors.
    Whole numbers are exact.

    Raises:
        ConfigError: for more than 62 bits, integers of half the modulus or more, or a number without a largest value.

    >>> layout = RingLayout({"delta": 3}, bits=8, largest=15, numbers={"weight": 2.0})
    >>> one = layout.join({"delta": torch.tensor([-15, 0, 7])}, {"weight": torch.tensor(1.5)})
    >>> vectors, numbers = layout.split(one + one)
    >>> vectors["delta"].tolist(), float(numbers["weight"])
    ([-30, 0, 14], 3.0)
    """

    lengths: Mapping[str, int]
    bits: int
    largest: int
    numbers: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not 1 <= self.largest < 1 << (self.bits - 1) or self.bits > MOST_BITS:
            raise ConfigError(
                f"a ring needs 2 to {MOST_BITS} bits and integers below half of its modulus, found integers of up to "
                f"{self.largest} in {self.bits} bits: quantise to fewer bits, or ask fewer clients in a round."
            )
        for name, most in self.numbers.items():
            if not 0 < most <= MOST_NUMBER:
                raise ConfigError(f"{name!r} must have a largest value of up to {MOST_NUMBER:g}, found {most:g}.")

    @cached_property
    def size(self) -> int:
        """How many integers the whole update has."""
        return sum(self.lengths.values()) + sum(self.pieces.values())

    @cached_property
    def width(self) -> int:
        """How many bits a piece of a number has."""
        return (self.largest + 1).bit_length() - 1

    @cached_property
    def pieces(self) -> dict[str, int]:
        """In how many pieces each number is cut."""
        return {
            name: -(-(math.ceil(most).bit_length() + FRACTION) // self.width) for name, most in self.numbers.items()
        }

    def join(self, vectors: Mapping[str, Tensor], numbers: Mapping[str, Tensor]) -> Tensor:
        """The vectors `[..., n]` and the numbers `[...]` of a client as residues, int64 `[..., size]`.

        Raises:
            ConfigError: for other parts than the layout has, or numbers above their largest value.
        """
        if vectors.keys() != self.lengths.keys() or numbers.keys() != self.numbers.keys():
            raise ConfigError(
                f"the ring holds {', '.join((*self.lengths, *self.numbers))}, found {', '.join((*vectors, *numbers))}."
            )
        parts = [vectors[name] for name in self.lengths]
        for name, part in vectors.items():
            if part.shape[-1] != self.lengths[name] or part.is_floating_point():
                raise ConfigError(
                    f"{name!r} must be {self.lengths[name]} integers, found {part.dtype} of shape {tuple(part.shape)}."
                )
        parts += [self._cut(name, numbers[name]) for name in self.numbers]
        return torch.cat(parts, dim=-1).bitwise_and_((1 << self.bits) - 1)

    def split(self, total: Tensor) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """The vectors, signed integers, and the numbers, float64, of a sum `[size]` of joined updates.

        Raises:
            ConfigError: for a vector of another length.
        """
        if total.shape[-1] != self.size:
            raise ConfigError(f"the sum must have {self.size} integers, found {total.shape[-1]}.")
        counts = {**self.lengths, **self.pieces}
        parts = dict(zip(counts, centred(total, self.bits).split(list(counts.values()), dim=-1), strict=True))
        return {n: parts[n] for n in self.lengths}, {n: self._whole(parts[n]) for n in self.numbers}

    def _cut(self, name: str, number: Tensor) -> Tensor:
        """A number `[...]` in signed pieces `[..., pieces]`, the lowest first."""
        most = self.numbers[name]
        if not bool((number.abs() <= most).all()):  # a NaN is not below either
            raise ConfigError(f"{name!r} must be at most {most:g} in absolute value, found {number.tolist()}.")
        units = torch.round(number.double() * 2.0**FRACTION).to(torch.int64).unsqueeze(-1)
        places = torch.arange(self.pieces[name], device=number.device) * self.width
        return units.sign() * (units.abs() >> places & ((1 << self.width) - 1))

    def _whole(self, pieces: Tensor) -> Tensor:
        """The number of (sums of) pieces `[..., pieces]`: exact while it has at most 53 bits."""
        units = [
            sum(int(piece) << (place * self.width) for place, piece in enumerate(row))
            for row in pieces.reshape(-1, pieces.shape[-1]).tolist()
        ]
        numbers = [math.ldexp(float(unit), -FRACTION) for unit in units]
        return torch.tensor(numbers, dtype=torch.float64).reshape(pieces.shape[:-1])

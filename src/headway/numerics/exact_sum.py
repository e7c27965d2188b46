"""Sums that do not depend on the order of their terms.

Floating-point addition rounds, so a sum depends on the order of arrival and on how workers merged.  Here a
float64 term is split, without loss, onto fixed bins of 32 bits:

    x = sum_k q_k 2^(32 k),   q_k an integer,   |q_k| <= 2^32

Each bin holds the sum of its integers (as integers below 2^53, which float64 adds exactly), so adding and
merging are integer additions: associative, commutative, exact.  `value` brings the bins to their one
canonical form and rounds once.  The idea is that of binned (reproducible) summation; see Ahrens, Demmel
and Nguyen, "Algorithms for efficient reproducible floating point summation", ACM TOMS 46 (2020).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from headway.core.errors import HeadwayError

BITS = 32
LOWEST = -34  # its unit is below the smallest float64, 2^-1074: nothing is left after it
LARGEST = 2.0**896  # far above any weight times delta, and small enough for the rounding trick
BLOCK = 2**15  # coordinates that are split at a time, so that they stay in a core's cache
CAPACITY = 2**20  # terms of at most 2^32 each before a bin could pass 2^53 and must be carried


class ExactSum:
    """The exact sum of float64 vectors, in any order and any tree of merging.

    Shapes: every term `[n]` (any shape, the same for all).  Memory: 8 bytes per coordinate and bin; a bin
    exists once a term reaches it (3 or 4 for the updates of one round).

    >>> a, b = ExactSum(), ExactSum()
    >>> for x in (1e16, 1.0, -1e16): a.add(torch.tensor([x]))
    >>> for x in (-1e16, 1e16): b.add(torch.tensor([x]))
    >>> a.merge(b); a.value()
    tensor([1.], dtype=torch.float64)
    """

    def __init__(self, bins: Mapping[int, Tensor] | None = None, terms: int = 0) -> None:
        self.bins: dict[int, Tensor] = dict(bins or {})
        self.terms = terms

    def add(self, term: Tensor) -> None:
        """Adds one term; the term is not changed.

        Raises:
            HeadwayError: if it holds NaN, infinity, or a magnitude above 2^896.
        """
        flat = term.reshape(-1)
        if not (largest := _at_most(flat.double())) < LARGEST:
            raise HeadwayError(f"an exact sum needs finite terms below 2^896, found a magnitude of {largest:g}.")
        self._reserve(1)
        self._bin_for_shape(term)
        for start in range(0, len(flat), BLOCK):
            self._add_block(flat[start : start + BLOCK].to(torch.float64, copy=True), start)

    def _add_block(self, rest: Tensor, start: int) -> None:
        """Adds some coordinates, which are written over."""
        largest = _at_most(rest)
        k = math.frexp(largest)[1] // BITS + 1
        while largest > 0.0:
            # rounding to the nearest multiple left at most half a unit, so the next bin is lower
            k = max(min((math.frexp(largest)[1] - 1) // BITS, k - 1), LOWEST)
            part = _round_to_bin(rest, k)
            rest -= part
            self._bin(k).view(-1)[start : start + len(part)] += part
            largest = _at_most(rest)

    def merge(self, other: ExactSum) -> None:
        """Adds all that another sum holds; the other is not changed."""
        self._reserve(other.terms)
        for k, held in other.bins.items():
            if k in self.bins:
                self.bins[k] += held
            else:
                self.bins[k] = held.clone()

    def value(self) -> Tensor:
        """The sum, rounded to float64 (within one unit in the last place of the exact real number).

        Raises:
            HeadwayError: if nothing was added, so that not even the shape is known.
        """
        if not self.bins:
            raise HeadwayError("an exact sum of no terms has no shape; add a term first.")
        canonical = _carry(self.bins)
        total: Tensor | None = None
        for k in sorted(canonical, reverse=True):
            total = canonical[k].clone() if total is None else total + canonical[k]
        assert total is not None
        return total

    def digits(self) -> dict[int, Tensor]:
        """The sum as whole numbers of each bin's unit, without rounding: int32 that hold 32 bits without a sign, and of
        the highest bin as few bits as it needs.

        >>> total = ExactSum()
        >>> total.add(torch.tensor([1.0, -0.5])); {k: (each.dtype, each.tolist()) for k, each in total.digits().items()}
        {-1: (torch.int32, [0, -2147483648]), 0: (torch.int8, [1, -1])}
        """
        if not self.bins:
            return {}
        canonical = _carry(self.bins)
        top = max(canonical)
        lower = {k: held for k, held in sorted(canonical.items()) if k != top and bool(held.any())}
        found = {k: _whole(held, k).to(torch.int32) for k, held in lower.items()}
        return {**found, top: _narrow(_whole(canonical[top], top))}

    @classmethod
    def of_digits(cls, digits: Mapping[int, Tensor]) -> ExactSum:
        """The sum that `digits` gave.

        Raises:
            HeadwayError: for a highest bin with numbers beyond 2^32, which none has.
        """
        top = max(digits)
        wide = {k: held.to(torch.int64) for k, held in digits.items()}
        if bool((wide[top] > 1 << 32).any()) or bool((wide[top] < -(1 << 32)).any()):
            raise HeadwayError("the highest bin of an exact sum holds numbers beyond 2^32.")
        bins = {k: _scaled((held if k == top else held & 0xFFFFFFFF).double(), _unit(k)) for k, held in wide.items()}
        return cls(bins, 2)

    def _reserve(self, terms: int) -> None:
        """Carries between bins before `terms` more could make an integer inexact."""
        if self.terms + terms > CAPACITY:
            self.bins = _carry(self.bins) if self.bins else {}
            self.terms = 1
        self.terms += terms

    def _bin_for_shape(self, like: Tensor) -> None:
        if not self.bins:
            self.bins[0] = torch.zeros(like.shape, dtype=torch.float64)

    def _bin(self, k: int) -> Tensor:
        if k not in self.bins:
            self.bins[k] = torch.zeros_like(next(iter(self.bins.values())))
        return self.bins[k]


class ExactScalar:
    """The exact sum of Python floats, as one big integer in units of 2^-1074.

    >>> total = ExactScalar()
    >>> for x in (1e300, 1.0, -1e300): total.add(x)
    >>> total.value()
    1.0
    """

    def __init__(self, units: int = 0) -> None:
        self.units = units

    def add(self, term: float) -> None:
        """Adds one finite term.

        Raises:
            HeadwayError: if it is NaN or infinite.
        """
        self.add_all((term,))

    def add_all(self, terms: Iterable[float]) -> None:
        """Adds finite terms.

        Raises:
            HeadwayError: if one is NaN or infinite.
        """
        for term in terms:
            if not math.isfinite(term):
                raise HeadwayError(f"an exact sum needs finite terms, found {term}.")
            numerator, denominator = float(term).as_integer_ratio()
            self.units += (numerator << 1074) // denominator

    def merge(self, other: ExactScalar) -> None:
        """Adds all that another sum holds."""
        self.units += other.units

    def value(self) -> float:
        """The sum, correctly rounded; infinite where it is beyond float64."""
        try:
            return self.units / (1 << 1074)
        except OverflowError:
            return math.inf if self.units > 0 else -math.inf


def _at_most(x: Tensor) -> float:
    """An upper limit of the absolute values that is zero only if all are: the L2 norm, which costs one pass."""
    squares = float(torch.dot(x.reshape(-1), x.reshape(-1)))
    if not 1e-290 < squares < 1e290:  # something under- or overflowed, or is not finite
        return _magnitude(x)
    return math.sqrt(squares) * 1.000001


def _magnitude(x: Tensor) -> float:
    """The largest absolute value, NaN if any is NaN, 0 for an empty tensor."""
    if x.numel() == 0:
        return 0.0
    low, high = torch.aminmax(x)
    bounds = (abs(low.item()), abs(high.item()))
    return math.nan if math.isnan(bounds[0]) else max(bounds)


def _round_to_bin(x: Tensor, k: int) -> Tensor:
    """The nearest multiple of 2^(32 k), exactly: adding 1.5 * 2^52 units rounds the lower bits away."""
    if k <= LOWEST:
        return x.clone()
    magic = 1.5 * 2.0 ** (52 + BITS * k)
    return (x + magic).sub_(magic)


def _unit(k: int) -> int:
    """The exponent of a bin's unit; the lowest one holds what is left, down to the smallest float64."""
    return max(BITS * k, -1074)


def _scaled(x: Tensor, exponent: int) -> Tensor:
    """x times a power of two, in two steps, neither of which over- or underflows."""
    half = exponent // 2
    return (x * 2.0**half) * 2.0 ** (exponent - half)


def _whole(held: Tensor, k: int) -> Tensor:
    """A bin as whole numbers of its unit, int64."""
    return _scaled(held, -_unit(k)).to(torch.int64)


def _narrow(numbers: Tensor) -> Tensor:
    """Whole numbers in as few bits as hold them."""
    most = int(numbers.abs().max()) if numbers.numel() else 0
    fits = (dtype for dtype in (torch.int8, torch.int16, torch.int32) if most <= torch.iinfo(dtype).max)
    return numbers.to(next(fits, torch.int64))


def _carry(bins: Mapping[int, Tensor]) -> dict[int, Tensor]:
    """The canonical bins of the same number: every integer but the top one in `[0, 2^32)`."""
    result: dict[int, Tensor] = {}
    carry: Tensor | None = None
    k, top = min(bins), max(bins)
    while k <= top or (carry is not None and bool((carry != 0).any())):
        held = bins.get(k)
        if held is None:
            held = carry if carry is not None else torch.zeros_like(next(iter(bins.values())))
        elif carry is not None:
            held = held + carry
        if k >= top and float(_magnitude(held)) < 2.0 ** (BITS * (k + 1)):
            result[k] = held
            return result
        unit = 2.0 ** (BITS * (k + 1))
        carry = torch.floor(held / unit) * unit
        result[k] = held - carry
        k += 1
    return result

"""Axes: the place of a value on a picture, and the values that label the axis."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TypeVar

T = TypeVar("T")
MOST_POINTS = 400  # of one line; more cannot be distinguished on a screen


@dataclass(frozen=True)
class Axis:
    """Values `low` to `high` at the places `start` to `end`, in pixels; by their logarithm if so."""

    low: float
    high: float
    start: float
    end: float
    log: bool = False

    def at(self, value: float) -> float:
        """The place of a value, to a tenth of a pixel; what lies outside is put on the border."""
        low, high, inside = self.low, self.high, min(max(value, self.low), self.high)
        if self.log:
            low, high, inside = math.log10(low), math.log10(high), math.log10(inside)
        return round(self.start + (self.end - self.start) * (inside - low) / (high - low), 1)

    def ticks(self, about: int = 5, whole: bool = False) -> list[float]:
        """Round values between `low` and `high`; whole numbers where nothing lies between them.

        >>> Axis(0.0, 1.0, 0, 100).ticks()
        [0.0, 0.2, 0.4, 0.6, 0.8, 1.0]
        >>> Axis(0.5, 300.0, 0, 100, log=True).ticks()
        [1.0, 10.0, 100.0]
        >>> Axis(1.0, 3.0, 0, 100).ticks(whole=True)
        [1.0, 2.0, 3.0]
        """
        if self.log:
            decades = range(math.ceil(math.log10(self.low) - 1e-9), math.floor(math.log10(self.high) + 1e-9) + 1)
            every = -(-len(decades) // 6) if decades else 1
            return [10.0**power for power in decades][::every]
        step = max(nice_step((self.high - self.low) / about), 1.0 if whole else 0.0)
        first = math.ceil(self.low / step - 1e-9)
        last = math.floor(self.high / step + 1e-9)
        return [round(count * step, 12) for count in range(first, last + 1)]


def nice_step(least: float) -> float:
    """The smallest of 1, 2 or 5 times a power of ten that is not below `least`.

    >>> nice_step(0.13), nice_step(3.0)
    (0.2, 5.0)
    """
    power = 10.0 ** math.floor(math.log10(least))
    return next((step * power for step in (1, 2, 5) if step * power >= least * (1 - 1e-9)), 10 * power)


def axis(values: Iterable[float], start: float, end: float, *, room: float = 0.04, log: bool = False) -> Axis:
    """An axis on which all finite values lie, with some room at its ends; from 0 to 1 where there are none.

    A logarithm is taken only of positive values that span more than two decades.
    """
    known = [value for value in values if math.isfinite(value)]
    low, high = (min(known), max(known)) if known else (0.0, 1.0)
    if log and low > 0 and high / low > 100:
        return Axis(low / 1.2, high * 1.2, start, end, log=True)
    if not high - low > 1e-9 * max(abs(low), abs(high)):
        low, high = low - max(abs(low), 1.0) * 0.05, high + max(abs(high), 1.0) * 0.05
    spare = (high - low) * room
    return Axis(low - spare, high + spare, start, end)


def tick_text(value: float) -> str:
    """A short number for an axis.

    >>> tick_text(0.30000000000000004), tick_text(100.0), tick_text(2e6)
    ('0.3', '100', '2e+06')
    """
    return f"{value:.4g}"


def thinned(items: Sequence[T], most: int) -> Sequence[T]:
    """At most so many of them, evenly spread, with the first and the last.

    >>> thinned([0, 1, 2, 3, 4, 5, 6], 3)
    [0, 3, 6]
    """
    if len(items) <= most:
        return items
    return [items[round(place * (len(items) - 1) / (most - 1))] for place in range(most)]


def apart(values: Sequence[float], gap: float, low: float, high: float) -> list[float]:
    """Ascending places moved until neighbours stand `gap` apart, between `low` and `high` where there is room.

    >>> apart([1.0, 1.0, 5.0], 2.0, 0.0, 10.0)
    [1.0, 3.0, 5.0]
    >>> apart([9.0, 9.5], 2.0, 0.0, 10.0)
    [8.0, 10.0]
    """
    placed: list[float] = []
    for value in values:
        placed.append(max(value, placed[-1] + gap) if placed else max(value, low))
    limit = high
    for place in range(len(placed) - 1, -1, -1):
        placed[place] = min(placed[place], limit)
        limit = placed[place] - gap
    return placed


Text = Callable[[float], str]

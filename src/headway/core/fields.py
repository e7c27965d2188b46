"""The range of a number, as part of its field: checked when a stage, trainer or sampler is made, printed in its page.

    mu: float = at_least(0, 0.01)
    share: float = between(0, 1, 0.5, without=0)

A choice among texts is a `Literal` type.  A field without a default is one that must be given.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Any

from headway.core.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Range:
    """An interval; `without` is an end that does not belong to it.

    >>> str(Range(0.0, 1.0, without=0.0)), str(Range(0.0)), 1.0 in Range(0.0, 1.0, without=1.0)
    ('above 0 and at most 1', 'at least 0', False)
    """

    low: float
    high: float = math.inf
    without: float | None = None
    unit: str = ""

    def __contains__(self, number: float) -> bool:
        return self.low <= number <= self.high and number != self.without

    def __str__(self) -> str:
        low = f"{'above' if self.without == self.low else 'at least'} {self.low:g}"
        if self.high == math.inf:
            return f"{low} {self.unit}".rstrip()
        if self.without is None:
            return f"between {self.low:g} and {self.high:g}"
        return f"{low} and {'below' if self.without == self.high else 'at most'} {self.high:g}"


def at_least(low: float, default: Any = dataclasses.MISSING, **options: Any) -> Any:
    """A field whose number is `low` or more."""
    return _ranged(Range(low), default, **options)


def positive(default: Any = dataclasses.MISSING, *, unit: str = "", **options: Any) -> Any:
    """A field whose number is above 0."""
    return _ranged(Range(0, without=0, unit=unit), default, **options)


def between(
    low: float, high: float, default: Any = dataclasses.MISSING, *, without: float | None = None, **options: Any
) -> Any:
    """A field whose number is in `[low, high]`, but for the end `without`."""
    return _ranged(Range(low, high, without), default, **options)


def _ranged(
    range_: Range,
    default: Any,
    *,
    infinite: bool = False,
    hint: str = "",
    only_with: tuple[str, Any] | None = None,
) -> Any:
    """infinite: whether the number may be infinite.  hint: a sentence that is added to the refusal of a wrong type.
    only_with: another field and its value with which this number must be given, and without which it must not."""
    metadata = {"range": range_, "infinite": infinite, "only_with": only_with, **({"hint": hint} if hint else {})}
    return dataclasses.field(default=default, metadata=metadata)


def check_numbers(thing: Any) -> None:
    """Refuses a number of a dataclass that is not finite, where its field does not allow that, out of range, or given
    with another choice than it belongs to.

    Raises:
        ConfigError: naming the field, what was needed and what was found.
    """
    for field in dataclasses.fields(thing):
        value, wanted = getattr(thing, field.name), field.metadata.get("range")
        if (condition := field.metadata.get("only_with")) is not None:
            other, option = condition
            if (getattr(thing, other) == option) != (value is not None):
                name = type(thing).__name__
                raise ConfigError(
                    f"{name} needs {field.name} with {other}={option!r} and none otherwise, found {thing}."
                )
        may_be = math.isinf if field.metadata.get("infinite") else math.isfinite
        for number in value if isinstance(value, tuple) else (value,):
            if isinstance(number, bool) or not isinstance(number, (int, float)):
                continue
            if not (math.isfinite(number) or may_be(number)):
                raise ConfigError(f"{type(thing).__name__}.{field.name} must be a finite number, found {number}.")
            if wanted is not None and number not in wanted:
                raise ConfigError(f"{type(thing).__name__}.{field.name} must be {wanted}, found {number}.")

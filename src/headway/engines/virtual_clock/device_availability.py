"""The times at which the clients of a simulated federation are available."""

from __future__ import annotations

import csv
import math
from abc import ABC, abstractmethod
from bisect import bisect_right
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from statistics import NormalDist
from typing import ClassVar, final

from headway.core import stopping
from headway.core.errors import ConfigError, DataError, nearest
from headway.core.registry import Plain, Registry
from headway.numerics.keys import Key

availabilities: Registry[Availability] = Registry("availability", "headway.availabilities")
HORIZON_S = 10 * 365 * 86_400.0  # beyond which no client is waited for

Window = tuple[float, float]


@dataclass(frozen=True)
class Availability(Plain, ABC):
    """The times at which clients are available, in seconds of the simulated clock."""

    registry: ClassVar[Registry[Availability]] = availabilities

    @abstractmethod
    def window(self, client: str, key: Key, at: float) -> Window | None:
        """The first time from `start` to `stop` in which the client is there, with `stop` after `at`.

        key: the client's own.  `None` if it is never there again.
        """

    def check(self, clients: Iterable[str]) -> None:
        """Refuses a population that it knows nothing of."""


@final
@availabilities.register
@dataclass(frozen=True)
class Always(Availability):
    """Everybody, all the time.

    >>> Always().window("a", Key.root(0), 5.0)
    (0.0, inf)
    """

    def window(self, client: str, key: Key, at: float) -> Window:
        """All of time."""
        return 0.0, math.inf


@final
@availabilities.register
@dataclass(frozen=True)
class Bernoulli(Availability):
    """Each client is there with a probability, drawn anew for every interval.

    share: the probability.  every_s: seconds of an interval.

    Raises:
        ConfigError: unless 0 <= share <= 1 and every_s > 0.
    """

    share: float = 0.5
    every_s: float = 600.0

    def __post_init__(self) -> None:
        if not 0 <= self.share <= 1 or not 0 < self.every_s < math.inf:
            raise ConfigError(f"Bernoulli needs 0 <= share <= 1 and every_s above 0, found {self!r}.")

    def window(self, client: str, key: Key, at: float) -> Window | None:
        """The first interval in which the client is there, with those that follow at once."""
        if self.share in (0.0, 1.0):
            return (0.0, math.inf) if self.share else None
        first = int(at // self.every_s)
        while (first + 1) * self.every_s <= at:  # rounding may be off by an interval
            first += 1
        last = int((at + HORIZON_S) // self.every_s)
        start = next((number for number in range(first, last) if self._there(key, number)), None)
        if start is None:
            return None
        stop = start + 1
        while self._there(key, stop):
            stop += 1
        return start * self.every_s, stop * self.every_s

    def _there(self, key: Key, number: int) -> bool:
        stopping.check()  # a small share is looked for in very many intervals
        return key.derive("there", number).unit() < self.share


@final
@availabilities.register
@dataclass(frozen=True)
class Diurnal(Availability):
    """Each client is there for some hours of every day, as a phone is that charges at night.

    hours: for so long.  begins: the hour of the day at which that starts, on average; spread: its standard deviation
    over clients, whose hour is the same every day.  The clock starts at midnight.

    Raises:
        ConfigError: unless 0 < hours <= 24 and spread >= 0.
    """

    hours: float = 8.0
    begins: float = 22.0
    spread: float = 2.0

    def __post_init__(self) -> None:
        if not 0 < self.hours <= 24 or not 0 <= self.spread < math.inf or not math.isfinite(self.begins):
            raise ConfigError(f"Diurnal needs 0 < hours <= 24 and spread at least 0, found {self!r}.")

    def window(self, client: str, key: Key, at: float) -> Window:
        """Today's, tomorrow's, or what is left of yesterday's."""
        if self.hours == 24:
            return 0.0, math.inf
        start = 3600 * ((self.begins + self.spread * normal(key.derive("begins"))) % 24)
        length = 3600 * self.hours
        day = math.floor((at - start - length) / 86_400)
        while (stop := start + day * 86_400 + length) <= at:  # rounding may be off by a day
            day += 1
        return start + day * 86_400, stop


@final
@availabilities.register
@dataclass(frozen=True)
class Charging(Availability):
    """Each client is there while its battery is full enough; it is plugged in for some hours of every day.

    So it is there from some time after it is plugged in until some time after it is unplugged.

    hours, begins, spread: when clients are plugged in, as in `Diurnal`.  fills_h: hours in which an empty battery is
    full; lasts_h: hours that a full one lasts.  least: the share of a full battery from which a client trains.  What
    training itself takes from the battery is not counted.

    Raises:
        ConfigError: for hours that are not in a day, times that are not above 0, or a share beyond 0 to 1.
    """

    hours: float = 8.0
    begins: float = 22.0
    spread: float = 2.0
    fills_h: float = 2.0
    lasts_h: float = 20.0
    least: float = 0.5

    def __post_init__(self) -> None:
        if not 0 < self.hours < 24 or not 0 <= self.spread < math.inf or not math.isfinite(self.begins):
            raise ConfigError(f"Charging needs 0 < hours < 24 and spread at least 0, found {self!r}.")
        if not 0 < self.fills_h < math.inf or not 0 < self.lasts_h < math.inf or not 0 <= self.least <= 1:
            raise ConfigError(f"Charging needs fills_h and lasts_h above 0 and 0 <= least <= 1, found {self!r}.")

    @property
    def charge(self) -> tuple[float, float]:
        """The charge when a client is plugged in and when it is unplugged, as they are day after day."""
        gained, lost = self.hours / self.fills_h, (24 - self.hours) / self.lasts_h
        if gained >= lost:  # it is full at some time of the day
            return max(1 - lost, 0.0), min(max(1 - lost, 0.0) + gained, 1.0)
        return 0.0, min(gained, 1.0)  # it is empty at some time of the day

    def window(self, client: str, key: Key, at: float) -> Window | None:
        """The part of a day in which the battery is full enough."""
        plugged, unplugged = self.charge
        if plugged >= self.least:  # all day long
            return 0.0, math.inf
        late = (self.least - plugged) * self.fills_h
        there = self.hours - late + (unplugged - self.least) * self.lasts_h
        if unplugged < self.least or there <= 0:
            return None
        return Diurnal(there, self.begins + late, self.spread).window(client, key, at)


@final
@availabilities.register
@dataclass(frozen=True)
class Trace(Availability):
    """Availability from a file: CSV with the columns client, start_s and stop_s, a row for each window.

    repeat_s: the trace begins again after so many seconds; without it, no client is available after its last window.

    Raises:
        ConfigError: for a repetition shorter than the trace; when the engine opens, if a client is not in the file.
        DataError: if the file cannot be read, or a client's windows overlap, run backwards or begin before 0.
    """

    file: str = ""
    repeat_s: float | None = None

    def __post_init__(self) -> None:
        if not self.file:
            raise ConfigError('Trace needs a file of windows: file = "windows.csv".')
        last = max(windows[-1][1] for windows in _windows(self.file).values())
        if self.repeat_s is not None and not last <= self.repeat_s < math.inf:
            raise ConfigError(
                f"Trace.repeat_s is {self.repeat_s:g}, but {self.file} has a window that ends at {last:g}."
            )

    def check(self, clients: Iterable[str]) -> None:
        """Refuses a population with a client that has no window."""
        known = _windows(self.file)
        missing = next((client for client in clients if client not in known), None)
        if missing is not None:
            raise ConfigError(
                f"the trace {self.file} has no window of the client {missing!r}"
                f"{nearest(missing, sorted(known)[:10_000])}: give each client at least one."
            )

    def window(self, client: str, key: Key, at: float) -> Window | None:
        """The next one in the file."""
        windows, again = _windows(self.file)[client], self.repeat_s
        shift = 0.0 if again is None else again * math.floor(at / again)
        for offset in (shift, shift + (again or 0.0)):
            place = bisect_right(windows, at, key=lambda window: window[1] + offset)
            if place < len(windows):
                return windows[place][0] + offset, windows[place][1] + offset
        return None


def normal(key: Key) -> float:
    """A standard normal number."""
    return NormalDist().inv_cdf(min(max(float(key.uniform(1)), 1e-16), 1 - 1e-16))


@lru_cache(maxsize=8)
def _windows(path: str) -> dict[str, list[Window]]:
    """Each client's windows in a file, in order.

    Raises:
        DataError: see `Trace`.
    """
    found: dict[str, list[Window]] = {}
    try:
        with Path(path).open(newline="", encoding="utf-8") as file:
            rows = csv.DictReader(file)
            if missing := {"client", "start_s", "stop_s"} - set(rows.fieldnames or ()):
                raise DataError(
                    f"{path} has no column {sorted(missing)[0]!r}: a trace needs client, start_s and stop_s."
                )
            for row in rows:
                start, stop = float(row["start_s"]), float(row["stop_s"])
                before = found.setdefault(row["client"], [])
                _check_window(path, rows.line_num, row["client"], (start, stop), before)
                before.append((start, stop))
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"the trace {path} cannot be read: {error}.") from error
    except (TypeError, ValueError) as error:
        raise DataError(f"{path}, line {rows.line_num}: start_s and stop_s must be numbers ({error}).") from error
    if not found:
        raise DataError(f"the trace {path} has no window.")
    return found


def _check_window(path: str, line: int, client: str, window: Window, before: list[Window]) -> None:
    start, stop = window
    if not 0 <= start < stop < math.inf:
        raise DataError(
            f"{path}, line {line}: the window of {client} is from {start:g} to {stop:g}; it must begin at 0 or later, "
            "and end after that."
        )
    if before and start < before[-1][1]:
        raise DataError(
            f"{path}, line {line}: the window of {client} from {start:g} begins before the last one ends, at "
            f"{before[-1][1]:g}: a client's windows must follow each other."
        )

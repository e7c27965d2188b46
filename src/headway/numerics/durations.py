"""Stretches of time, as a command line and a reader say them."""

from __future__ import annotations

import math
import re

from headway.core.errors import ConfigError

UNITS = {"s": 1, "min": 60, "h": 3600, "d": 86_400}


def seconds_of(said: str, where: str) -> float:
    """The seconds of a number, or of a text such as "2h" or "1 h 30 min".

    Raises:
        ConfigError: saying `where`, for any other text, and unless it is above 0 seconds.

    >>> seconds_of("90", "time"), seconds_of("1.5min", "time"), seconds_of("1 h 30 min", "time")
    (90.0, 90.0, 5400.0)
    """
    parts = re.findall(r"(\d+(?:\.\d+)?)\s*([a-z]*)\s*", said)
    whole = "".join(number + unit for number, unit in parts) == re.sub(r"\s", "", said)
    seconds = 0.0
    if whole and (len(parts) == 1 or all(unit for _, unit in parts)) and all((u or "s") in UNITS for _, u in parts):
        seconds = sum(float(number) * UNITS[unit or "s"] for number, unit in parts)
    if not 0 < seconds < float("inf"):
        raise ConfigError(
            f'{where} must be a time above 0, in seconds or such as "2h", "30min" or "1d" (units: {", ".join(UNITS)}), '
            f"found {said!r}."
        )
    return seconds


def time_text(seconds: float | None) -> str:
    """A stretch of time in words, its two largest units; a dash where there is none.

    >>> time_text(7.25), time_text(90.0), time_text(7200.0), time_text(200_000.0), time_text(None)
    ('7.25 s', '1 min 30 s', '2 h', '2 d 7 h', '-')
    """
    if seconds is None or math.isnan(seconds):
        return "-"
    whole = round(seconds)
    for large, small in (("d", "h"), ("h", "min"), ("min", "s")):
        if whole >= UNITS[large]:
            rest = whole % UNITS[large] // UNITS[small]
            return f"{whole // UNITS[large]} {large}" + (f" {rest} {small}" if rest else "")
    return f"{seconds:.3g} s"

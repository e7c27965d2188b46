"""Durations and numbers of bytes as texts: read from run files and command lines, written for readers."""

from __future__ import annotations

import math
import re

from headway.core.errors import ConfigError

SECONDS = {"s": 1, "min": 60, "h": 3600, "d": 86_400}
BYTES = {"B": 1, "kB": 10**3, "MB": 10**6, "GB": 10**9, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30}


def seconds_of(given: str, where: str) -> float:
    """The seconds of a number, or of a text such as "2h" or "1 h 30 min".

    Raises:
        ConfigError: naming `where`: for any other text, and unless it is above 0 seconds.

    >>> seconds_of("90", "time"), seconds_of("1.5min", "time"), seconds_of("1 h 30 min", "time")
    (90.0, 90.0, 5400.0)
    """
    parts = re.findall(r"(\d+(?:\.\d+)?)\s*([a-z]*)\s*", given)
    whole = "".join(number + unit for number, unit in parts) == re.sub(r"\s", "", given)
    seconds = 0.0
    if whole and (len(parts) == 1 or all(unit for _, unit in parts)) and all((u or "s") in SECONDS for _, u in parts):
        seconds = sum(float(number) * SECONDS[unit or "s"] for number, unit in parts)
    if not 0 < seconds < float("inf"):
        raise ConfigError(
            f'{where} must be a time above 0, in seconds or such as "2h", "30min" or "1d" (units: '
            f"{', '.join(SECONDS)}), found {given!r}."
        )
    return seconds


def time_text(seconds: float | None) -> str:
    """A duration in words, its two largest units; a dash where there is none.

    >>> time_text(7.25), time_text(90.0), time_text(7200.0), time_text(200_000.0), time_text(None)
    ('7.25 s', '1 min 30 s', '2 h', '2 d 7 h', '-')
    """
    if seconds is None or math.isnan(seconds):
        return "-"
    whole = round(seconds)
    for large, small in (("d", "h"), ("h", "min"), ("min", "s")):
        if whole >= SECONDS[large]:
            rest = whole % SECONDS[large] // SECONDS[small]
            return f"{whole // SECONDS[large]} {large}" + (f" {rest} {small}" if rest else "")
    return f"{seconds:.3g} s"


def bytes_of(given: int | str, where: str) -> int:
    """The bytes of a whole number, or of a text such as "256 MB".

    Raises:
        ConfigError: naming `where`: for any other text or a number below 1.

    >>> bytes_of("256 MB", "memory"), bytes_of("1.5 KiB", "memory"), bytes_of(64, "memory")
    (256000000, 1536, 64)
    """
    count = 0
    if isinstance(given, int):
        count = given
    elif (match := re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([A-Za-z]*)\s*", given)) and (match[2] or "B") in BYTES:
        count = int(float(match[1]) * BYTES[match[2] or "B"])
    if count < 1:
        raise ConfigError(
            f'{where} must be a number of bytes above 0, such as 256000000 or "256 MB" (units: {", ".join(BYTES)}), '
            f"found {given!r}."
        )
    return count

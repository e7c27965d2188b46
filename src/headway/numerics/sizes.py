"""A number of bytes, as a run file says it."""

from __future__ import annotations

import re

from headway.core.errors import ConfigError

UNITS = {"B": 1, "kB": 10**3, "MB": 10**6, "GB": 10**9, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30}


def bytes_of(said: int | str, where: str) -> int:
    """The bytes of a whole number, or of a text such as "256 MB".

    Raises:
        ConfigError: saying `where`, for any other text or a number below 1.

    >>> bytes_of("256 MB", "memory"), bytes_of("1.5 KiB", "memory"), bytes_of(64, "memory")
    (256000000, 1536, 64)
    """
    count = 0
    if isinstance(said, int):
        count = said
    elif (found := re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([A-Za-z]*)\s*", said)) and (found[2] or "B") in UNITS:
        count = int(float(found[1]) * UNITS[found[2] or "B"])
    if count < 1:
        raise ConfigError(
            f'{where} must be a number of bytes above 0, such as 256000000 or "256 MB" (units: {", ".join(UNITS)}), '
            f"found {said!r}."
        )
    return count

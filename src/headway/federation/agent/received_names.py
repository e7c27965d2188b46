"""The names in what a server sends."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from headway.core.errors import ConfigError

MOST_DEPTH = 6  # of tables within tables


def texts_in(value: Any, depth: int = 0) -> Iterator[str]:
    """All texts within tables and lists, as a server sends them.

    Raises:
        ConfigError: for tables within tables, deeper than any that is needed.
    """
    if depth > MOST_DEPTH:
        raise ConfigError(f"the job has tables within tables, {MOST_DEPTH} deep and more.")
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for each in value.values():
            yield from texts_in(each, depth + 1)
    elif isinstance(value, list | tuple):
        for each in value:
            yield from texts_in(each, depth + 1)

"""`--set PATH=VALUE`: changes to a run file from the command line."""

from __future__ import annotations

import tomllib
from collections.abc import Container, Sequence
from typing import Any

from headway.core.errors import ConfigError, nearest


def parse_overrides(
    sets: Sequence[str], own: Container[str]
) -> tuple[list[tuple[list[str], Any]], list[tuple[list[str], Any]]]:
    """The changes to the file's own keys, and those addressed to stages of the chain.

    own: the keys that [algorithm] has itself; `algorithm.X.field` is addressed to the stage X otherwise.

    Raises:
        ConfigError: for a text that is no `path=value`.
    """
    simple: list[tuple[list[str], Any]] = []
    of_stages: list[tuple[list[str], Any]] = []
    for text in sets:
        path, equals, raw = text.partition("=")
        if not equals or not path.strip():
            raise ConfigError(f"--set needs path=value, found {text!r}.")
        try:
            value = tomllib.loads(f"value = {raw}")["value"]
        except tomllib.TOMLDecodeError:
            value = raw
        keys = path.strip().split(".")
        to_stage = keys[0] == "algorithm" and len(keys) == 3 and keys[1] not in own
        (of_stages if to_stage else simple).append((keys, value))
    return simple, of_stages


def put(tables: dict[str, Any], keys: Sequence[str], value: Any) -> None:
    """Puts a value at a path of keys, making the tables on its way.

    Raises:
        ConfigError: if there is a value on the way.
    """
    for depth, key in enumerate(keys[:-1]):
        tables = tables.setdefault(key, {})
        if not isinstance(tables, dict):
            raise ConfigError(f"--set {'.'.join(keys)}: {'.'.join(keys[: depth + 1])} is a value and not a table.")
    tables[keys[-1]] = value


def set_on_stage(tables: list[dict[str, Any]], keys: Sequence[str], value: Any) -> None:
    """Changes a field of a stage in a chain's tables.

    Raises:
        ConfigError: if the chain has no such stage.
    """
    _, stage, field = keys
    matching = [table for table in tables if table["stage"] == stage]
    if not matching:
        names = [table["stage"] for table in tables]
        raise ConfigError(f"--set {'.'.join(keys)}: the chain has no stage {stage!r}{nearest(stage, names)}.")
    matching[0][field] = value

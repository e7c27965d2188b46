"""What the examples of every client of a federation look like: the section [data] that server and agents share."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any, Protocol

from headway.core.errors import ConfigError, HeadwayError
from headway.core.registry import build
from headway.data.sources.array_schema import ArraySchema
from headway.data.sources.source_schema import SourceSchema
from headway.data.sources.table_schema import TableSchema


class DataSchema(Protocol):
    """The form of an example, known before any client has joined."""

    @property
    def input_shape(self) -> tuple[int, ...]:
        """The shape of one input."""
        ...

    @property
    def class_names(self) -> tuple[str, ...]:
        """The names of the classes in order; none for a regression."""
        ...

    @property
    def features(self) -> tuple[str, ...]:
        """The names of the inputs of a table."""
        ...

    def to_config(self) -> dict[str, Any]:
        """The section [data]."""
        ...


def schema_of(section: Mapping[str, Any]) -> DataSchema:
    """The schema that a section [data] states.

    Raises:
        ConfigError: an unknown kind or key, or a value that cannot be.

    >>> schema_of({"kind": "table", "target": "y", "columns": [{"name": "x", "kind": "numeric"}]}).features
    ('x',)
    """
    kinds: dict[str, type[Any]] = {"table": TableSchema, "arrays": ArraySchema}
    kind = section.get("kind", "source" if "source" in section else None)
    if kind != "source" and kind not in kinds:
        raise ConfigError(f'the schema [data] needs kind = "table", "arrays" or "source", found {kind!r}.')
    try:
        made: DataSchema = SourceSchema(section) if kind == "source" else build(kinds[kind], section)
    except HeadwayError as error:
        raise ConfigError(f"the schema [data]: {error}") from error
    return made


def schema_fingerprint(schema: DataSchema) -> str:
    """A digest of all that a schema states, the same on every machine."""
    text = json.dumps(schema.to_config(), sort_keys=True, ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()

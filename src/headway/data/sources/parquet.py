"""The columns of a Parquet file, as pandas, Arrow and others write them."""

from __future__ import annotations

import base64
import json
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from headway.core.errors import DataError
from headway.data.sources.table_fields import Field

_CURES = (
    ("is_timestamp", "make numbers of the times, such as days since a start, or the hour"),
    ("is_date", "make numbers of the dates, such as days since a start, or the month"),
    ("is_time", "make numbers of the times, such as hours"),
    ("is_duration", "make numbers of the durations, such as hours"),
    ("is_list", "give each place of the list a column of its own"),
    ("is_large_list", "give each place of the list a column of its own"),
    ("is_fixed_size_list", "give each place of the list a column of its own"),
    ("is_struct", "give each part a column of its own"),
)


def read_parquet(
    path: Path, skip: Collection[str], text: Collection[str], categories: Collection[str], gaps: Sequence[str] | None
) -> dict[str, Field]:
    """Every column; those in `skip` are named but not read.

    Dictionary columns are categories, whatever their values; so are those in `categories`.  Those in `text` are text,
    whole numbers in decimal.  A column of a type that cannot be used has a `problem`.

    Raises:
        DataError: pyarrow is not installed, or the file is not readable.
    """
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError as error:
        raise DataError(f"reading {path} needs pyarrow: pip install 'headway[parquet]'.") from error
    try:
        table = pq.read_table(path)
        written = pq.read_metadata(path).metadata or {}
    except pa.ArrowException as error:
        raise DataError(f"{path} is not a readable Parquet file ({str(error).splitlines()[0]}).") from error
    if len(set(table.column_names)) < len(table.column_names):
        twice = next(name for name in table.column_names if table.column_names.count(name) > 1)
        raise DataError(f"{path} has the column {twice!r} twice; rename one.")
    words = frozenset(word.strip().lower() for word in gaps or ())
    named = {*categories, *_dictionaries(written)}
    return {
        name: Field(name, None)
        if name in skip
        else _field(name, table.column(name), name in text, name in named, words)
        for name in table.column_names
    }


def _dictionaries(written: Mapping[bytes, bytes]) -> set[str]:
    """The columns that were dictionaries when the file was written: Arrow reads back as such only those of text."""
    import pyarrow as pa

    found = set()
    if b"ARROW:schema" in written:
        try:
            schema = pa.ipc.read_schema(pa.BufferReader(base64.b64decode(written[b"ARROW:schema"])))
        except (pa.ArrowException, OSError, ValueError):
            schema = ()
        found |= {each.name for each in schema if pa.types.is_dictionary(each.type)}
    if b"pandas" in written:
        try:
            columns = json.loads(written[b"pandas"]).get("columns", ())
        except ValueError:
            columns = ()
        found |= {str(each.get("name")) for each in columns if each.get("pandas_type") == "categorical"}
    return found


def _field(name: str, values: Any, as_text: bool, as_category: bool, words: Collection[str]) -> Field:
    import pyarrow as pa

    kind = values.type
    dictionary = pa.types.is_dictionary(kind)
    inner = kind.value_type if dictionary else kind
    if pa.types.is_null(inner):
        return Field(name, None, (None,) * len(values))
    number = pa.types.is_integer(inner) or pa.types.is_floating(inner) or pa.types.is_decimal(inner)
    string = pa.types.is_string(inner) or pa.types.is_large_string(inner) or "string_view" in str(inner)
    if number and not as_text:
        plain = values.cast(inner) if dictionary else values
        numbers = np.array(plain.cast(pa.float64(), safe=False).to_numpy(), dtype=np.float64)
        found = {"": missing} if (missing := int(np.isnan(numbers).sum())) else {}
        return Field(name, numbers, categorical=dictionary or as_category, gap_words=found)
    if not (number or string or pa.types.is_boolean(inner) or dictionary):
        cure = next((cure for test, cure in _CURES if getattr(pa.types, test)(inner)), "convert it to numbers or text")
        return Field(name, None, (None,) * len(values), problem=f"has the type {kind}: {cure}")
    texts = tuple(None if value is None or value != value else str(value) for value in values.to_pylist())
    if as_text:
        return Field(name, None, texts)
    kept = tuple(None if each is None or each.strip().lower() in words else each for each in texts)
    found = Counter("" if each is None else each.strip() for each, k in zip(texts, kept, strict=True) if k is None)
    return Field(name, None, kept, categorical=dictionary or as_category, gap_words=found)

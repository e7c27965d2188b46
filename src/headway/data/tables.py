"""Columns read from CSV and Parquet files, and what can be told from them."""

from __future__ import annotations

import csv
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from headway.core.errors import DataError, nearest

Kind = Literal["integer", "number", "text"]
Task = Literal["classification", "regression"]

_GAPS = frozenset({"", "na", "n/a", "nan", "null", "none", "?"})
_TARGET_NAMES = ("target", "label", "class", "outcome", "diagnosis", "y")
_MOST_INTEGER_CLASSES = 20


@dataclass(frozen=True, eq=False)
class Field:
    """One column as read: `numbers` (float64 `[N]`, NaN at gaps), or `texts` (None at gaps) if it is text."""

    name: str
    numbers: NDArray[np.float64] | None
    texts: tuple[str | None, ...] = ()

    @property
    def kind(self) -> Kind:
        """`integer` (whole numbers), `number` or `text`."""
        if self.numbers is None:
            return "text"
        seen = self.numbers[~np.isnan(self.numbers)]
        return "integer" if np.isfinite(seen).all() and (seen == np.floor(seen)).all() else "number"

    @property
    def rows(self) -> int:
        """How many values, gaps included."""
        return len(self.texts) if self.numbers is None else len(self.numbers)

    @property
    def gaps(self) -> int:
        """How many values are missing."""
        return self.texts.count(None) if self.numbers is None else int(np.isnan(self.numbers).sum())

    def distinct(self) -> list[Any]:
        """The distinct observed values, sorted: numbers as numbers, text as text."""
        if self.numbers is None:
            return sorted({text for text in self.texts if text is not None})
        return [float(value) for value in np.unique(self.numbers[~np.isnan(self.numbers)])]

    def codes(self, categories: Sequence[Any]) -> NDArray[np.int64]:
        """The place of each value in `categories`, -1 at gaps; int64 `[N]`."""
        place = {category: number for number, category in enumerate(categories)}
        values = self.texts if self.numbers is None else self.numbers.tolist()
        return np.array([place.get(value, -1) for value in values], dtype=np.int64)


def column(fields: Mapping[str, Field], name: str, path: Path) -> Field:
    """The column of that name.

    Raises:
        DataError: there is none.
    """
    if name not in fields:
        raise DataError(f"{path} has no column {name!r}{nearest(name, fields)}.")
    return fields[name]


def read_table(path: Path, skip: Collection[str] = ()) -> dict[str, Field]:
    """Every column of a CSV or Parquet file (by its suffix), except those in `skip`.

    Values such as an empty cell, `NA`, `NaN`, `null` or `?` are gaps; a column is numeric when everything
    else in it is a number.

    Raises:
        DataError: the file is missing, unreadable or malformed, has fewer than two rows, or lacks a skipped
            column.
    """
    if not path.is_file():
        raise DataError(f"there is no file {path}; check the path.")
    try:
        fields = _read_parquet(path, skip) if path.suffix.lower() == ".parquet" else _read_csv(path)
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}.") from error
    for name in skip:
        column(fields, name, path)
    rows = max((each.rows for each in fields.values()), default=0)
    if rows < 2:
        raise DataError(f"{path} has {rows} row{'s' * (rows != 1)} of data, but at least 2 are needed.")
    return {name: each for name, each in fields.items() if name not in skip}


def _read_csv(path: Path) -> dict[str, Field]:
    """The columns of a comma-separated file with one header line, UTF-8."""
    try:
        with path.open(newline="", encoding="utf-8-sig") as lines:
            reader = csv.reader(lines)
            header = [name.strip() for name in next(reader, [])]
            if not header:
                raise DataError(f"{path} is empty; a header line and rows are needed.")
            if len(set(header)) < len(header):
                twice = next(name for name in header if header.count(name) > 1)
                raise DataError(f"{path} has the column {twice!r} twice; rename one.")
            rows = []
            for row in reader:
                if row and len(row) != len(header):
                    raise DataError(
                        f"{path}, line {reader.line_num}, has {len(row)} values, but the header names "
                        f"{len(header)}; quote values that hold a comma."
                    )
                if row:
                    rows.append(row)
    except (UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path} is not a readable CSV file in UTF-8 ({error}).") from error
    cells = zip(*rows, strict=True) if rows else [()] * len(header)
    return {name: _parse(name, values) for name, values in zip(header, cells, strict=True)}


def _parse(name: str, cells: Sequence[str]) -> Field:
    """A numeric field if every cell that is no gap is a number, else a text field."""
    texts = tuple(None if (cell := raw.strip()).lower() in _GAPS else cell for raw in cells)
    try:
        return Field(name, np.array([np.nan if text is None else float(text) for text in texts], dtype=np.float64))
    except ValueError:
        return Field(name, None, texts)


def _read_parquet(path: Path, skip: Collection[str]) -> dict[str, Field]:
    """The columns of a Parquet file; those in `skip` are named but not read."""
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError as error:
        raise DataError(f"reading {path} needs pyarrow: pip install 'headway[parquet]'.") from error
    try:
        table = pq.read_table(path)
    except pa.ArrowException as error:
        raise DataError(f"{path} is not a readable Parquet file ({str(error).splitlines()[0]}).") from error
    fields = {}
    for name in table.column_names:
        values, kind = table.column(name), table.column(name).type
        if name in skip:
            fields[name] = Field(name, None)
        elif pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind):
            numbers = values.cast(pa.float64(), safe=False).to_numpy()
            fields[name] = Field(name, np.array(numbers, dtype=np.float64))
        elif any(test(kind) for test in (pa.types.is_boolean, pa.types.is_string, pa.types.is_large_string)) or (
            pa.types.is_dictionary(kind) and pa.types.is_string(kind.value_type)
        ):
            texts = tuple(None if value is None else str(value) for value in values.to_pylist())
            fields[name] = Field(name, None, texts)
        else:
            raise DataError(
                f"{path}: column {name!r} has the type {kind}, but numbers or text are needed; convert it or drop it."
            )
    return fields


@dataclass(frozen=True)
class TableFacts:
    """What a table file holds: the kind and number of gaps of each column, clients, and the likely target.

    `clients` is None without a client column, and `classes` is None for regression.
    """

    path: str
    rows: int
    columns: Mapping[str, Kind]
    gaps: Mapping[str, int]
    client_column: str | None
    clients: int | None
    target: str
    task: Task
    classes: int | None


def infer_csv(path: str | Path, client_column: str | None, target: str | None = None) -> TableFacts:
    """Look at a CSV (or Parquet) file: columns, clients, and the target, guessed when it is not given.

    The guess is a column with a usual name (`target`, `label`, `class`, `outcome`, `diagnosis`, `y`), or the
    last one.

    Raises:
        DataError: the file cannot be read, or a named column is not there.
    """
    path = Path(path)
    fields = read_table(path)
    clients = None if client_column is None else len(column(fields, client_column, path).distinct())
    if target is None:
        candidates = [name for name in fields if name != client_column]
        if not candidates:
            raise DataError(f"{path} has no column beside {client_column!r}; a target is needed.")
        usual = [name for usual in _TARGET_NAMES for name in candidates if name.lower() == usual]
        target = (usual or candidates[-1:])[0]
    goal = column(fields, target, path)
    task = likely_task(goal)
    return TableFacts(
        path=str(path),
        rows=goal.rows,
        columns={name: each.kind for name, each in fields.items()},
        gaps={name: each.gaps for name, each in fields.items()},
        client_column=client_column,
        clients=clients,
        target=target,
        task=task,
        classes=len(goal.distinct()) if task == "classification" else None,
    )


def likely_task(target: Field) -> Task:
    """Classification for text and for at most 20 distinct whole numbers, else regression."""
    few = target.kind == "text" or (target.kind == "integer" and len(target.distinct()) <= _MOST_INTEGER_CLASSES)
    return "classification" if few else "regression"

"""A client's own CSV or Parquet table, read under the schema that all clients of a federation share."""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from headway.core.errors import DataError, nearest
from headway.data.dataset.class_names import listed_names
from headway.data.sources.example_pool import ExamplePool
from headway.data.sources.impute import Categorical, EncodedTable, Numeric
from headway.data.sources.schema_values import ValueRule
from headway.data.sources.table_fields import Field, parse_field, to_number
from headway.data.sources.table_pool import row_groups
from headway.data.sources.table_schema import Alias, TableColumn, TableSchema
from headway.data.sources.tables import Reading, TableFile, gap_notes, read_table

SHOWN = 5  # columns that one sentence names


@dataclass(frozen=True)
class FileForm:
    """The form of one client's file: how it is written, and its own names of columns and values.

    columns: the name in the file of a column of the schema.  values: of a column of the schema, the schema's value of
    each spelling in the file.  Both are stated by the client; nothing is guessed.
    """

    separator: str | None = None
    decimal: str | None = None
    encoding: str | None = None
    columns: Mapping[str, str] = field(default_factory=dict)
    values: Mapping[str, Mapping[str, str]] = field(default_factory=dict)


def schema_pool(path: Path, schema: TableSchema, client: str, form: FileForm | None = None) -> ExamplePool:
    """The rows of a file as examples of one client: the schema's columns by their names, in the schema's order.

    Columns that the schema does not name are left out.  Values are matched as they are written, without the blanks
    around them; numbers by their value, so that `1.0` is the value `1`.

    Raises:
        DataError: a column of the schema is missing, a number is none or out of range, or a category or class is none
            of the schema's values; with the line in the file, what was needed and what was found.
    """
    form = form or FileForm()
    names = _names(schema, form, path)
    table, fields = _read(path, schema, form, names)
    rows = _RowPlaces(path, table.lines)
    notes = [*table.notes]
    columns = tuple(_feature(fields[each.name], each, rows, form, notes) for each in schema.columns)
    goal = fields[schema.target]
    targets = _classes(goal, schema, rows, form, notes) if schema.classes else _quantities(goal, rows)
    groups = None if schema.group is None else row_groups(fields[schema.group])
    used = {each.name for each in fields.values()}
    if left := [name for name in table.fields if name not in used]:
        notes.append(f"columns that the schema does not name, left out: {listed_names(left)}")
    notes += gap_notes({each.name: fields[each.name] for each in schema.columns})
    return ExamplePool(
        path.stem,
        EncodedTable(columns, own_scale=schema.standardise == "client"),
        targets,
        len(schema.classes) or None,
        (client,) * len(targets),
        description=f"{path.name}, under the schema of the federation",
        class_names=schema.classes,
        notes=tuple(notes),
        groups=groups,
        group_name=schema.group or "",
    )


@dataclass(frozen=True)
class _RowPlaces:
    """The places of the rows in a file."""

    path: Path
    lines: Sequence[int]

    def at(self, row: int) -> str:
        """The line of a text file, or the number of a row of another, in words."""
        return f"line {self.lines[row]}" if self.lines else f"row {row + 1}"


def _names(schema: TableSchema, form: FileForm, path: Path) -> dict[str, str]:
    """The name in the file of each column that the schema names.

    Raises:
        DataError: the client renames what the schema does not have.
    """
    wanted = [*(each.name for each in schema.columns), schema.target, *([schema.group] if schema.group else [])]
    for stated in (form.columns, form.values):
        if unknown := [name for name in stated if name not in wanted]:
            raise DataError(
                f"{path}: the client's own names are for {unknown[0]!r}, which the schema does not have"
                f"{nearest(unknown[0], wanted)}."
            )
    names = {name: form.columns.get(name, name) for name in wanted}
    if twice := [name for name, count in Counter(names.values()).items() if count > 1]:
        raise DataError(f"{path}: two columns of the schema are {twice[0]!r} in the file; name each column once.")
    return names


def _read(
    path: Path, schema: TableSchema, form: FileForm, names: Mapping[str, str]
) -> tuple[TableFile, dict[str, Field]]:
    """The table, and the columns that are wanted by their names in the schema; those of values hold texts."""
    valued = [each.name for each in schema.columns if each.kind == "category"]
    valued += [schema.target] if schema.classes else []
    texts = [*valued, *([schema.group] if schema.group else [])]
    how = Reading(
        separator=form.separator,
        decimal=form.decimal,
        encoding=form.encoding,
        gaps=("", *schema.missing),
        text=[spelling for name in texts for spelling in _spellings(names[name])],
        only=[spelling for own in names.values() for spelling in _spellings(own)],
    )
    table = read_table(path, how)
    places = {unicodedata.normalize("NFC", name): name for name in table.fields}
    held = {name: places.get(unicodedata.normalize("NFC", own)) for name, own in names.items()}
    if missing := [names[name] for name, place in held.items() if place is None]:
        named = ", ".join(map(repr, missing[:SHOWN])) + (", ..." if len(missing) > SHOWN else "")
        near = nearest(missing[0], table.fields) if len(missing) == 1 else f" (found: {listed_names([*table.fields])})"
        raise DataError(
            f"{path} has no column {named}, which the schema of the federation needs{near}. Where the file has it "
            "under another name, state that under [data.columns] of the client's own file."
        )
    words = {word.strip().lower() for word in ("", *schema.missing)}
    fields = {name: table.fields[place] for name, place in held.items() if place is not None}
    for name in valued:
        each = fields[name]
        if not each.problem:
            cells = ["" if text is None else text for text in each.texts]
            fields[name] = parse_field(each.name, cells, table.lines, words, ".", as_text=True)
    return table, fields


def _spellings(name: str) -> tuple[str, ...]:
    """A name as files may hold it: letters with marks as one character, or as two."""
    return tuple({name, unicodedata.normalize("NFC", name), unicodedata.normalize("NFD", name)})


def _feature(
    each: Field, column: TableColumn, rows: _RowPlaces, form: FileForm, notes: list[str]
) -> Numeric | Categorical:
    """One feature, with gaps as the schema allows them."""
    flagged, where = column.gaps == "flag", f"{rows.path}: the column {each.name!r}"
    made: Numeric | Categorical
    if column.kind == "numeric":
        numbers = _numbers(each, rows, where, column)
        missing = np.isnan(numbers)
        made = Numeric(column.name, torch.from_numpy(numbers), flagged, column.centre, column.scale)
    else:
        aliases = _aliases(column.aliases, form.values.get(column.name, {}))
        rule = ValueRule(column.name, column.values, aliases, column.other, column.unknown == "gap")
        codes, more = rule.codes(_texts(each, rows), rows.at, where)
        notes += more
        missing = codes < 0
        made = Categorical(column.name, torch.from_numpy(codes), column.values, flagged)
    if missing.any() and column.gaps == "refuse":
        raise DataError(
            f"{where} has {int(missing.sum())} gaps, the first in {rows.at(int(missing.argmax()))}, but the schema of "
            'the federation refuses them: fill them in, or agree on gaps = "fill" or "flag".'
        )
    if missing.all():
        notes.append(f"the column {column.name!r} holds nothing here: its inputs are the same in every row")
    return made


def _numbers(each: Field, rows: _RowPlaces, where: str, column: TableColumn | None = None) -> NDArray[np.float64]:
    """The numbers of a column, NaN at gaps.

    Raises:
        DataError: one that is no number, infinite, or outside the range of the schema.
    """
    unit = f" {column.unit}" if column is not None and column.unit else ""
    needed = f"the schema of the federation needs numbers{f' (in{unit})' if unit else ''}"
    numbers = each.numbers
    if numbers is None and not each.problem:  # text of a Parquet file may hold numbers
        cells = ["" if text is None else text for text in each.texts]
        numbers = parse_field(each.name, cells, range(len(cells)), ("",), ".", as_text=False).numbers
    if numbers is None:
        wrong = [row for row, text in enumerate(each.texts) if text is not None and to_number(text, ".") is None]
        more = f" and in {len(wrong) - 1} more cells" if len(wrong) > 1 else ""
        found = f"holds {each.texts[wrong[0]]!r} in {rows.at(wrong[0])}{more}" if wrong else each.problem
        raise DataError(f"{where} {found}, but {needed}: correct it, or agree on that text as a gap (missing).")
    low, high = (None, None) if column is None else (column.minimum, column.maximum)
    for outside, bound in (
        (np.isinf(numbers), "which is infinite"),
        (numbers < (-np.inf if low is None else low), f"below the minimum of the schema, {low}{unit}"),
        (numbers > (np.inf if high is None else high), f"above the maximum of the schema, {high}{unit}"),
    ):
        if outside.any():
            row = int(outside.argmax())
            more = f" ({int(outside.sum())} such rows)"
            raise DataError(
                f"{where} holds {numbers[row]:g} in {rows.at(row)}, {bound}{more}: correct it, and check its unit."
            )
    return numbers


def _texts(each: Field, rows: _RowPlaces) -> list[str | None]:
    """The cells of a column of values as texts, None at gaps.

    Raises:
        DataError: the column has a type that cannot be used.
    """
    if each.problem:
        raise DataError(f"{rows.path}: the column {each.name!r} {each.problem}; the schema has values for it.")
    return list(each.texts)


def _classes(goal: Field, schema: TableSchema, rows: _RowPlaces, form: FileForm, notes: list[str]) -> Tensor:
    """Class numbers in the schema's order, int64 `[N]`."""
    aliases = _aliases(schema.class_aliases, form.values.get(schema.target, {}))
    where = f"{rows.path}: the target {goal.name!r}"
    codes, more = ValueRule(schema.target, schema.classes, aliases).codes(_texts(goal, rows), rows.at, where)
    notes += more
    _refuse_gaps(codes < 0, rows, where)
    held = np.bincount(codes, minlength=len(schema.classes))
    if absent := [name for name, count in zip(schema.classes, held, strict=True) if not count]:
        notes.append(f"no row is of the class {listed_names(absent)} of {schema.target!r}")
    return torch.from_numpy(codes)


def _quantities(goal: Field, rows: _RowPlaces) -> Tensor:
    """Targets of a regression, float32 `[N]`."""
    where = f"{rows.path}: the target {goal.name!r}"
    numbers = _numbers(goal, rows, where)
    _refuse_gaps(np.isnan(numbers), rows, where)
    return torch.from_numpy(numbers).float()


def _refuse_gaps(missing: NDArray[np.bool_], rows: _RowPlaces, where: str) -> None:
    if missing.any():
        first = rows.at(int(missing.argmax()))
        raise DataError(
            f"{where} is missing in {int(missing.sum())} rows, the first in {first}; fill them in or drop them."
        )


def _aliases(agreed: Sequence[Alias], own: Mapping[str, str]) -> dict[str, str]:
    """The other spellings of values: those of the schema, and the client's own."""
    return {alias.written: alias.read_as for alias in agreed} | dict(own)

"""A schema made from tables at hand: the features, categories and classes that occur in them."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

from headway.core.errors import DataError
from headway.data.dataset.class_names import label_name, listed_names
from headway.data.sources.table_fields import GAPS, Field
from headway.data.sources.table_pool import unusable, used_columns
from headway.data.sources.table_schema import TableColumn, TableSchema
from headway.data.sources.tables import Reading, TableFile, column, facts_of, likely_task, read_table


def sample_schema(
    paths: Sequence[Path], target: str | None = None, task: str | None = None, how: Reading | None = None
) -> tuple[TableSchema, list[str]]:
    """The schema of one or several tables of the same columns, and notes on what was guessed or left out.

    Values are all that occur in any of the tables, sorted; columns that `how` skips are left out.  A column
    with a gap in one of them has gaps = "flag".

    Raises:
        DataError: a table cannot be read, lacks a column of the first one, or has a column that cannot be used.
    """
    how = how or Reading()
    tables = [(path, _without(read_table(path, replace(how, skip=())), how.skip)) for path in paths]
    first, table = tables[0]
    facts = facts_of(first, table, None, target)
    notes = [] if target is not None else [f"the target is taken to be {facts.target!r} (--target)"]
    goals = [column(each.fields, facts.target, path) for path, each in tables]
    chosen = task or (
        "classification" if any(likely_task(goal) == "classification" for goal in goals) else "regression"
    )
    _numeric(list(zip(paths, goals, strict=True)), f"the target {facts.target!r}")
    classes = _values(goals) if chosen == "classification" else ()
    left_out = useless_columns(first, table, (facts.target, None))
    if left_out:
        notes.append("left out: " + "; ".join(f"{name!r}, which {why}" for name, why in left_out.items()))
    columns = tuple(
        _column(name, [(path, column(each.fields, name, path)) for path, each in tables])
        for name in table.fields
        if name != facts.target and name not in left_out
    )
    for path, other in tables[1:]:
        if more := [name for name in other.fields if name not in table.fields]:
            notes.append(f"left out: {listed_names(more)}, which {first} does not have, but {path}")
    missing = GAPS if how.gaps is None else tuple(how.gaps)
    return TableSchema(facts.target, columns, classes=classes, missing=missing), notes


def _without(table: TableFile, names: Collection[str]) -> TableFile:
    """A table without the columns of these names, which it may lack."""
    return replace(table, fields={name: each for name, each in table.fields.items() if name not in names})


def _column(name: str, fields: Sequence[tuple[Path, Field]]) -> TableColumn:
    """A feature: numeric where it is in all tables."""
    for path, each in fields:
        if why := unusable(each):
            raise DataError(f"{path}: the column {name!r} {why}.")
    gaps: Literal["fill", "flag"] = "flag" if any(each.gaps for _, each in fields) else "fill"
    if _numeric(fields, f"the column {name!r}"):
        return TableColumn(name, "numeric", gaps=gaps)
    return TableColumn(name, "category", _values([each for _, each in fields]), gaps=gaps)


def _numeric(fields: Sequence[tuple[Path, Field]], what: str) -> bool:
    """Whether a column holds numbers, in all of the tables.

    Raises:
        DataError: it does in one of them and not in another.
    """
    found = {each.numbers is not None and not each.categorical: path for path, each in fields}
    if len(found) > 1:
        raise DataError(
            f"{what} holds numbers in {found[True]} and text in {found[False]}: write it alike in both, or name it as "
            "a category (--categories)."
        )
    return True in found


def _values(fields: Sequence[Field]) -> tuple[str, ...]:
    """The values that occur in a column of several tables: numbers by their size, texts sorted."""
    distinct = {value for each in fields for value in each.distinct()}
    if all(isinstance(value, float) for value in distinct):
        return tuple(map(label_name, sorted(distinct)))
    return tuple(sorted({label_name(value).strip() for value in distinct}))


def useless_columns(path: Path, table: TableFile, named: tuple[str, str | None]) -> dict[str, str]:
    """Columns that no model can learn from, and why: counters, names of rows, dates, free text, nothing, one value.

    Raises:
        DataError: columns of numbers in which some cells are none; all are named.
    """
    _, client_column = named
    owners = None if client_column is None else [str(text) for text in table.fields[client_column].texts]
    features, _ = used_columns(table, named, (), owners)
    found, faults = {}, []
    for name, each in table.fields.items():
        if name in named:
            continue
        distinct, seen = len(each.distinct()), each.rows - each.gaps
        if each.faulty:
            faults.append(f"{name!r}: {each.problem}")
        elif each.problem:
            found[name] = each.problem
        elif not seen:
            found[name] = "holds nothing"
        elif name not in features:
            found[name] = "counts rows"
        elif each.dates:
            found[name] = "holds dates: make numbers of them, such as days since a start"
        elif why := unusable(each):
            found[name] = why
        elif distinct == 1 and not each.gaps:
            found[name] = "holds one value"
        elif distinct == each.rows and (
            each.kind == "text" or (each.kind == "integer" and name.lower().endswith("id"))
        ):
            found[name] = "names rows rather than describes them"
    if faults:
        raise DataError(
            f"{path}: columns of numbers hold cells that are none ({'; '.join(faults)}). Correct them, name their text "
            "as a gap with --gaps (once for each text, '' for an empty cell), or leave the column out with --drop."
        )
    return found

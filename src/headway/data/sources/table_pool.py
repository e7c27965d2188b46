"""A CSV or Parquet table as a source of data: which columns are features, classes and clients."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from headway.core.errors import ConfigError, DataError, nearest
from headway.data.dataset.class_names import label_name
from headway.data.dataset.owners import NUMBER, client_notes
from headway.data.sources.columns import counts_rows, deciding, unscaled
from headway.data.sources.example_pool import ExamplePool
from headway.data.sources.impute import Categorical, EncodedTable, Numeric
from headway.data.sources.table_fields import GAPS, Field
from headway.data.sources.tables import (
    Reading,
    TableFile,
    Task,
    column,
    gap_notes,
    instead,
    likely_task,
    read_table,
    task_note,
)

MOST_CATEGORIES = 100
PANDAS_INDEX = "__index_level_"


@dataclass(frozen=True, kw_only=True)
class TableOptions:
    """The options of a table: the parts of its columns, and the form of the file.

    target, client_column, group: columns.  drop, keep, categories: column names.  gaps: the texts that mark a gap.

    Raises:
        ConfigError: an unknown task or standardise, or one column named as target and clients.
    """

    target: str
    client_column: str | None = None
    task: Task | None = None
    standardise: str | None = None
    drop: Sequence[str] = ()
    keep: Sequence[str] = ()
    categories: Sequence[str] = ()
    gaps: Sequence[str] | None = None
    separator: str | None = None
    decimal: str | None = None
    encoding: str | None = None
    group: str | None = None

    def __post_init__(self) -> None:
        for option, value, known in (
            ("task", self.task, ("classification", "regression")),
            ("standardise", self.standardise, ("client",)),
        ):
            if value is not None and value not in known:
                raise ConfigError(f"{option} is {value!r}, which is unknown{nearest(str(value), known)}.")
        if self.target == self.client_column:
            raise ConfigError(f"target and client_column are both {self.target!r}; they must be two columns.")

    @property
    def reading(self) -> Reading:
        """The form of the file."""
        return Reading(
            separator=self.separator,
            decimal=self.decimal,
            encoding=self.encoding,
            gaps=_names(self.gaps),
            categories=_names(self.categories) or (),
            text=tuple(name for name in (self.client_column, self.group) if name is not None),
            skip=_names(self.drop) or (),
        )


def table_pool(path: Path, *, options: TableOptions) -> ExamplePool:
    """A CSV or Parquet table: every column except `target`, `client_column` and `drop` is a feature.

    Text columns and those in `categories` become one column per category, categories in sorted order.  Numbers stay as
    they are, since pooled statistics would leak between clients; `standardise="client"` gives each client the mean
    and standard deviation of its own training rows.  Gaps are filled from the client's own training rows,
    with a further column for each feature that has gaps.  Classes are the sorted distinct values of the target.
    Clients are named exactly as the file writes them.  Columns that count rows, or hold nothing, are left out unless
    `keep` names them.  The column `group`, such as the patient, is no feature: its rows stay together in the split.
    `gaps`, `separator`, `decimal` and `encoding` describe how the file is written (see `Reading`).  What was guessed or
    left out is in the notes.

    Raises:
        DataError: the file cannot be read, a column is missing or cannot be used, or a target is missing.
    """
    target, how = options.target, options.reading
    table = read_table(path, how)
    goal = column(table.fields, target, path)
    targets, names = _targets(goal, table.fields, options.task, path)
    owners = _owners(table, options.client_column, path)
    for name in (kept := _names(options.keep) or ()):
        column(table.fields, name, path)
    grouped = None if options.group is None else row_groups(column(table.fields, options.group, path))
    features, left_out = used_columns(table, (target, options.client_column, options.group), kept, owners)
    if not features:
        why = f" ({'; '.join(left_out)})" if left_out else ""
        raise DataError(f"{path} has no feature column beside {target!r} and the client column{why}.")
    own_scale = options.standardise == "client"
    notes = [*table.notes, *gap_notes(features | {target: goal}), *left_out]
    if options.task is None and (doubt := task_note(goal)):
        notes.append(doubt)
    notes += _remarks(features, targets.numpy(), len(names) or None, how, own_scale)
    notes += client_notes(owners or ())
    meaning = f"classes of {target!r}: {', '.join(names)}" if names else f"regression of {target!r}"
    return ExamplePool(
        path.stem,
        EncodedTable(tuple(_feature(each, path) for each in features.values()), own_scale=own_scale),
        targets,
        len(names) or None,
        owners,
        description=f"{path.name}, {meaning}",
        class_names=names,
        notes=tuple(notes),
        groups=grouped,
        group_name=options.group or "",
    )


def row_groups(field: Field) -> Tensor:
    """A number for each row that those of one group share, int64 `[N]`; a gap is a group of its own."""
    codes = torch.from_numpy(field.codes(field.distinct()))
    alone = codes < 0
    codes[alone] = len(codes) + torch.arange(int(alone.sum()))
    return codes


def used_columns(
    table: TableFile, others: Sequence[str | None], keep: Sequence[str], owners: Sequence[str] | None
) -> tuple[dict[str, Field], list[str]]:
    """The columns that are features, and notes on those that are left out."""
    features: dict[str, Field] = {}
    counters, nothing = [], []
    for name, each in table.fields.items():
        if name in others:
            continue
        if name not in keep and (name.startswith(PANDAS_INDEX) or counts_rows(each, owners)):
            counters.append(name)
        elif name not in keep and each.numbers is None and each.gaps == each.rows and not each.problem:
            nothing.append(name)
        else:
            features[name] = each
    notes = []
    if counters:
        notes.append(f"left out, as it counts rows: {_quoted(counters)} (data.keep = {counters} would use it)")
    if nothing:
        notes.append(f"left out, as it holds nothing: {_quoted(nothing)}")
    return features, notes


def _remarks(
    features: Mapping[str, Field], targets: NDArray[np.generic], classes: int | None, how: Reading, scaled: bool
) -> list[str]:
    """Notes on features that are used."""
    notes = []
    mixed = [f"{name!r} ({each.not_number} no number)" for name, each in features.items() if each.not_number]
    if mixed:
        notes.append(f"read as categories, though some cells are numbers: {', '.join(mixed)}")
    if written := [name for name, each in features.items() if _holds_numbers(each)]:
        notes.append(
            f"text that holds numbers, read as categories: {_quoted(written)}; numbers of a file would be features"
        )
    words = [f"{word!r} in {name!r}" for name, each in features.items() for word in _gap_like(each)]
    if words and how.gaps is None:
        notes.append(f"read as values, and not as gaps: {', '.join(words)} (data.gaps names what is a gap)")
    if dates := [name for name, each in features.items() if each.dates]:
        notes.append(f"dates read as categories: {_quoted(dates)}; make numbers of them, such as days, or drop them")
    if giveaways := deciding(list(features.values()), targets, classes):
        notes.append(f"alone nearly decides the target: {_quoted(giveaways)}; is it known before the target is?")
    if not scaled and (large := unscaled(features)):
        notes.append(f"values of 1000 and more, not scaled: {_quoted(large)} (standardise = 'client' scales them)")
    return notes


def _targets(goal: Field, fields: Mapping[str, Field], task: Task | None, path: Path) -> tuple[Tensor, tuple[str, ...]]:
    """Class numbers (int64 `[N]`) and class names, or values (float32 `[N]`) and no names."""
    where = f"{path}: the target {goal.name!r}"
    if goal.problem:
        cure = "correct it or leave out the row" if goal.faulty else "convert it, or choose another target"
        raise DataError(f"{where} {goal.problem}; {cure}.")
    if goal.gaps:
        words = [word for word in goal.gap_words if word]
        every = {word for each in fields.values() for word in each.gap_words}
        which = f" (the gaps are {', '.join(map(repr, goal.gap_words))})" if words else ""
        alternative = f", or {instead(every, words)} (init: --gaps) if {_quoted(words)} is a value" if words else ""
        raise DataError(f"{where} is missing in {goal.gaps} rows{which}; fill in or drop them{alternative}.")
    if (task or likely_task(goal)) == "regression":
        if goal.numbers is None or goal.categorical:
            raise DataError(
                f"{where} is {'text' if goal.numbers is None else 'a category'}, but regression needs numbers."
            )
        return torch.from_numpy(goal.numbers).float(), ()
    values = goal.distinct()
    if len(values) < 2:
        raise DataError(f"{where} is {label_name(values[0])!r} in every row; 2 classes are needed.")
    return torch.from_numpy(goal.codes(values)), tuple(map(label_name, values))


def _owners(table: TableFile, name: str | None, path: Path) -> tuple[str, ...] | None:
    """The client id of each row, exactly as written; None where no column names the clients."""
    if name is None:
        return None
    owner, where = column(table.fields, name, path), f"{path}: the client column {name!r}"
    if owner.problem:
        raise DataError(f"{where} {owner.problem}.")
    if owner.gaps:
        raise DataError(f"{where} is empty in {owner.gaps} rows; fill in or drop them.")
    return tuple(str(text) for text in owner.texts)


def unusable(each: Field) -> str:
    """The reason why a column cannot be a feature, in words that follow its name; empty where it can."""
    if each.problem:
        return f"{each.problem}; {_cure(each)}"
    if each.numbers is not None and not each.categorical:
        return ""
    count = len(each.distinct())
    if count <= MOST_CATEGORIES:
        return ""
    what = "holds dates: make numbers of them, such as days since a start, or drop it" if each.dates else ""
    few = ", ".join(map(repr, each.distinct()[:2]))
    what = (
        what
        or f"has {count} distinct values ({few}, ...), more than {MOST_CATEGORIES} categories; drop it or group them"
    )
    return f"{what}; as numbers it fails at {each.not_number} no number" if each.not_number else what


def _holds_numbers(each: Field) -> bool:
    """Whether a column of text that is not named as categories holds numbers alone, as Parquet files may have it."""
    return (
        each.numbers is None
        and not each.categorical
        and all(text is None or NUMBER.fullmatch(text) for text in each.texts)
    )


def _gap_like(each: Field) -> list[str]:
    """Words among the categories of a column that are gaps in most tables, such as NA."""
    if each.numbers is not None:
        return []
    return [text for text in each.distinct() if text.strip().lower() in GAPS]


def _cure(each: Field) -> str:
    if not each.faulty:
        return f"or drop = [{each.name!r}]"
    return (
        f"correct it, name the text as a gap in data.gaps, or set what the column is: data.categories = "
        f"[{each.name!r}] or data.drop = [{each.name!r}]"
    )


def _feature(each: Field, path: Path) -> Numeric | Categorical:
    if why := unusable(each):
        kind = "text column" if not each.problem and each.numbers is None else "column"
        raise DataError(f"{path}: the {kind} {each.name!r} {'' if not each.faulty else 'is numeric, but '}{why}.")
    flagged = each.gaps > 0
    if each.numbers is not None and not each.categorical:
        return Numeric(each.name, torch.from_numpy(each.numbers), flagged=flagged)
    values = each.distinct()
    return Categorical(each.name, torch.from_numpy(each.codes(values)), tuple(map(label_name, values)), flagged=flagged)


def _names(given: Sequence[str] | str | None) -> tuple[str, ...] | None:
    """Column names or words, of which one may be given as itself."""
    return None if given is None else (given,) if isinstance(given, str) else tuple(given)


def _quoted(names: Sequence[str]) -> str:
    return ", ".join(map(repr, names))

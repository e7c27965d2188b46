"""Tables read from CSV and Parquet files, and what follows from their columns."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from headway.core.errors import ConfigError, DataError, nearest
from headway.data.sources.csv_text import read_text_table
from headway.data.sources.missing import no_file
from headway.data.sources.parquet import read_parquet
from headway.data.sources.table_fields import GAPS, Decimal, Field, Kind, as_written, decimal_comma, parse_field

Task = Literal["classification", "regression"]

SUSPECTS = frozenset(GAPS) - {"", "?"}  # words that are gaps by default and may be values
GOOD_SHARE = 0.05  # of a column of text, from which such a word is asked about
_TARGET_NAMES = ("target", "label", "class", "outcome", "diagnosis", "y")
MOST_INTEGER_CLASSES = 20
_MOST_CODES = 200  # distinct whole numbers up to which a target may be codes of classes
_SHOWN = 12


@dataclass(frozen=True)
class Reading:
    """The form of a table file; what is None is guessed, and the guess is a note.

    gaps: the texts that are gaps (without regard to case), instead of an empty cell, NA, N/A, NaN, null, None and `?`;
        in Parquet files nulls are gaps, and these texts as well where they are given.
    categories: columns whose values are names, also where they are numbers.
    text: columns read exactly as written, such as that of the clients.
    skip: columns that are not read.
    only: the columns that are wanted; no other column of a text file is read, and one that is missing is no error.
    """

    separator: str | None = None
    decimal: str | None = None
    encoding: str | None = None
    gaps: Sequence[str] | None = None
    categories: Collection[str] = ()
    text: Collection[str] = ()
    skip: Collection[str] = ()
    only: Collection[str] | None = None

    def __post_init__(self) -> None:
        if self.decimal not in (None, ".", ","):
            raise ConfigError(f"data.decimal is {self.decimal!r}, but '.' or ',' is needed.")


@dataclass(frozen=True, eq=False)
class TableFile:
    """The columns of a file by name, and what was guessed in reading them; of a text file the line of each row."""

    fields: Mapping[str, Field]
    notes: tuple[str, ...] = ()
    lines: Sequence[int] = ()


def column(fields: Mapping[str, Field], name: str, path: Path) -> Field:
    """The column of that name.

    Raises:
        DataError: there is none.
    """
    if name not in fields:
        raise DataError(f"{path} has no column {name!r}{nearest(name, fields)}.")
    return fields[name]


def read_table(path: Path, how: Reading | None = None) -> TableFile:
    """Every column of a CSV or Parquet file (by its suffix), except those that are skipped.

    A column is numeric when everything in it that is no gap is a number.

    Raises:
        ConfigError: an option that cannot be.
        DataError: the file is missing, unreadable or malformed, has fewer than two rows, or lacks a column that the
            options name.
    """
    how = how or Reading()
    if not path.is_file():
        raise DataError(no_file(path))
    try:
        if path.suffix.lower() == ".parquet":
            found = TableFile(read_parquet(path, how.skip, how.text, how.categories, how.gaps))
        else:
            found = _read_csv(path, how)
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}.") from error
    for name in (*how.skip, *how.categories, *how.text) if how.only is None else ():
        column(found.fields, name, path)
    rows = max((each.rows for each in found.fields.values()), default=0)
    if rows < 2:
        raise DataError(f"{path} has {rows} row{'s' * (rows != 1)} of data, but at least 2 are needed.")
    kept = {name: each for name, each in found.fields.items() if name not in how.skip}
    return TableFile(kept, found.notes, found.lines)


def _read_csv(path: Path, how: Reading) -> TableFile:
    """The columns of a text table."""
    table = read_text_table(path, how.separator, how.encoding)
    cells = list(zip(*table.rows, strict=True)) if table.rows else [()] * len(table.header)
    columns = dict(zip(table.header, cells, strict=True))
    words = {word.strip().lower() for word in (GAPS if how.gaps is None else how.gaps)}
    skipped = {name for name in columns if name in how.skip or (how.only is not None and name not in how.only)}
    parsed = [name for name in columns if name not in skipped and name not in how.text]
    decimal: Decimal = "," if how.decimal == "," else "."
    notes = list(table.notes)
    if how.decimal is None:
        decimal, note = _decimal({name: columns[name] for name in parsed}, words, table.separator, path)
        notes += note
    fields = {}
    for name, values in columns.items():
        if name in skipped:
            fields[name] = Field(name, None, (None,) * len(values))
        elif name in how.text:
            fields[name] = as_written(name, values)
        else:
            fields[name] = parse_field(name, values, table.lines, words, decimal, name in how.categories)
    return TableFile(fields, tuple(notes), table.lines)


def _decimal(
    columns: Mapping[str, Sequence[str]], words: Collection[str], separator: str, path: Path
) -> tuple[Decimal, list[str]]:
    """The decimal mark of a file in which none is given, and a note where it is the comma.

    Raises:
        DataError: commas may be decimal marks or part thousands, or both marks occur.
    """
    commas = {name: cell for name, cells in columns.items() for found, cell in [decimal_comma(cells, words)] if found}
    if not commas:
        return ".", []
    for name, cell in commas.items():
        if cell and separator != ";":
            raise DataError(
                f"{path}: the column {name!r} has numbers such as {cell!r}: give data.decimal = ',' if the comma is a "
                "decimal mark, or write them without it if it parts thousands."
            )
    for name, cells in columns.items():
        if name not in commas and (dotted := _dotted(cells, words)):
            raise DataError(
                f"{path}: the column {next(iter(commas))!r} has decimal commas, but {name!r} has {dotted!r}: give "
                "data.decimal = ',' (a point then parts thousands) or '.', or write both columns alike."
            )
    return ",", [f"numbers have a decimal comma, in {_listed([repr(name) for name in commas])} (else: data.decimal)"]


def _dotted(cells: Sequence[str], words: Collection[str]) -> str:
    """A number with a decimal point, of a column that holds numbers alone."""
    field_ = parse_field("", cells, range(len(cells)), words, ".", as_text=False)
    if field_.numbers is None:
        return ""
    return next((text for raw in cells if "." in (text := raw.strip()) and text.lower() not in words), "")


def gap_notes(fields: Mapping[str, Field]) -> list[str]:
    """Notes on what was read as gaps, by column, and on words that may be values."""
    phrases: list[str] = []
    doubtful: list[tuple[str, str]] = []
    words: set[str] = set()
    for name, each in fields.items():
        words |= each.gap_words.keys()
        if each.gap_words:
            found = ", ".join(
                f"{count} {word!r}" if word else f"{count} empty" for word, count in each.gap_words.items()
            )
            phrases.append(f"{name!r} {found}")
        told_apart = {
            word: count
            for word, count in each.gap_words.items()
            if each.numbers is None and word.lower() in SUSPECTS and count >= GOOD_SHARE * max(each.rows, 1)
        }
        doubtful += [
            (word, f"{word!r} in {name!r} ({count} of {each.rows} rows)") for word, count in told_apart.items()
        ]
    notes = [f"read as gaps, and filled in by each client: {_listed(phrases)}"] if phrases else []
    if doubtful:
        suspects = {word for word, _ in doubtful}
        notes.append(f"{_listed([text for _, text in doubtful])}: if that is a value, {instead(words, suspects)}")
    return notes


def instead(words: Collection[str], values: Collection[str]) -> str:
    """The option by which some of the words that are read as gaps are values; `init` has it as --gaps.

    >>> instead({"", "None", "?"}, {"None"})
    "set data.gaps = ['', '?']"
    """
    return f"set data.gaps = {['', *sorted(set(words) - set(values) - {''})]}"


def _listed(texts: Sequence[str]) -> str:
    more = len(texts) - _SHOWN
    return ", ".join(texts[:_SHOWN]) + (f" and {more} more" if more > 0 else "")


@dataclass(frozen=True)
class TableFacts:
    """The contents of a table file: the kind and number of gaps of each column, clients, and the likely target.

    `clients` is None without a client column, and `classes` is None for regression.  `notes` are the guesses.
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
    notes: tuple[str, ...] = field(default=())


def infer_csv(
    path: str | Path, client_column: str | None, target: str | None = None, how: Reading | None = None
) -> TableFacts:
    """Look at a CSV (or Parquet) file: columns, clients, and the target, guessed when it is not given.

    The guess is a column with a usual name (`target`, `label`, `class`, `outcome`, `diagnosis`, `y`), or the
    last one.

    Raises:
        DataError: the file cannot be read, or a named column is not there.
    """
    path, how = Path(path), how or Reading(text=() if client_column is None else (client_column,))
    return facts_of(path, read_table(path, how), client_column, target)


def facts_of(path: Path, table: TableFile, client_column: str | None, target: str | None) -> TableFacts:
    """The facts of a table that was read; see `infer_csv`."""
    fields = table.fields
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
        notes=table.notes,
    )


def likely_task(target: Field) -> Task:
    """Classification for text, categories and at most 20 distinct whole numbers, else regression."""
    named = target.kind in ("text", "category")
    few = named or (target.kind == "integer" and len(target.distinct()) <= MOST_INTEGER_CLASSES)
    return "classification" if few else "regression"


def task_note(target: Field) -> str:
    """A note on what else whole numbers of a target may be, where both are likely; empty where the task is plain.

    Up to 20 distinct ones are taken for classes, more for quantities; ten and more of the first, and up to 200 of the
    second that come back three times on average, are said to.
    """
    count = len(target.distinct())
    if target.kind != "integer" or count > _MOST_CODES or count < MOST_INTEGER_CLASSES / 2:
        return ""
    if count <= MOST_INTEGER_CLASSES:
        return (
            f"the target {target.name!r} holds {count} whole numbers, read as classes: if they are quantities, set "
            "data.task = 'regression'"
        )
    if target.rows < 3 * count:
        return ""
    return (
        f"the target {target.name!r} holds {count} whole numbers, read as quantities (regression): if they are codes "
        "of classes, set data.task = 'classification'"
    )

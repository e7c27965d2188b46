"""The schema of a table: what each column means, agreed by all clients of a federation before any of them trains.

Without it each client's features and classes would be those that happen to be in its file, in the order of that file,
and models of different meaning would be averaged.
"""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch

from headway.core.errors import ConfigError, nearest
from headway.core.registry import Plain, to_numbers
from headway.data.dataset.split import SPLITS, check_share
from headway.data.sources.impute import Categorical, EncodedTable, Numeric
from headway.data.sources.table_fields import GAPS

MOST_INPUTS = 1_000_000  # of a model, after categories have become inputs of their own


@dataclass(frozen=True)
class Alias(Plain):
    """Another spelling of a value: a cell that holds `written` is read as `read_as`."""

    written: str
    read_as: str


@dataclass(frozen=True)
class TableColumn(Plain):
    """A feature: a column of numbers, or of categories, which becomes one input for each of its `values`.

    gaps: what a missing value becomes: "fill", the median or commonest category of the client's own training rows;
        "flag", the same with a further input that is 1 there; "refuse".
    aliases: other spellings of values.  unknown: what a cell becomes that is none of the values: "refuse", or "gap".
    other: the value that it becomes instead.
    centre, scale: a number v becomes (v - centre) / scale, where clients do not scale by their own rows.
    minimum, maximum: numbers outside are refused, such as those in another unit.  unit: for the reader.

    Raises:
        ConfigError: naming the column, what was needed and what was found.
    """

    name: str
    kind: Literal["numeric", "category"]
    values: tuple[str, ...] = ()
    gaps: Literal["fill", "flag", "refuse"] = "fill"
    aliases: tuple[Alias, ...] = ()
    unknown: Literal["refuse", "gap"] = "refuse"
    other: str | None = None
    centre: float = 0.0
    scale: float = 1.0
    minimum: float | None = None
    maximum: float | None = None
    unit: str = ""

    def __post_init__(self) -> None:
        where = f"the column {self.name!r}"
        if self.kind == "numeric":
            if self.values or self.aliases or self.other is not None or self.unknown != "refuse":
                raise ConfigError(
                    f"{where} is numeric, so it has no values, aliases, unknown or other: leave them out, or give "
                    'kind = "category".'
                )
        elif not self.values:
            raise ConfigError(f"{where} is a category, so it needs its values, in their order.")
        elif (self.minimum, self.maximum, self.centre, self.scale) != (None, None, 0.0, 1.0):
            raise ConfigError(f"{where} is a category, which has no minimum, maximum, centre or scale: leave them out.")
        _check_values(self.values, self.aliases, where)
        if self.other is not None and self.other not in self.values:
            raise ConfigError(f"{where}: other is {self.other!r}, which is none of its values.")
        if self.scale <= 0:
            raise ConfigError(f"{where}: scale is {self.scale:g}, but a number above 0 is needed.")
        if self.minimum is not None and self.maximum is not None and self.minimum > self.maximum:
            raise ConfigError(f"{where}: its minimum, {self.minimum:g}, is above its maximum, {self.maximum:g}.")

    def without_rows(self) -> Numeric | Categorical:
        """The column of an empty table, which has the names of its inputs."""
        flagged, none = self.gaps == "flag", torch.empty(0)
        if self.kind == "numeric":
            return Numeric(self.name, none, flagged, self.centre, self.scale)
        return Categorical(self.name, none, self.values, flagged)


@dataclass(frozen=True)
class TableSchema(Plain):
    """The columns that are features, in order, and the target: the names of its classes in order, or numbers.

    target: the column to predict.  classes: none for a regression.  class_aliases: other spellings of classes.
    standardise: "client", numbers by the mean and standard deviation of the client's own training rows; or "none".
    missing: the texts that are gaps, without regard to case; an empty cell always is one.
    group: a column whose equal values, such as a patient's, belong to rows that stay together in the split.
    test_share, split: which of each client's rows are tested; see `headway.data.load`.

    Raises:
        ConfigError: naming what was needed and what was found.

    >>> age, sex = TableColumn("age", "numeric", gaps="flag"), TableColumn("sex", "category", ("f", "m"))
    >>> schema = TableSchema("ill", (age, sex), classes=("no", "yes"))
    >>> schema.features
    ('age', 'age missing', 'sex=f', 'sex=m')
    """

    target: str
    columns: tuple[TableColumn, ...]
    kind: Literal["table"] = "table"
    classes: tuple[str, ...] = ()
    class_aliases: tuple[Alias, ...] = ()
    standardise: Literal["client", "none"] = "client"
    missing: tuple[str, ...] = GAPS
    group: str | None = None
    test_share: float = 0.2
    split: str | None = None

    def __post_init__(self) -> None:
        names = [column.name for column in self.columns]
        if not names:
            raise ConfigError("the schema has no column that is a feature; at least one is needed.")
        if twice := _twice([*names, self.target, *([] if self.group is None else [self.group])]):
            raise ConfigError(f"the schema names {twice!r} twice, among its columns, target and group; name it once.")
        if len(self.classes) == 1:
            raise ConfigError(f"the schema has the class {self.classes[0]!r} alone; 2 are needed, or none for numbers.")
        _check_values(self.classes, self.class_aliases, f"the target {self.target!r}")
        words = {word.strip().lower() for word in ("", *self.missing)}
        for name, values in [*((each.name, each.values) for each in self.columns), (self.target, self.classes)]:
            if found := [value for value in values if value.strip().lower() in words]:
                raise ConfigError(f"{found[0]!r} is a value of {name!r} and a gap (missing) as well; leave one out.")
        check_share(self.test_share)
        if self.split is not None and self.split not in SPLITS:
            raise ConfigError(f"split is {self.split!r}{nearest(self.split, SPLITS)}.")
        if (wide := len(self.features)) > MOST_INPUTS:
            raise ConfigError(f"the schema makes {wide} inputs, but {MOST_INPUTS} at most are possible.")

    @property
    def features(self) -> tuple[str, ...]:
        """The names of a model's inputs, in order."""
        return EncodedTable(tuple(column.without_rows() for column in self.columns)).feature_names()

    @property
    def input_shape(self) -> tuple[int, ...]:
        """The shape of one input."""
        return (len(self.features),)

    @property
    def class_names(self) -> tuple[str, ...]:
        """The names of the classes in order; none for a regression."""
        return self.classes

    def to_config(self) -> dict[str, Any]:
        """The section [data] of which `schema_of` makes an equal schema.

        What has its default is left out, except what decides the numbers of a table.
        """
        always = {
            "kind": "table",
            "target": self.target,
            "classes": list(self.classes),
            "standardise": self.standardise,
            "missing": list(self.missing),
            "test_share": self.test_share,
        }
        more = {name: value for name, value in _given(self).items() if name not in (*always, "columns")}
        return always | more | {"columns": [_given(column) for column in self.columns]}


def _given(thing: Any) -> dict[str, Any]:
    """The fields of a plain dataclass that differ from their defaults, as TOML and JSON hold them."""
    fields = type(thing).__dataclass_fields__
    values = {name: value for name, value in to_numbers(thing).items() if getattr(thing, name) != fields[name].default}
    return {name: _plain(value) for name, value in values.items() if value is not None}


def _plain(value: Any) -> Any:
    if isinstance(value, list | tuple):
        return [_given(each) if hasattr(type(each), "__dataclass_fields__") else each for each in value]
    return value


def _check_values(values: Sequence[str], aliases: Sequence[Alias], where: str) -> None:
    """Refuses values that occur twice, and spellings that are values themselves or of none."""
    if twice := _twice([unicodedata.normalize("NFC", value) for value in values]):
        raise ConfigError(f"{where} has the value {twice!r} twice; each has one place.")
    if blank := [value for value in values if value != value.strip() or not value]:
        raise ConfigError(f"{where} has the value {blank[0]!r}, but values have no blanks around them.")
    for alias in aliases:
        if alias.read_as not in values:
            raise ConfigError(f"{where} reads {alias.written!r} as {alias.read_as!r}, which is none of its values.")
        if alias.written in values:
            raise ConfigError(f"{where} reads {alias.written!r} as {alias.read_as!r}, but it is a value itself.")
    if twice := _twice([alias.written for alias in aliases]):
        raise ConfigError(f"{where} reads {twice!r} in two ways; leave one out.")


def _twice(names: Sequence[str]) -> str | None:
    """A name that occurs more than once."""
    return next((name for name, count in Counter(names).items() if count > 1), None)

"""Data from a user's own tables: CSV and Parquet files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from headway.core.errors import ConfigError, DataError, nearest
from headway.data.arrays import owner_ids
from headway.data.impute import Categorical, Numeric, Table
from headway.data.pool import Pool
from headway.data.tables import Field, Task, column, likely_task, read_table

_MOST_CATEGORIES = 100


def table_pool(
    path: Path,
    *,
    target: str,
    client_column: str | None = None,
    task: Task | None = None,
    standardise: str | None = None,
    drop: Sequence[str] = (),
) -> Pool:
    """A CSV or Parquet table: every column beside `target`, `client_column` and `drop` is a feature.

    Text columns become one column per category, categories in sorted order.  Numbers stay as they are,
    since pooled statistics would leak between clients; `standardise="client"` gives each client the mean
    and standard deviation of its own training rows.  Gaps are filled from the client's own training rows,
    with a column beside each feature that has gaps.  Classes are the sorted distinct values of the target.

    Raises:
        ConfigError: an unknown `task` or `standardise`, or one column named as target and clients.
        DataError: the file cannot be read, a column is missing or cannot be used, or a target is missing.
    """
    for option, value, known in (
        ("task", task, ("classification", "regression")),
        ("standardise", standardise, ("client",)),
    ):
        if value is not None and value not in known:
            raise ConfigError(f"{option} is {value!r}, which is unknown{nearest(str(value), known)}.")
    if target == client_column:
        raise ConfigError(f"target and client_column are both {target!r}; they must be two columns.")
    fields = read_table(path, skip=(drop,) if isinstance(drop, str) else tuple(drop))
    targets, names = _targets(column(fields, target, path), task, path)
    owners = None if client_column is None else _field_owners(column(fields, client_column, path), path)
    features = [each for name, each in fields.items() if name not in (target, client_column)]
    if not features:
        raise DataError(f"{path} has no feature column beside {target!r} and the client column.")
    table = Table(tuple(_feature(each, path) for each in features), own_scale=standardise == "client")
    meaning = f"classes of {target!r}: {', '.join(names)}" if names else f"regression of {target!r}"
    return Pool(path.stem, table, targets, len(names) or None, owners, description=f"{path.name}, {meaning}")


def _targets(goal: Field, task: Task | None, path: Path) -> tuple[Tensor, tuple[str, ...]]:
    """Class numbers (int64 `[N]`) and class names, or values (float32 `[N]`) and no names."""
    if goal.gaps:
        raise DataError(f"{path}: the target {goal.name!r} is missing in {goal.gaps} rows; fill in or drop them.")
    if (task or likely_task(goal)) == "regression":
        if goal.numbers is None:
            raise DataError(f"{path}: the target {goal.name!r} is text, but regression needs numbers.")
        return torch.from_numpy(goal.numbers).float(), ()
    values = goal.distinct()
    if len(values) < 2:
        raise DataError(f"{path}: the target {goal.name!r} is {values[0]!r} in every row; 2 classes are needed.")
    return torch.from_numpy(goal.codes(values)), tuple(
        value if isinstance(value, str) else f"{value:g}" for value in values
    )


def _field_owners(owner: Field, path: Path) -> tuple[str, ...]:
    """The client id of each row."""
    where = f"{path}: the client column {owner.name!r}"
    if owner.gaps:
        raise DataError(f"{where} is empty in {owner.gaps} rows; fill in or drop them.")
    if owner.numbers is None:
        return owner_ids(owner.texts, where)
    return owner_ids(owner.numbers.astype(np.int64) if owner.kind == "integer" else owner.numbers, where)


def _feature(each: Field, path: Path) -> Numeric | Categorical:
    if each.numbers is not None:
        return Numeric(each.name, torch.from_numpy(each.numbers), flagged=each.gaps > 0)
    categories = each.distinct()
    if len(categories) > _MOST_CATEGORIES:
        raise DataError(
            f"{path}: the text column {each.name!r} has {len(categories)} distinct values, more than "
            f"{_MOST_CATEGORIES} categories; drop it or group them."
        )
    return Categorical(each.name, torch.from_numpy(each.codes(categories)), tuple(categories), flagged=each.gaps > 0)

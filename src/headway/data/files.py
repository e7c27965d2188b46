"""Data from a user's own files: `.npz` arrays, and CSV or Parquet tables."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from headway.core.errors import ConfigError, DataError, nearest
from headway.data.arrays import as_inputs, as_targets, class_count, owner_ids
from headway.data.federated import Examples
from headway.data.impute import Categorical, Numeric, Table
from headway.data.pool import Pool
from headway.data.tables import Field, Task, column, likely_task, read_table

_MOST_CATEGORIES = 100
_NPZ_FORMS = "'x' and 'y', or 'x_train', 'y_train', 'x_test' and 'y_test'"


def npz_pool(path: Path, *, client_column: str | None = None) -> Pool:
    """The arrays `x`, `y`, optional `client`; or `x_train`, `y_train`, `x_test`, `y_test`, optional ids.

    With `client_train` the test arrays are a central test set; with `client_test` as well, they are the
    clients' own test parts.  uint8 inputs are images, scaled to [0, 1]; `[N, H, W]` gets a channel axis.
    `client_column` names another array in the place of `client`, such as `writer` (`writer_train`, ...).

    Raises:
        DataError: the file is missing, unreadable, holds Python objects, or lacks an array.
    """
    arrays = _read_npz(path)
    plain, owner = "x" in arrays, client_column or "client"
    main = ("x", "y", owner) if plain else ("x_train", "y_train", f"{owner}_train")
    train = _examples(arrays, main, path)
    if client_column is not None and main[2] not in arrays:
        raise DataError(f"{path} has no array {main[2]!r}{nearest(main[2], arrays)}, which is to name the clients.")
    owners = _owners(arrays, main[2], len(train), path)
    tested, central = None, None
    if not plain:
        test = _examples(arrays, ("x_test", "y_test"), path)
        for axis, mine, other in (("x", test.inputs, train.inputs), ("y", test.targets, train.targets)):
            if mine.shape[1:] != other.shape[1:] or mine.dtype != other.dtype:
                raise DataError(
                    f"{path}: '{axis}_test' holds examples of shape {list(mine.shape[1:])} and {mine.dtype}, "
                    f"but '{axis}_train' of {list(other.shape[1:])} and {other.dtype}; make them alike."
                )
        test_owners = _owners(arrays, f"{owner}_test", len(test), path)
        if owners is None or test_owners is None:
            central = test
        else:
            tested = torch.arange(len(train) + len(test)) >= len(train)
            ids = np.concatenate([arrays[f"{owner}_train"], arrays[f"{owner}_test"]])
            owners = owner_ids(ids, f"{path}: clients")
            train = Examples(torch.cat([train.inputs, test.inputs]), torch.cat([train.targets, test.targets]))
    found = [class_count(part.targets, f"{path}: targets") for part in (train, central) if part is not None]
    classes = None if None in found else max(count for count in found if count is not None)
    return Pool(path.stem, train.inputs, train.targets, classes, owners, tested, central, f"arrays of {path.name}")


def _read_npz(path: Path) -> dict[str, NDArray[Any]]:
    """Every array of the file, without unpickling anything."""
    if not path.is_file():
        raise DataError(f"there is no file {path}; check the path.")
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
            return {name: archive[name] for name in archive.files}
    except (OSError, ValueError, EOFError, AttributeError, TypeError, zipfile.BadZipFile) as error:
        if "allow_pickle" in str(error) and zipfile.is_zipfile(path):
            raise DataError(f"{path} holds Python objects, which are never loaded; save plain numbers.") from error
        raise DataError(f"{path} is not a readable .npz file; write it with numpy.savez.") from error


def _examples(arrays: Mapping[str, NDArray[Any]], names: Sequence[str], path: Path) -> Examples:
    for name in names[:2]:
        if name not in arrays:
            raise DataError(f"{path} has no array {name!r}{nearest(name, arrays)}; it needs {_NPZ_FORMS}.")
    x, y = names[0], names[1]
    inputs, targets = as_inputs(arrays[x], f"{path}: {x!r}"), as_targets(arrays[y], f"{path}: {y!r}")
    if len(inputs) != len(targets):
        raise DataError(f"{path}: {x!r} has {len(inputs)} examples, but {y!r} has {len(targets)}; they must pair up.")
    if len(inputs) == 0:
        raise DataError(f"{path}: {x!r} is empty; at least one example is needed.")
    return Examples(inputs, targets)


def _owners(arrays: Mapping[str, NDArray[Any]], name: str, count: int, path: Path) -> tuple[str, ...] | None:
    if name not in arrays:
        return None
    owners = owner_ids(arrays[name], f"{path}: {name!r}")
    if len(owners) != count:
        raise DataError(f"{path}: {name!r} names {len(owners)} clients for {count} examples; one each is needed.")
    return owners


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

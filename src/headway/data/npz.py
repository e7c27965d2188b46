"""Data from a user's own `.npz` file: arrays of inputs and targets, and the clients that hold them."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from headway.core.errors import DataError, nearest
from headway.data.arrays import as_inputs, as_targets, class_count, owner_ids
from headway.data.federated import Examples
from headway.data.pool import Pool

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

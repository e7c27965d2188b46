"""Data from a user's own `.npz` file: arrays of inputs and targets, and the clients that hold them."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from headway.core.errors import DataError, nearest
from headway.data.dataset.examples import Examples
from headway.data.dataset.inputs import InputKind, as_inputs, check_ranges, read_inputs
from headway.data.dataset.owners import client_notes, group_codes, owner_ids
from headway.data.dataset.targets import TargetKind, read_targets
from headway.data.sources.example_pool import ExamplePool
from headway.data.sources.missing import no_file

_NPZ_FORMS = "'x' and 'y', or 'x_train', 'y_train', 'x_test' and 'y_test'"


def npz_pool(
    path: Path,
    *,
    client_column: str | None = None,
    inputs: InputKind | None = None,
    task: TargetKind | None = None,
    group: str | None = None,
) -> ExamplePool:
    """The arrays `x`, `y`, optional `client`; or `x_train`, `y_train`, `x_test`, `y_test`, optional ids.

    With `client_train` the test arrays are a central test set; with `client_test` as well, they are the
    clients' own test parts.
    client_column: another array in the place of `client`, such as `writer` (`writer_train`, ...).
    group: an array whose equal values belong together in the split, such as `patient` (`patient_train`).
    inputs, task: how `x` and `y` are read, see `headway.data.dataset.inputs.read_inputs` and
        `headway.data.dataset.targets.understood`; by their number types and axes where nothing is given.

    Raises:
        ConfigError: an unknown way to read `x` or `y`.
        DataError: the file is missing, unreadable, holds Python objects, or lacks an array; a class alone.
    """
    arrays = read_arrays(path)
    plain, owner = "x" in arrays, client_column or "client"
    main = ("x", "y", owner) if plain else ("x_train", "y_train", f"{owner}_train")
    parts = [main[:2]] if plain else [main[:2], ("x_test", "y_test")]
    for x, y in parts:
        check_pair(arrays, x, y, path)
    if client_column is not None and main[2] not in arrays:
        raise DataError(f"{path} has no array {main[2]!r}{nearest(main[2], arrays)}, which is to name the clients.")
    xs, notes = _inputs(arrays, [x for x, _ in parts], inputs, path)
    ys, found = read_targets({f"{path.name}: {y!r}": arrays[y] for _, y in parts}, task, "data.task")
    if found.classes == 1:
        label = found.names[0] if found.names else 0
        raise DataError(f"{path}: {main[1]!r} is {label!r} in every example; 2 classes are needed.")
    train = Examples(xs[0], ys[0])
    owners = _owners(arrays, main[2], len(train), path)
    tested, central = None, None
    if not plain:
        central = Examples(xs[1], ys[1])
        test_owners = _owners(arrays, f"{owner}_test", len(central), path)
        if owners is not None and test_owners is not None:
            tested = torch.arange(len(train) + len(central)) >= len(train)
            ids = np.concatenate([arrays[f"{owner}_train"], arrays[f"{owner}_test"]])
            owners = owner_ids(ids, f"{path}: clients")
            train, central = Examples(torch.cat(xs), torch.cat(ys)), None
    grouped = None if group is None else _groups(arrays, main[0], group, path)
    return ExamplePool(
        path.stem,
        train.inputs,
        train.targets,
        found.classes,
        owners,
        tested,
        central,
        f"arrays of {path.name}",
        class_names=found.names,
        notes=(*notes, *found.notes, *client_notes(owners or ())),
        groups=grouped,
        group_name=group or "",
    )


def _inputs(
    arrays: Mapping[str, NDArray[Any]], names: Sequence[str], kind: InputKind | None, path: Path
) -> tuple[list[Tensor], tuple[str, ...]]:
    """The inputs of training and, where there is one, of the test part; both are read alike."""
    check_ranges({f"{path.name}: {name!r}": arrays[name] for name in names})
    first, notes = read_inputs(arrays[names[0]], f"{path.name}: {names[0]!r}", kind, "data.inputs")
    found = [first]
    for name in names[1:]:
        each = as_inputs(arrays[name], f"{path.name}: {name!r}", kind, "data.inputs")
        if each.shape[1:] != first.shape[1:] or each.dtype != first.dtype:
            raise DataError(
                f"{path}: {name!r} holds examples of shape {list(each.shape[1:])} and {each.dtype}, "
                f"but {names[0]!r} of {list(first.shape[1:])} and {first.dtype}; make them alike."
            )
        found.append(each)
    return found, notes


def read_arrays(path: Path) -> dict[str, NDArray[Any]]:
    """Every array of the file, without unpickling anything."""
    if not path.is_file():
        kind = " (it is a folder)" if path.is_dir() else ""
        raise DataError(no_file(path, kind))
    name = ""
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
            arrays = {}
            for name in archive.files:
                arrays[name] = archive[name]
            return arrays
    except (OSError, ValueError, EOFError, AttributeError, TypeError, zipfile.BadZipFile) as error:
        if "allow_pickle" in str(error) and zipfile.is_zipfile(path):
            raise DataError(
                f"{path} holds Python objects in {name!r}, which are never loaded; save plain numbers. Where these are "
                "examples of different lengths, pad the shorter ones to the longest, with 0 for example (numpy.pad)."
            ) from error
        raise DataError(f"{path} is not a readable .npz file; write it with numpy.savez.") from error


def check_pair(arrays: Mapping[str, NDArray[Any]], x: str, y: str, path: Path) -> None:
    """Refuses inputs and targets that are not there, empty, or of different length.

    Raises:
        DataError: naming the arrays.
    """
    for name in (x, y):
        if name not in arrays:
            raise DataError(f"{path} has no array {name!r}{nearest(name, arrays)}; it needs {_NPZ_FORMS}.")
        if arrays[name].ndim == 0:
            raise DataError(f"{path}: {name!r} is a single number, but an axis that counts the examples is needed.")
    count = len(arrays[x])
    if count != len(arrays[y]):
        raise DataError(f"{path}: {x!r} has {count} examples, but {y!r} has {len(arrays[y])}; they must pair up.")
    if count == 0:
        raise DataError(f"{path}: {x!r} is empty; at least one example is needed.")


def _owners(arrays: Mapping[str, NDArray[Any]], name: str, count: int, path: Path) -> tuple[str, ...] | None:
    if name not in arrays:
        return None
    owners = owner_ids(arrays[name], f"{path}: {name!r}")
    if len(owners) != count:
        raise DataError(f"{path}: {name!r} names {len(owners)} clients for {count} examples; one each is needed.")
    return owners


def _groups(arrays: Mapping[str, NDArray[Any]], x: str, group: str, path: Path) -> Tensor:
    """The group of each example that clients hold."""
    name = group if x == "x" else f"{group}_train"
    if name not in arrays:
        raise DataError(f"{path} has no array {name!r}{nearest(name, arrays)}, which is to name the groups.")
    return group_codes(arrays[name], f"{path.name}: {name!r}", len(arrays[x]))

"""Hugging Face `datasets` objects, in memory or as `save_to_disk` leaves them; nothing is fetched from the network."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Unpack

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from headway.core.errors import ConfigError, DataError, nearest
from headway.data.dataset.examples import Examples
from headway.data.dataset.federated import FederatedData
from headway.data.dataset.inputs import InputKind, as_inputs, check_ranges, read_inputs
from headway.data.dataset.owners import client_notes, group_codes, owner_ids
from headway.data.dataset.targets import TargetKind, as_targets, read_targets
from headway.data.sources.example_pool import Division, ExamplePool
from headway.data.sources.split_names import part_named

Validation = Literal["skip", "train"]

_STATE_FILES = ("dataset_dict.json", "state.json")


@dataclass(frozen=True, kw_only=True)
class RowOptions:
    """The columns of the rows that are inputs, target, clients and groups, and how they are read.

    inputs: the column of images, of number lists (such as token ids of one length), or the columns of numbers
        that together are the features.  target: a column of labels (`ClassLabel`, whole numbers or text) or of
        values to regress.  client_column: the client of each row.
    input_kind, task: how inputs and targets are read, see `headway.data.dataset.inputs.read_inputs` and
        `headway.data.dataset.targets.understood`.  group: a column whose equal rows belong together in the split.
    validation: with a test split, whether the validation split is left out or joins training.

    Raises:
        ConfigError: another value of validation, or no column of inputs.
    """

    inputs: str | Sequence[str]
    target: str
    client_column: str | None = None
    input_kind: InputKind | None = None
    task: TargetKind | None = None
    group: str | None = None
    validation: Validation = "skip"

    def __post_init__(self) -> None:
        if self.validation not in ("skip", "train"):
            raise ConfigError(f"validation is {self.validation!r}, but one of 'skip', 'train' is needed.")
        if not self.inputs:
            raise ConfigError("inputs names no column; name one or more.")

    @property
    def input_columns(self) -> tuple[str, ...]:
        """The columns of the inputs."""
        return (self.inputs,) if isinstance(self.inputs, str) else tuple(self.inputs)


class HubOptions(Division, total=False):
    """The further options of `from_huggingface`: those of `RowOptions`, and of the division."""

    client_column: str | None
    input_kind: InputKind | None
    task: TargetKind | None
    group: str | None
    validation: Validation


def from_huggingface(
    dataset: Any, *, inputs: str | Sequence[str], target: str, name: str = "dataset", **options: Unpack[HubOptions]
) -> FederatedData:
    """The rows of a `datasets.Dataset`, or of a `DatasetDict` with splits for training and perhaps test and validation.

    inputs, target, client_column, input_kind, task, group, validation: see `RowOptions`.  Without a client column, a
    partition and a number of clients are needed.  key, partition, clients, test_share, split: see `load`.
    A split "test" is a central test set; with a client column, each client's own test part.  So is a split "validation"
    where there is no "test"; with one it is left out, or trained on.

    Raises:
        ConfigError: a column that is not there, or a partition where the clients are given.
        DataError: no split for training, values that are missing, ragged, or no numbers.
    """
    given = dict[str, Any](options)
    division = {option: given.pop(option) for option in Division.__annotations__ if option in given}
    return hub_pool(dataset, name, RowOptions(inputs=inputs, target=target, **given)).divide(**division)


def is_saved(path: Path) -> bool:
    """Whether a folder is what `save_to_disk` writes."""
    return any((path / name).is_file() for name in _STATE_FILES)


def saved_pool(path: Path, *, options: RowOptions) -> ExamplePool:
    """The pool of a folder that `save_to_disk` wrote.

    Raises:
        DataError: the package `datasets` is not installed, or cannot read the folder.
    """
    try:
        from datasets import load_from_disk
    except ImportError as error:
        raise DataError(
            f"{path} was saved by the package 'datasets', which is not installed: pip install datasets."
        ) from error
    try:
        dataset = load_from_disk(str(path))
    except (OSError, ValueError, KeyError) as error:
        raise DataError(f"the data set in {path} cannot be read: {error}.") from error
    return hub_pool(dataset, path.name, options)


def hub_pool(dataset: Any, name: str, options: RowOptions) -> ExamplePool:
    """All rows, not yet held by clients."""
    target, client_column, group = options.target, options.client_column, options.group
    splits, notes = _splits(dataset, options.validation)
    given = {f"{name}, {split}": rows for split, rows in splits.items()}
    xs, read = _inputs(given, options.input_columns, options.input_kind)
    ys, classes, names, understood = _labels(given, target, options.task)
    for where, x in zip(given, xs, strict=True):
        if not len(x):
            raise DataError(f"{where} holds no row; at least one is needed.")
    parts = [Examples(x, y) for x, y in zip(xs, ys, strict=True)]
    train, tested_part = parts[0], parts[1] if len(parts) > 1 else None
    owners = tested = central = None
    sides = list(splits.values())[: 1 if client_column is None else 2]
    if client_column is not None:
        ids = [value for rows in sides for value in _column(rows, client_column, name)]
        owners = owner_ids(np.asarray(ids), f"{name}: the client column {client_column!r}")
        if tested_part is not None:
            tested = torch.arange(len(train) + len(tested_part)) >= len(train)
            train = Examples(torch.cat(xs), torch.cat(ys))
    else:
        central = tested_part
    groups = None
    if group is not None:
        values = np.asarray([value for rows in sides for value in _column(rows, group, name)])
        groups = group_codes(values, f"{name}: {group!r}", len(train))
    return ExamplePool(
        name,
        train.inputs,
        train.targets,
        classes,
        owners,
        tested,
        central,
        f"rows of {name}" + (f"; classes {', '.join(names)}" if names else ""),
        class_names=names,
        notes=(*notes, *read, *understood, *client_notes(owners or ())),
        groups=groups,
        group_name=group or "",
    )


def _splits(dataset: Any, validation: Validation) -> tuple[dict[str, Any], tuple[str, ...]]:
    """The rows to train on and, where there are some, to test on, and notes on what becomes of the splits."""
    if hasattr(dataset, "column_names") and not isinstance(dataset.column_names, dict) and hasattr(dataset, "__len__"):
        return {"train": dataset}, ()
    if not hasattr(dataset, "items"):
        raise DataError(
            f"{type(dataset).__name__} is no datasets.Dataset or DatasetDict in memory; a streamed one has to be "
            "downloaded first (streaming=False)."
        )
    parts: dict[str, list[str]] = {"train": [], "validation": [], "test": [], "": []}
    for split in dataset:
        parts[part_named(str(split)) or ""].append(str(split))
    if len(parts["train"]) != 1:
        raise DataError(
            f"the data set has the splits {', '.join(map(str, dataset)) or 'none'}, and one split 'train' is needed; "
            "give the rows to train on as 'train'."
        )
    test = parts["test"] or ([] if validation == "train" else parts["validation"])
    joined = parts["validation"] if validation == "train" else []
    rows = dataset[parts["train"][0]]
    for split in joined:
        rows = _joined(rows, dataset[split])
    splits = {parts["train"][0]: rows} | {split: dataset[split] for split in test[:1]}
    notes = [f"splits: {split} is what is tested on" for split in test[:1]]
    notes += [f"splits: {split} is trained on as well" for split in joined]
    left = [split for split in map(str, dataset) if split not in (*splits, *joined)]
    some = ' (data.validation = "train" adds validation to training)' if set(left) & set(parts["validation"]) else ""
    notes += [f"splits: {', '.join(left)} left out{some}"] if left else []
    return splits, tuple(notes)


def _joined(first: Any, second: Any) -> Any:
    from datasets import concatenate_datasets

    try:
        return concatenate_datasets([first, second])
    except ValueError as error:
        raise DataError(f"the splits for training and validation have different columns: {error}.") from error


def _column(rows: Any, name: str, where: str) -> list[Any]:
    """The values of a column, none of them missing."""
    if name not in rows.column_names:
        raise ConfigError(f"the data set has no column {name!r}{nearest(name, rows.column_names)}.")
    values = list(rows[name])
    if missing := sum(value is None for value in values):
        raise DataError(f"{where}: {name!r} is missing in {missing} rows; fill in or drop them.")
    return values


def _inputs(
    given: Mapping[str, Any], names: Sequence[str], kind: InputKind | None
) -> tuple[list[Tensor], tuple[str, ...]]:
    """The inputs of each split, read alike, and the notes on the first."""
    arrays = {where: _stacked(rows, names, where) for where, rows in given.items()}
    check_ranges(arrays)
    found: list[Tensor] = []
    notes: tuple[str, ...] = ()
    for where, values in arrays.items():
        if found:
            found.append(as_inputs(values, where, kind, "data.input_kind"))
        else:
            first, notes = read_inputs(values, where, kind, "data.input_kind")
            found.append(first)
        if found[-1].shape[1:] != found[0].shape[1:]:
            raise DataError(
                f"{where} has inputs of shape {list(found[-1].shape[1:])}, but {next(iter(arrays))} of "
                f"{list(found[0].shape[1:])}; make them alike."
            )
    return found, notes


def _stacked(rows: Any, names: Sequence[str], where: str) -> NDArray[Any]:
    columns = [_numbers(_column(rows, name, where), f"{where}: {name!r}") for name in names]
    if len(columns) == 1:
        return columns[0][:, None].astype(np.float32) if columns[0].ndim == 1 else columns[0]
    if any(column.ndim > 1 for column in columns):
        raise DataError(f"{where}: several input columns must each hold one number per row, and one holds more.")
    return np.stack(columns, axis=1).astype(np.float32)


def _labels(
    given: Mapping[str, Any], target: str, task: TargetKind | None
) -> tuple[list[Tensor], int | None, tuple[str, ...], tuple[str, ...]]:
    """The targets of each split, the number of classes and their names, and notes."""
    columns = {f"{where}: {target!r}": _column(rows, target, where) for where, rows in given.items()}
    first = next(iter(given.values()))
    names = tuple(getattr(first.features[target], "names", None) or ()) if hasattr(first, "features") else ()
    arrays = {what: _numbers(values, what, text=True) for what, values in columns.items()}
    if not names or task in ("regression", "multi-label"):
        parts, found = read_targets(arrays, task, "data.task")
        return parts, found.classes, found.names, found.notes
    parts = [as_targets(values, what) for what, values in arrays.items()]
    for what, part in zip(arrays, parts, strict=True):
        if without := int((part < 0).sum()):
            raise DataError(f"{what} is -1 in {without} rows, which have no label; drop them, or leave that split out.")
    return parts, len(names), names, ()


def _numbers(values: Sequence[Any], where: str, *, text: bool = False) -> NDArray[Any]:
    """A column as an array; pictures as their pixels."""
    try:
        array = np.stack([_value(value, where) for value in values]) if values else np.empty(0)
    except ValueError as error:
        shapes = "; pictures need one size and one colour" if hasattr(values[0], "mode") else ""
        raise DataError(f"{where} holds values of different shapes; resize or pad them{shapes}.") from error
    if array.dtype.kind in "biuf" or (text and array.dtype.kind == "U"):
        return array
    if array.dtype.kind == "U":
        raise DataError(
            f"{where} is text, but numbers are needed; turn it into token ids of one length, or into numbers."
        )
    if array.dtype.kind == "O":
        raise DataError(f"{where} holds values that are missing or no numbers; fill in, convert or drop them.")
    raise DataError(f"{where} holds {array.dtype.name} values, but numbers are needed; convert it first.")


def _value(value: Any, where: str) -> NDArray[Any]:
    """One value of a column; an encoded picture is decoded."""
    raw = value.get("bytes") if isinstance(value, dict) else value
    if isinstance(value, dict) and raw is None:
        raise DataError(f"{where} holds {', '.join(map(repr, value))} in each row, but pictures or numbers are needed.")
    if not isinstance(raw, bytes):
        return np.asarray(raw)
    from PIL import Image

    try:
        with Image.open(io.BytesIO(raw)) as picture:
            return np.array(picture)
    except OSError as error:
        raise DataError(f"{where} holds bytes that are no picture ({error}); decode them first.") from error

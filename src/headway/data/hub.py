"""Hugging Face `datasets` objects, in memory or as `save_to_disk` leaves them; nothing is fetched from the network."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from headway.core.errors import ConfigError, DataError, nearest
from headway.core.keys import Key
from headway.data.arrays import as_inputs, owner_ids
from headway.data.federated import Examples, FederatedData
from headway.data.pool import PartitionLike, Pool
from headway.data.targets import as_targets, class_count

_STATE_FILES = ("dataset_dict.json", "state.json")


def from_huggingface(
    dataset: Any,
    *,
    inputs: str | Sequence[str],
    target: str,
    client_column: str | None = None,
    key: Key | int = 0,
    partition: PartitionLike | None = None,
    clients: int | None = None,
    test_share: float = 0.2,
    name: str = "dataset",
) -> FederatedData:
    """The rows of a `datasets.Dataset`, or of a `DatasetDict` with the splits "train" and perhaps "test".

    inputs: the column of images, of number lists (such as token ids of one length), or the columns of numbers
        that together are the features.  target: a column of labels (`ClassLabel`, whole numbers or text) or of
        values to regress.  client_column: who holds each row; without it, a partition and a number of clients.
    A split "test" is a central test set; with a client column, each client's own test part.

    Raises:
        ConfigError: a column that is not there, or a partition where the clients are given.
        DataError: no "train" split, values that are missing, ragged, or no numbers.
    """
    pool = hub_pool(dataset, name=name, inputs=inputs, target=target, client_column=client_column)
    return pool.divide(key=Key.of(key, "data"), partition=partition, clients=clients, test_share=test_share)


def is_saved(path: Path) -> bool:
    """Whether a folder is what `save_to_disk` writes."""
    return any((path / name).is_file() for name in _STATE_FILES)


def saved_pool(path: Path, *, inputs: str | Sequence[str], target: str, client_column: str | None = None) -> Pool:
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
    return hub_pool(dataset, name=path.name, inputs=inputs, target=target, client_column=client_column)


def hub_pool(dataset: Any, *, name: str, inputs: str | Sequence[str], target: str, client_column: str | None) -> Pool:
    """All rows, not yet held by clients."""
    splits = _splits(dataset)
    chosen = (inputs,) if isinstance(inputs, str) else tuple(inputs)
    if not chosen:
        raise ConfigError("inputs names no column; name one or more.")
    labels = _label_names(splits["train"], target) or _text_labels(list(splits.values()), target)
    parts = {split: _examples(rows, chosen, target, labels, f"{name}, {split}") for split, rows in splits.items()}
    train, test = parts["train"], parts.get("test")
    classes = len(labels) if labels else class_count(train.targets, name)
    owners = tested = None
    if client_column is not None:
        ids = [value for split in parts for value in _column(splits[split], client_column)]
        owners = owner_ids(np.asarray(ids), f"{name}: the client column {client_column!r}")
        if test is not None:
            tested = torch.arange(len(train) + len(test)) >= len(train)
            train = Examples(torch.cat([train.inputs, test.inputs]), torch.cat([train.targets, test.targets]))
            test = None
    description = f"rows of {name}" + (f"; classes {', '.join(labels)}" if labels else "")
    return Pool(name, train.inputs, train.targets, classes, owners, tested, test, description)


def _splits(dataset: Any) -> dict[str, Any]:
    """The rows by split: a lone data set is all for training."""
    if hasattr(dataset, "column_names") and not isinstance(dataset.column_names, dict):
        return {"train": dataset}
    if not hasattr(dataset, "items") or "train" not in dataset:
        raise DataError(f"{type(dataset).__name__} is no datasets.Dataset, and has no split 'train'.")
    return {split: dataset[split] for split in ("train", "test") if split in dataset}


def _column(rows: Any, name: str) -> list[Any]:
    if name not in rows.column_names:
        raise ConfigError(f"the data set has no column {name!r}{nearest(name, rows.column_names)}.")
    return list(rows[name])


def _label_names(rows: Any, target: str) -> list[str]:
    """The names of a `ClassLabel`'s classes; none for another column."""
    if target not in rows.column_names:
        raise ConfigError(f"the data set has no column {target!r}{nearest(target, rows.column_names)}.")
    return list(getattr(rows.features[target], "names", None) or [])


def _text_labels(splits: Iterable[Any], target: str) -> list[str]:
    """The sorted distinct texts of a text column; none for another column."""
    values = {value for rows in splits for value in _column(rows, target)}
    return sorted(values) if all(isinstance(value, str) for value in values) else []


def _examples(rows: Any, inputs: Sequence[str], target: str, labels: Sequence[str], where: str) -> Examples:
    columns = [_numbers(_column(rows, name), f"{where}: {name!r}") for name in inputs]
    if len(columns) > 1:
        wide = [column for column in columns if column.ndim > 1]
        if wide:
            raise DataError(f"{where}: several input columns must each hold one number per row, and one holds more.")
        stacked: NDArray[Any] = np.stack(columns, axis=1).astype(np.float32)
    else:
        stacked = columns[0][:, None].astype(np.float32) if columns[0].ndim == 1 else columns[0]
    values = _column(rows, target)
    if values and isinstance(values[0], str):
        number = {label: code for code, label in enumerate(labels)}
        values = [number[value] for value in values]
    targets: Tensor = as_targets(_numbers(values, f"{where}: {target!r}"), f"{where}: {target!r}")
    if len(targets) == 0:
        raise DataError(f"{where} holds no row; at least one is needed.")
    return Examples(as_inputs(stacked, where), targets)


def _numbers(values: Sequence[Any], where: str) -> NDArray[Any]:
    """A column as an array; pictures as their pixels."""
    if any(value is None for value in values):
        raise DataError(f"{where} is missing in {sum(value is None for value in values)} rows; fill in or drop them.")
    try:
        return np.stack([np.asarray(value) for value in values]) if values else np.empty(0)
    except ValueError as error:
        raise DataError(f"{where} holds values of unlike shape; resize or pad them.") from error

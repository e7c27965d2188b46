"""Any map-style torch dataset of (input, target) pairs, divided among clients."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Unpack

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import TensorDataset

from headway.core.errors import DataError
from headway.data.dataset.federated import FederatedData
from headway.data.dataset.inputs import InputKind, as_tensor, read_inputs
from headway.data.dataset.targets import as_targets, class_count, noted
from headway.data.shift.shifts import ShiftLike, shifted
from headway.data.sources.example_pool import Division, ExamplePool
from headway.numerics.keys import Key

_AGAIN = 16  # items that are read again, to see whether they come out the same


def from_torch(
    dataset: Any,
    *,
    shift: ShiftLike | Sequence[ShiftLike] | None = None,
    name: str | None = None,
    inputs: InputKind | None = None,
    **division: Unpack[Division],
) -> FederatedData:
    """The pairs `(x, y)` of a map-style dataset, read once, transforms included, and divided among clients.

    What a random transform draws from torch's, NumPy's and Python's generators follows from `key`, and stays the same
    in every epoch and in the test parts; a note is made where an item that is read again differs.
    inputs: how inputs are read, see `headway.data.dataset.inputs.read_inputs`.
    division: key, partition, clients, test_share and split, see `ExamplePool.divide` and `load`.

    Raises:
        ConfigError: a malformed partition, shift or `test_share`.
        DataError: the dataset is iterable or empty, its items are not pairs of numbers, or they differ in
            shape; or the examples cannot be divided like this.

    >>> pairs = TensorDataset(torch.zeros(6, 2), torch.tensor([0, 1] * 3))
    >>> from_torch(pairs, partition={"kind": "iid"}, clients=2, test_share=0.0).clients
    ('client-0', 'client-1')
    """
    if not (hasattr(dataset, "__len__") and hasattr(dataset, "__getitem__")):
        raise DataError(
            f"{type(dataset).__name__} has no length or index, but a map-style dataset is needed; "
            "collect its items first."
        )
    if len(dataset) == 0:
        raise DataError(f"{type(dataset).__name__} is empty; at least one example is needed.")
    key = division["key"] = Key.of(division.get("key", 0), "data")
    notes: tuple[str, ...] = ()
    if type(dataset) is TensorDataset and len(dataset.tensors) == 2:
        x, y = dataset.tensors
    else:
        with _seeded(key):
            x, y = _read(dataset)
        notes = _read_again(dataset, x, y, key)
    values, read = read_inputs(x, "the dataset's inputs", inputs)
    targets = as_targets(y, "the dataset's targets")
    pool = ExamplePool(
        name=name or type(dataset).__name__,
        inputs=values,
        targets=targets,
        classes=class_count(targets, "the dataset's targets"),
        notes=(*notes, *read, *noted(targets, "the dataset's targets")),
    )
    return shifted(pool.divide(**division), shift, key=key)


@contextmanager
def _seeded(key: Key, *path: str) -> Iterator[None]:
    """Python's, NumPy's and torch's generators seeded by the key, and as they were before afterwards."""
    seed = key.derive("read", *path).seed()
    python, numpy_ = random.getstate(), np.random.get_state()
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        np.random.seed(seed % (1 << 32))
        random.seed(seed)
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numpy_)


def _read_again(dataset: Any, x: Tensor, y: Tensor, key: Key) -> tuple[str, ...]:
    """A note where the first items differ when they are read again, with the same draws or with others."""
    count = min(_AGAIN, len(dataset))
    with _seeded(key):
        repeated = _same(_read(dataset, count), x, y)
    with _seeded(key, "again"):
        fixed = _same(_read(dataset, count), x, y)
    if not repeated:
        return (
            "items of the dataset differ when they are read again, even with the same seeds, so another run has other "
            "data; draw from torch, numpy.random or random alone",
        )
    if not fixed:
        return (
            "items of the dataset differ when they are read again (a random transform): each was drawn once, by the "
            "key, and is the same in every epoch, test examples included",
        )
    return ()


def _same(read: tuple[Tensor, Tensor], x: Tensor, y: Tensor) -> bool:
    pairs = zip(read, (x, y), strict=True)
    return all(each.shape[1:] == whole.shape[1:] and torch.equal(each, whole[: len(each)]) for each, whole in pairs)


def _read(dataset: Any, count: int | None = None) -> tuple[Tensor, Tensor]:
    """Inputs `[n, ...]` and targets `[n, ...]` of all items, or of the first ones."""
    columns: tuple[list[Tensor], list[Tensor]] = ([], [])
    for number in range(len(dataset) if count is None else count):
        item = dataset[number]
        if not isinstance(item, (tuple, list)) or len(item) != 2:
            raise DataError(f"item {number} of the dataset is not a pair (input, target); return both.")
        for what, value, column in zip(("input", "target"), item, columns, strict=True):
            if not isinstance(value, (Tensor, np.ndarray, np.generic, int, float)):
                raise DataError(
                    f"item {number} of the dataset has {what} of type {type(value).__name__}, but a tensor "
                    "or a number is needed; add a transform that makes one."
                )
            tensor = as_tensor(value, f"the {what} of item {number} of the dataset")
            if column and tensor.shape != column[0].shape:
                raise DataError(
                    f"item {number} of the dataset has {what} of shape {list(tensor.shape)}, but item 0 of "
                    f"shape {list(column[0].shape)}; resize or pad them."
                )
            if column and tensor.dtype != column[0].dtype:
                raise DataError(
                    f"item {number} of the dataset has {what} of type {tensor.dtype}, but item 0 of type "
                    f"{column[0].dtype}; make them alike."
                )
            column.append(tensor)
    return torch.stack(columns[0]), torch.stack(columns[1])

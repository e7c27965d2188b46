"""Any map-style torch dataset of (input, target) pairs, divided among clients."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch.utils.data import TensorDataset

from headway.core.errors import DataError
from headway.core.keys import Key
from headway.data.arrays import as_inputs, as_targets, as_tensor, class_count
from headway.data.federated import FederatedData
from headway.data.pool import PartitionLike, Pool
from headway.data.shift import ShiftLike, shifted


def from_torch(
    dataset: Any,
    *,
    key: Key | int = 0,
    partition: PartitionLike,
    clients: int,
    test_share: float = 0.2,
    shift: ShiftLike | Sequence[ShiftLike] | None = None,
    name: str | None = None,
) -> FederatedData:
    """Read every `(x, y)` of a map-style dataset once, transforms included, and divide them among clients.

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
    if type(dataset) is TensorDataset and len(dataset.tensors) == 2:
        x, y = dataset.tensors
    else:
        x, y = _read(dataset)
    inputs, targets = as_inputs(x, "the dataset's inputs"), as_targets(y, "the dataset's targets")
    pool = Pool(
        name=name or type(dataset).__name__,
        inputs=inputs,
        targets=targets,
        classes=class_count(targets, "the dataset's targets"),
    )
    key = Key.of(key, "data")
    divided = pool.divide(key=key, partition=partition, clients=clients, test_share=test_share)
    return shifted(divided, shift, key=key)


def _read(dataset: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """All inputs `[N, ...]` and all targets `[N, ...]`."""
    columns: tuple[list[torch.Tensor], list[torch.Tensor]] = ([], [])
    for number in range(len(dataset)):
        item = dataset[number]
        if not isinstance(item, (tuple, list)) or len(item) != 2:
            raise DataError(f"item {number} of the dataset is not a pair (input, target); return both.")
        for what, value, column in zip(("input", "target"), item, columns, strict=True):
            if not isinstance(value, (torch.Tensor, np.ndarray, np.generic, int, float)):
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
            column.append(tensor)
    return torch.stack(columns[0]), torch.stack(columns[1])

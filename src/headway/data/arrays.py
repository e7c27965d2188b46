"""What a user's arrays become: the dtype and axis rules for inputs and targets, in one place."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from headway.core.errors import DataError

_CHANNELS = (1, 3, 4)


def as_tensor(values: Any, what: str) -> Tensor:
    """A tensor of the numbers in `values` (a tensor, an array or nested lists); `what` names it in errors.

    NumPy's and Python's default float64 becomes torch's default float32; a tensor keeps its dtype.

    Raises:
        DataError: `values` is ragged or holds something that is not a number.
    """
    if isinstance(values, Tensor):
        return values.detach()
    try:
        array = np.asarray(values)
    except ValueError as error:
        raise DataError(f"{what} is ragged: every example needs the same shape.") from error
    if array.dtype.kind not in "biuf":
        raise DataError(f"{what} holds {array.dtype.name} values, but numbers are needed; convert it first.")
    if array.dtype.kind == "f":
        array = array.astype(np.float32)
    elif array.dtype.kind != "b" and array.dtype != np.uint8:
        array = array.astype(np.int64)
    return torch.from_numpy(np.array(array, order="C"))


def as_inputs(values: Any, what: str) -> Tensor:
    """Model inputs `[N, ...]`: uint8 is read as images scaled to [0, 1], other integers (tokens) stay so.

    Images `[N, H, W]` get a channel axis, and channels-last `[N, H, W, C]` become `[N, C, H, W]`.

    Raises:
        DataError: not numbers, or no axis that counts the examples.

    >>> as_inputs(np.full((2, 4, 4), 255, dtype=np.uint8), "x").shape
    torch.Size([2, 1, 4, 4])
    >>> as_inputs([[1.0, 2.0]], "x").dtype
    torch.float32
    """
    inputs = as_tensor(values, what)
    if inputs.ndim == 0:
        raise DataError(f"{what} is a single number, but an axis that counts the examples is needed.")
    if inputs.dtype != torch.uint8:
        return inputs.float() if inputs.dtype == torch.bool else inputs
    if inputs.ndim == 3:
        inputs = inputs.unsqueeze(1)
    elif inputs.ndim == 4 and inputs.shape[3] in _CHANNELS and inputs.shape[1] not in _CHANNELS:
        inputs = inputs.permute(0, 3, 1, 2)
    return inputs.contiguous().float() / 255.0


def as_targets(values: Any, what: str) -> Tensor:
    """Targets `[N, ...]`: whole numbers become int64, floats stay floats; a trailing axis of one is dropped.

    Raises:
        DataError: not numbers, or no axis that counts the examples.

    >>> as_targets([[0], [2]], "y")
    tensor([0, 2])
    """
    targets = as_tensor(values, what)
    if targets.ndim == 0:
        raise DataError(f"{what} is a single number, but an axis that counts the examples is needed.")
    if targets.ndim == 2 and targets.shape[1] == 1:
        targets = targets.squeeze(1)
    return targets if targets.is_floating_point() else targets.long()


def class_count(targets: Tensor, what: str) -> int | None:
    """How many classes whole-number targets name (largest + 1); None for floats, which are regression.

    Raises:
        DataError: a negative label.

    >>> class_count(torch.tensor([0, 3]), "y"), class_count(torch.tensor([0.5]), "y")
    (4, None)
    """
    if targets.is_floating_point() or targets.numel() == 0:
        return None
    if int(targets.min()) < 0:
        raise DataError(f"{what} holds the label {int(targets.min())}, but classes are numbered from 0.")
    return int(targets.max()) + 1


def client_ids(count: int) -> tuple[str, ...]:
    """`count` ids, zero-padded so that sorted order is numeric order.

    >>> client_ids(11)[:2], client_ids(11)[-1]
    (('client-00', 'client-01'), 'client-10')
    """
    width = len(str(max(count - 1, 0)))
    return tuple(f"client-{number:0{width}d}" for number in range(count))


def owner_ids(values: Any, what: str) -> tuple[str, ...]:
    """The client id of each example: numbers become zero-padded ids, text is kept (stripped).

    Raises:
        DataError: not one whole number >= 0 or one non-empty text per example.

    >>> owner_ids([7, 11], "client")
    ('client-07', 'client-11')
    >>> owner_ids(["north", "south "], "client")
    ('north', 'south')
    """
    array = np.asarray(values)
    if array.ndim != 1 or array.dtype.kind not in "iuU":
        raise DataError(f"{what} must hold one whole number or one text per example.")
    if array.dtype.kind == "U":
        names = tuple(str(name).strip() for name in array)
        if "" in names:
            raise DataError(f"{what} is empty in {names.count('')} of {len(names)} rows; fill in or drop them.")
        return names
    if array.size and int(array.min()) < 0:
        raise DataError(f"{what} holds {int(array.min())}, but client numbers start at 0.")
    width = len(str(int(array.max()))) if array.size else 1
    return tuple(f"client-{int(number):0{width}d}" for number in array)

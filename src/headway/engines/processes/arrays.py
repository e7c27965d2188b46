"""Tensors as NumPy arrays, which actors on one node share without copying, and back."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from headway.core.update import Update
from headway.numerics.exact_sum import ExactSum
from headway.protocol.sums import ExactTotal

Array = NDArray[np.generic]
Arrays = Mapping[str, Array]


def array_of(tensor: Tensor) -> Array:
    """The tensor's own memory as an array."""
    found: Array = tensor.detach().cpu().contiguous().numpy()
    return found


def arrays_of(tensors: Mapping[str, Tensor]) -> Arrays:
    """The tensors' own memory as arrays, by name."""
    return {name: array_of(tensor) for name, tensor in tensors.items()}


def tensor_of(array: Array) -> Tensor:
    """The array's own memory as a tensor, which is not to be written to."""
    with warnings.catch_warnings():  # torch warns that it does not keep anybody from writing
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        return torch.from_numpy(array)


def tensors_of(arrays: Arrays) -> dict[str, Tensor]:
    """The arrays' own memory as tensors, by name."""
    return {name: tensor_of(array) for name, array in arrays.items()}


def total_to_arrays(total: ExactTotal) -> dict[str, Any]:
    """An exact sum as numbers and arrays."""
    return {
        "bins": {
            name: (held.terms, {k: array_of(part) for k, part in held.bins.items()})
            for name, held in total.vectors.items()
        },
        "integers": arrays_of(total.integers),
        **total.to_state(),
    }


def total_from_arrays(state: Mapping[str, Any]) -> ExactTotal:
    """The exact sum of what `total_to_arrays` gave."""
    vectors = {
        name: ExactSum({k: tensor_of(part) for k, part in bins.items()}, terms)
        for name, (terms, bins) in state["bins"].items()
    }
    return ExactTotal.from_state(state, vectors, tensors_of(state["integers"]))


def rows_to_arrays(total: ExactTotal, number: torch.dtype) -> dict[str, Any]:
    """Each client's own update as numbers and arrays."""
    return {
        client: (
            float(update.weight),
            {name: float(n) for name, n in update.sums.items()},
            {name: array_of(vector.to(number)) for name, vector in update.vectors.items()},
        )
        for client, update in total.rows.items()
    }


def rows_from_arrays(state: Mapping[str, Any]) -> ExactTotal:
    """The updates of what `rows_to_arrays` gave."""
    total = ExactTotal()
    for client, (weight, sums, vectors) in state.items():
        numbers = {name: torch.tensor(n, dtype=torch.float64) for name, n in sums.items()}
        total.add_row(client, Update(tensors_of(vectors), torch.tensor(weight, dtype=torch.float64), numbers))
    return total

"""Examples, and the form of data that clients hold, which checks and counts are written for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from headway.core.errors import DataError


@dataclass(frozen=True, eq=False)
class Examples:
    """Inputs `[N, ...]` and their targets `[N, ...]`.

    Raises:
        DataError: inputs and targets differ in length.

    >>> both = Examples(torch.zeros(3, 2), torch.tensor([0, 1, 1]))
    >>> len(both), both.take(torch.tensor([2])).targets.tolist()
    (3, [1])
    """

    inputs: Tensor
    targets: Tensor

    def __post_init__(self) -> None:
        if self.inputs.ndim == 0 or self.targets.ndim == 0 or len(self.inputs) != len(self.targets):
            raise DataError(
                f"inputs of shape {list(self.inputs.shape)} and targets of shape {list(self.targets.shape)} "
                "do not pair up; both need the same number of examples."
            )

    def __len__(self) -> int:
        return len(self.inputs)

    def take(self, index: slice | Tensor) -> Examples:
        """The examples at `index` (int64 `[n]`), in that order; those of a slice are not copied."""
        return Examples(self.inputs[index], self.targets[index])

    def to(self, number: torch.dtype) -> Examples:
        """The examples with floating-point values as `number`; whole numbers stay as they are.

        Nothing is copied where nothing changes: the examples are then given back themselves.
        """
        inputs, targets = (t.to(number) if t.is_floating_point() else t for t in (self.inputs, self.targets))
        return self if inputs is self.inputs and targets is self.targets else Examples(inputs, targets)

    def rows(self, start: int, stop: int) -> Examples:
        """The examples `start..stop`, without copying."""
        return Examples(self.inputs[start:stop], self.targets[start:stop])


class HeldExamples(Protocol):
    """Examples, and for each client the indices of its training and test part; `FederatedData` has this form."""

    @property
    def name(self) -> str:
        """The name of the data, for messages."""

    @property
    def store(self) -> Examples:
        """All clients' examples."""

    @property
    def central(self) -> Examples | None:
        """The test set that no client holds, if there is one."""

    @property
    def train(self) -> Mapping[str, Tensor]:
        """Each client's training part, int64 indices into the store."""

    @property
    def test(self) -> Mapping[str, Tensor]:
        """Each client's test part, int64 indices into the store."""

    @property
    def classes(self) -> int | None:
        """The number of classes; None for regression."""

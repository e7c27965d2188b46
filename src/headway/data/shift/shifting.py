"""The contract of a shift: a change of the examples of some clients, and the checks that shifts share."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import inf
from typing import ClassVar, Literal

from torch import Tensor

from headway.core.errors import ConfigError, DataError
from headway.core.registry import check_types
from headway.data.dataset.federated import FederatedData
from headway.numerics.keys import Key


@dataclass(frozen=True)
class Move:
    """The change of one client: `apply` maps its inputs or its targets `[n, ...]` to others of the same shape.

    summary: the change in words, for reports.
    """

    summary: str
    apply: Callable[[Tensor], Tensor]
    on: Literal["inputs", "targets"] = "inputs"


class Shift(ABC):
    """A difference between clients beyond the partition: plain numbers, rebuilt by `shift(kind, **numbers)`."""

    kind: ClassVar[str]

    def __post_init__(self) -> None:
        check_types(self)
        self.check()

    @abstractmethod
    def check(self) -> None:
        """Refuses numbers out of range.

        Raises:
            ConfigError: naming the number.
        """

    @abstractmethod
    def moves(self, data: FederatedData, key: Key) -> Mapping[str, Move]:
        """The change of each client that has one, by client.

        Raises:
            DataError: the data cannot be shifted like this.
        """


def need_range(kind: str, name: str, value: float, low: float, high: float) -> None:
    """Refuses a number outside `low..high`, both included."""
    if not low <= value <= high or value in (float("inf"), float("-inf")):
        span = f"of at least {low:g}" if high == float("inf") else f"from {low:g} to {high:g}"
        raise ConfigError(f"{name} of the shift {kind!r} is {value}, but a number {span} is needed.")


def need_half_widths(kind: str, **widths: float) -> None:
    """Refuses half-widths of draws about a factor of 1 (the first, from 0 to 1) and about 0 (the second, from 0)."""
    for (name, value), high in zip(widths.items(), (1.0, inf), strict=True):
        need_range(kind, name, value, 0, high)


def need_images(kind: str, data: FederatedData, channels: tuple[int, ...] = ()) -> None:
    """Refuses data that are not images `[C, H, W]`, or not of so many channels."""
    shape = data.input_shape
    wanted = f"images of {' or '.join(map(str, channels))} channels" if channels else "images [C, H, W]"
    if len(shape) != 3 or (channels and shape[0] not in channels):
        given = f"grey images {list(shape)}" if len(shape) == 3 and shape[0] == 1 else f"inputs of shape {list(shape)}"
        raise DataError(f"the shift {kind!r} needs {wanted}, but {data.name!r} has {given}; leave the shift out.")
    _need_values(kind, data)


def need_table(kind: str, data: FederatedData) -> None:
    """Refuses data that are not rows of features `[F]`."""
    if len(data.input_shape) != 1:
        raise DataError(
            f"the shift {kind!r} needs a table, one row of features per example, but {data.name!r} has inputs of "
            f"shape {list(data.input_shape)}; leave the shift out."
        )
    _need_values(kind, data)


def _need_values(kind: str, data: FederatedData) -> None:
    inputs = data.store.inputs
    if not inputs.is_floating_point() and inputs.element_size() > 1:
        raise DataError(
            f"the shift {kind!r} needs measured values, but the inputs of {data.name!r} are whole numbers "
            f"({inputs.dtype}), such as tokens; leave the shift out."
        )

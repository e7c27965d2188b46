"""What is known of the clients' data: of examples that lie here, and of those that lie with their clients."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol, Self

import torch
from torch import Tensor

from headway.core.errors import ConfigError
from headway.data.dataset.examples import Examples

if TYPE_CHECKING:
    from headway.data.dataset.federated import FederatedData


class ClientData(Protocol):
    """The clients of a run, with their sizes and the form of an example.

    `FederatedData` has the examples as well, and `RemoteData` does not.
    """

    @property
    def name(self) -> str:
        """The name of the data."""

    @property
    def clients(self) -> Sequence[str]:
        """The clients that are known, sorted."""

    @property
    def population(self) -> int | None:
        """The number of clients that the run has; `None` where any number may come."""

    @property
    def train_sizes(self) -> Tensor:
        """The number of training examples of each client, int64 `[C]`, in the order of `clients`."""

    @property
    def test_sizes(self) -> Tensor:
        """The number of test examples of each client, int64 `[C]`, in the order of `clients`."""

    @property
    def input_shape(self) -> tuple[int, ...]:
        """The shape of one input."""

    @property
    def classes(self) -> int | None:
        """The number of classes; `None` for values to predict."""

    @property
    def class_names(self) -> tuple[str, ...]:
        """The names of the classes."""

    @property
    def features(self) -> tuple[str, ...]:
        """The names of the inputs of a table."""

    @property
    def split(self) -> str:
        """Which examples are tested."""

    @property
    def notes(self) -> tuple[str, ...]:
        """What a user should know of the data, a line each."""

    @property
    def central(self) -> Examples | None:
        """A test set that no client owns."""

    @property
    def example(self) -> Tensor:
        """One input `[1, ...]`, of which a model is made that looks at one."""

    @property
    def held(self) -> FederatedData | None:
        """The data with their examples, where these lie here."""

    def to(self, number: torch.dtype) -> Self:
        """The same with floating-point examples as `number`."""

    def fingerprint(self) -> str:
        """The digest by which a resumed run knows its data again."""


def known_population(known: ClientData) -> int:
    """The number of clients that the run has, or that are known by now where any number may come."""
    return len(known.clients) if known.population is None else known.population


def examples_of(known: ClientData, needed_by: str) -> FederatedData:
    """The data with their examples; needed_by: what needs them, in words.

    Raises:
        ConfigError: if the examples lie with the clients.
    """
    if known.held is None:
        raise ConfigError(
            f"{needed_by} needs the examples of {known.name!r}, which lie with their clients: give it FederatedData, "
            "or use an engine that reaches the clients."
        )
    return known.held

"""Clients whose examples lie elsewhere, with what they report of them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self, final

import torch
from torch import Tensor

from headway.core.errors import ConfigError, DataError
from headway.data.dataset.examples import Examples

NOT_HERE = (
    "the examples lie with their clients, so that some things are not done here: targets and inputs are not looked at, "
    "no loss before training is taken, and no model that always gives the same answer is compared with"
)


@dataclass(frozen=True, slots=True)
class ClientSize:
    """The sizes of one client's data, as it reports them; fingerprint: of the data, empty where it gives none."""

    train: int
    test: int
    fingerprint: str = ""

    def __post_init__(self) -> None:
        if self.train < 1 or self.test < 0:
            raise DataError(f"a client has 1 training example and more, found {self.train} (and {self.test} to test).")


@final
class RemoteData:
    """The clients of a federation without their examples, for a run at their server.

    Clients are those that have reported their sizes, which `update` takes in between two rounds: more may join, and
    their sizes change.  expected: all that may take part, where they are known by name; the population is their number
    then, and not known otherwise.  input_shape, classes, class_names, features: the form of an example, on which all
    clients agree.  example: one input `[1, ...]`; zeros without it, which a model is made by and never trained on.
    central: a test set at the server.  form: plain values of the schema, which a resumed run must have again.

    Raises:
        ConfigError: if a client is expected twice.

    >>> data = RemoteData("clinics", (3,), classes=2)
    >>> data.update({"b": ClientSize(20, 5), "a": ClientSize(10, 0)}), data.update({"a": ClientSize(10, 0)})
    (['a', 'b'], [])
    >>> data.clients, data.train_sizes.tolist(), data.population
    (('a', 'b'), [10, 20], None)
    """

    split = ""

    def __init__(
        self,
        name: str,
        input_shape: Sequence[int],
        *,
        classes: int | None = None,
        class_names: Sequence[str] = (),
        features: Sequence[str] = (),
        expected: Sequence[str] = (),
        example: Tensor | None = None,
        **more: Any,
    ) -> None:
        if len(set(expected)) < len(expected):
            raise ConfigError(f"the clients {', '.join(sorted(expected))} hold one twice; name each once.")
        self.name, self.input_shape, self.classes = name, tuple(input_shape), classes
        self.class_names, self.features, self.expected = tuple(class_names), tuple(features), tuple(sorted(expected))
        self.example = torch.zeros(1, *self.input_shape) if example is None else example[:1]
        self.central: Examples | None = more.pop("central", None)
        self.form: Mapping[str, Any] = more.pop("form", {})
        assert not more, more
        self.notes: tuple[str, ...] = (NOT_HERE,)
        self._sizes: dict[str, ClientSize] = {}
        self._clients: tuple[str, ...] = ()

    @property
    def held(self) -> None:
        """Nothing: the examples lie with their clients."""
        return None

    @property
    def clients(self) -> Sequence[str]:
        """The clients that have reported their sizes, sorted."""
        return self._clients

    @property
    def population(self) -> int | None:
        """The number of the expected clients; `None` where any number may come."""
        return len(self.expected) or None

    @property
    def sizes(self) -> Mapping[str, ClientSize]:
        """What each client reported last."""
        return self._sizes

    @property
    def train_sizes(self) -> Tensor:
        """The number of training examples of each client, int64 `[C]`, in the order of `clients`."""
        return torch.tensor([self._sizes[client].train for client in self._clients], dtype=torch.int64)

    @property
    def test_sizes(self) -> Tensor:
        """The number of test examples of each client, int64 `[C]`, in the order of `clients`."""
        return torch.tensor([self._sizes[client].test for client in self._clients], dtype=torch.int64)

    def update(self, reported: Mapping[str, ClientSize]) -> list[str]:
        """Takes in what clients report; those that are new, or whose data have changed, sorted.

        Raises:
            DataError: for a client that is not expected.
        """
        if self.expected and (others := sorted(reported.keys() - set(self.expected))):
            raise DataError(f"client {others[0]!r} is not among the {len(self.expected)} clients of {self.name!r}.")
        changed = sorted(client for client, size in reported.items() if self._sizes.get(client) != size)
        if changed:
            self._sizes.update({client: reported[client] for client in changed})
            if len(self._sizes) > len(self._clients):
                self._clients = tuple(sorted(self._sizes))
        return changed

    def to_state(self) -> dict[str, list[Any]]:
        """What clients reported, in plain values."""
        return {client: [size.train, size.test, size.fingerprint] for client, size in self._sizes.items()}

    def from_state(self, state: Mapping[str, Sequence[Any]]) -> None:
        """Goes back to what was known when `to_state` gave this."""
        self._sizes, self._clients = {}, ()
        self.update({client: ClientSize(*values) for client, values in state.items()})

    def to(self, number: torch.dtype) -> Self:
        """The same data, with floating-point examples of the central test set as `number`."""
        if self.example.is_floating_point():
            self.example = self.example.to(number)
        self.central = None if self.central is None else self.central.to(number)
        return self

    def fingerprint(self) -> str:
        """The digest of the form of an example, of the expected clients and of the central test set.

        Clients may join, and their data change, while a run goes on: who and what counted in a round is in its record.
        """
        values = [self.name, list(self.input_shape), self.classes, list(self.class_names), list(self.features)]
        text = json.dumps([*values, list(self.expected), self.form], sort_keys=True, default=str)
        digest = hashlib.blake2b(text.encode(), digest_size=16, person=b"headway-remote")
        for tensor in () if self.central is None else (self.central.inputs, self.central.targets):
            digest.update(f"{tensor.dtype}{list(tensor.shape)}".encode())
            digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
        return digest.hexdigest()

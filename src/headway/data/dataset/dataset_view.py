"""Views of the data of a federation: for tuning, and for the baselines of one client and of pooled data."""

from __future__ import annotations

from dataclasses import dataclass, replace

from headway.core.errors import DataError
from headway.data.dataset.federated import FederatedData
from headway.data.dataset.split import split
from headway.numerics.keys import Key

EVERYONE = "everyone"


@dataclass(frozen=True)
class View:
    """The part of the data that a run uses.

    held_out: each client tests on this share of its training examples, and no test example is used: so that
        numbers are tuned on what is not measured later.  only: the one client that takes part.  pooled: one client
        holds everyone's training examples, and all clients' test parts stay apart.
    """

    held_out: float = 0.0
    only: str | None = None
    pooled: bool = False

    def of(self, data: FederatedData, key: Key) -> FederatedData:
        """The data seen like this; pooling is done where they are trained on (see `pooled`).

        Raises:
            DataError: no such client, or no example to hold out.
        """
        if self.only is not None:
            data.train_of(self.only)
            data = replace(data, train={self.only: data.train[self.only]}, test={self.only: data.test[self.only]})
        return _held_out(data, self.held_out, key) if self.held_out else data


def pooled(data: FederatedData) -> FederatedData:
    """The same examples in the hands of one client, as if they could be pooled.

    >>> data = FederatedData.from_clients({"a": ([[0.0]], [0]), "b": ([[2.0]], [1])})
    >>> len(pooled(data).train_of(EVERYONE))
    2
    """
    import torch

    train = torch.cat(list(data.train.values())).sort().values
    test = torch.cat(list(data.test.values())).sort().values
    return replace(data, train={EVERYONE: train}, test={EVERYONE: test})


def _held_out(data: FederatedData, share: float, key: Key) -> FederatedData:
    train, test = {}, {}
    for client, index in data.train.items():
        labels = data.store.targets[index] if data.classes is not None and data.store.targets.ndim == 1 else None
        train[client], test[client] = split(index, share, key.derive("held out", client), labels)
    if not any(len(index) for index in test.values()):
        raise DataError(f"{data.name!r} has too few training examples to hold out {share:g} of them for tuning.")
    return replace(data, train=train, test=test, central=None)

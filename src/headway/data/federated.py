"""Data held by clients: one store of examples, and who holds which of them."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from headway.core.errors import DataError, nearest
from headway.data.arrays import as_inputs, as_targets, class_count


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

    def take(self, index: Tensor) -> Examples:
        """The examples at `index` (int64 `[n]`), in that order."""
        return Examples(self.inputs[index], self.targets[index])

    def to(self, number: torch.dtype) -> Examples:
        """The examples with floating-point values as `number`; whole numbers stay as they are."""
        return Examples(*(t.to(number) if t.is_floating_point() else t for t in (self.inputs, self.targets)))

    def rows(self, start: int, stop: int) -> Examples:
        """The examples `start..stop`, without copying."""
        return Examples(self.inputs[start:stop], self.targets[start:stop])


@dataclass(frozen=True)
class ClientSummary:
    """Sizes of one client's parts, and how often each class occurs in its training part (where known)."""

    client: str
    train: int
    test: int
    labels: tuple[int, ...] | None


@dataclass(frozen=True, eq=False)
class FederatedData:
    """All examples once, and for each client the int64 indices it trains and tests on.

    `store` has shape `[N, ...]`; `train` and `test` map a client id to indices into it (a client may have
    no test part); `central` is a test set that no client owns; `classes` is None for regression;
    `features` names the columns of tabular inputs, and `shifts` says in words what was done to a client's examples.
    No example is in two places, so that nothing tested was trained on.

    Raises:
        DataError: a client without a training example or whose id is not a text, an index out of range or held
            twice, a label outside `0..classes-1`, a value that is not finite, or a central test set of another
            shape.

    >>> data = FederatedData.from_clients({"a": ([[0.0], [1.0]], [0, 1]), "b": ([[2.0]], [1])}, name="toy")
    >>> data.clients, data.classes, len(data.train_of("a"))
    (('a', 'b'), 2, 2)
    """

    name: str
    store: Examples
    train: Mapping[str, Tensor]
    test: Mapping[str, Tensor] = field(default_factory=dict)
    central: Examples | None = None
    classes: int | None = None
    description: str = ""
    features: tuple[str, ...] = ()
    shifts: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        unknown = sorted(set(self.test) - set(self.train))
        if unknown:
            raise DataError(f"client {unknown[0]!r} has a test part but no training part; give it both.")
        if not self.train:
            raise DataError(f"{self.name!r} has no client; at least one is needed.")
        none = torch.empty(0, dtype=torch.int64)
        for client in self.train:
            if not isinstance(client, str):
                raise DataError(f"the client id {client!r} is not a text; write {str(client)!r}.")
        ids = sorted(self.train)
        object.__setattr__(self, "train", {client: self.train[client] for client in ids})
        object.__setattr__(self, "test", {client: self.test.get(client, none) for client in ids})
        if self.central is not None:
            _check_alike(self.central, self.store, "the central test set")
        _check_indices(self)
        _check_values(self)

    @classmethod
    def from_clients(
        cls,
        clients: Mapping[str, Sequence[Any]],
        *,
        name: str = "clients",
        central: tuple[Any, Any] | None = None,
        description: str = "",
    ) -> FederatedData:
        """Data from arrays, tensors or lists: `(x_train, y_train)` or `(x_train, y_train, x_test, y_test)`.

        Whole-number targets are class labels, floats are regression; uint8 inputs are images, scaled
        to [0, 1].

        Raises:
            DataError: a client's parts do not pair up, or its shapes or kinds differ from the others'.
        """
        parts: list[Examples] = []
        train: dict[str, Tensor] = {}
        test: dict[str, Tensor] = {}
        start = 0
        for client, given in clients.items():
            if len(given) not in (2, 4):
                raise DataError(
                    f"client {client!r} gives {len(given)} arrays, but (x_train, y_train) or "
                    "(x_train, y_train, x_test, y_test) is needed."
                )
            for held, at in ((train, 0), (test, 2)):
                x, y = given[at : at + 2] if at < len(given) else ((), ())
                part = _examples(x, y, f"of client {client!r}")
                held[client] = torch.arange(start, start + len(part))
                if len(part) == 0:
                    continue
                _check_alike(part, parts[0] if parts else part, f"client {client!r}")
                start += len(part)
                parts.append(part)
        if not parts:
            raise DataError(f"{name!r} has no client with an example; at least one is needed.")
        store = Examples(torch.cat([p.inputs for p in parts]), torch.cat([p.targets for p in parts]))
        held_out = None if central is None else _examples(*central, "of the central test set")
        classes = max(
            (class_count(part.targets, f"the data {name!r}") or 0 for part in (store, held_out) if part is not None),
            default=0,
        )
        return cls(name, store, train, test, held_out, classes or None, description)

    @property
    def clients(self) -> tuple[str, ...]:
        """The client ids, sorted."""
        return tuple(self.train)

    @property
    def input_shape(self) -> tuple[int, ...]:
        """The shape of one input."""
        return tuple(self.store.inputs.shape[1:])

    def train_of(self, client: str) -> Examples:
        """The training part of one client.

        Raises:
            DataError: no such client.
        """
        return self._part(self.train, client)

    def test_of(self, client: str) -> Examples:
        """The test part of one client; it may be empty.

        Raises:
            DataError: no such client.
        """
        return self._part(self.test, client)

    def _part(self, held: Mapping[str, Tensor], client: str) -> Examples:
        """A client's part: a view of the store where its examples lie there one after another."""
        index = self._index(held, client)
        start = self._starts(held).get(client)
        return self.store.take(index) if start is None else self.store.rows(start, start + len(index))

    def _starts(self, held: Mapping[str, Tensor]) -> dict[str, int]:
        """Where the parts begin that lie one after another; looked up once."""
        name = "_train_starts" if held is self.train else "_test_starts"
        starts: dict[str, int] | None = self.__dict__.get(name)
        if starts is None:
            starts = {
                client: int(index[0])
                for client, index in held.items()
                if len(index) and torch.equal(index, torch.arange(int(index[0]), int(index[0]) + len(index)))
            }
            object.__setattr__(self, name, starts)
        return starts

    def to(self, number: torch.dtype) -> FederatedData:
        """The same data with floating-point inputs and targets as `number`; whole numbers stay as they are."""
        central = None if self.central is None else self.central.to(number)
        return replace(self, store=self.store.to(number), central=central)

    def fingerprint(self) -> str:
        """128-bit hash, in hex, of every value and of who holds it; equal data give equal fingerprints."""
        digest = hashlib.blake2b(digest_size=16, person=b"headway-data")
        for part in (self.store, self.central):
            for tensor in (part.inputs, part.targets) if part is not None else ():
                _feed(digest, tensor)
            digest.update(b"|")
        for client in self.clients:
            digest.update(repr(client).encode())
            _feed(digest, self.train[client])
            _feed(digest, self.test[client])
        return digest.hexdigest()

    def summary(self) -> tuple[ClientSummary, ...]:
        """Sizes and label counts of every client, in the order of `clients`."""
        return tuple(
            ClientSummary(client, len(self.train[client]), len(self.test[client]), self._label_counts(client))
            for client in self.clients
        )

    def _label_counts(self, client: str) -> tuple[int, ...] | None:
        if self.classes is None:
            return None
        labels = self.store.targets[self.train[client]].flatten()
        return tuple(torch.bincount(labels, minlength=self.classes).tolist())

    def _index(self, part: Mapping[str, Tensor], client: str) -> Tensor:
        if client not in part:
            raise DataError(f"{self.name!r} has no client {client!r}{nearest(client, part)}.")
        return part[client]


def _examples(x: Any, y: Any, where: str) -> Examples:
    inputs, targets = as_inputs(x, f"the inputs {where}"), as_targets(y, f"the targets {where}")
    if len(inputs) != len(targets):
        raise DataError(f"there are {len(inputs)} inputs but {len(targets)} targets {where}; they must pair up.")
    return Examples(inputs, targets)


def _check_alike(part: Examples, first: Examples, who: str) -> None:
    """Refuse a part that cannot be stored beside the first one."""
    for what, mine, other in (
        ("inputs", part.inputs, first.inputs),
        ("targets", part.targets, first.targets),
    ):
        if mine.shape[1:] != other.shape[1:] or mine.dtype != other.dtype:
            raise DataError(
                f"{who} has {what} of shape {list(mine.shape[1:])} and {mine.dtype}, but the first client's "
                f"are {list(other.shape[1:])} and {other.dtype}; make them alike."
            )


def _check_indices(data: FederatedData) -> None:
    """Refuse indices that are not int64, are out of range, or name an example twice; and empty training."""
    count = len(data.store)
    for part, held in (("training", data.train), ("test", data.test)):
        for client, index in held.items():
            if index.dtype != torch.int64 or index.ndim != 1:
                raise DataError(f"the {part} indices of client {client!r} must be int64 and one-dimensional.")
            if len(index) == 0:
                if part == "training":
                    raise DataError(f"client {client!r} has no training example; give it one or leave it out.")
                continue
            low, high = int(index.min()), int(index.max())
            if low < 0 or high >= count:
                raise DataError(
                    f"client {client!r} names the {part} example {low if low < 0 else high}, "
                    f"but the store holds the examples 0 to {count - 1}."
                )
    holders = torch.bincount(torch.cat([*data.train.values(), *data.test.values()]), minlength=count)
    if int(holders.max()) > 1:
        twice = int(holders.argmax())
        owners = [client for held in (data.train, data.test) for client, index in held.items() if twice in index]
        raise DataError(
            f"example {twice} is held more than once (by {', '.join(map(repr, owners))}); an example belongs "
            "to one client, and to its training or its test part."
        )


def _check_values(data: FederatedData) -> None:
    """Refuse values that are not finite and labels that are not classes, naming who holds them."""
    for part in (data.store, data.central):
        if part is None:
            continue
        for what, tensor in (("inputs", part.inputs), ("targets", part.targets)):
            bad = ~torch.isfinite(tensor) if tensor.is_floating_point() else torch.zeros(0, dtype=torch.bool)
            if bool(bad.any()):
                rows = bad.flatten(1).any(1) if bad.ndim > 1 else bad
                raise DataError(
                    f"{int(bad.sum())} {what} are NaN or infinite, the first at {_holder(data, part, rows)}; "
                    "impute them, or drop those examples."
                )
        if data.classes is not None:
            if part.targets.is_floating_point():
                raise DataError(f"{data.name!r} has {data.classes} classes, but its targets are not whole numbers.")
            wrong = (part.targets < 0) | (part.targets >= data.classes)
            if bool(wrong.any()):
                rows = wrong.flatten(1).any(1) if wrong.ndim > 1 else wrong
                raise DataError(
                    f"the label of {_holder(data, part, rows)} is outside 0 to {data.classes - 1}; "
                    "number the classes from 0."
                )


def _holder(data: FederatedData, part: Examples, rows: Tensor) -> str:
    """Words for the first marked row of `rows` (bool `[N]`)."""
    row = int(rows.int().argmax())
    if part is data.central:
        return f"example {row} of the central test set"
    owner = next(
        (c for held in (data.train, data.test) for c, index in held.items() if bool((index == row).any())),
        None,
    )
    return f"example {row}" + (f" of client {owner!r}" if owner is not None else " (held by no client)")


def _feed(digest: hashlib.blake2b, tensor: Tensor) -> None:
    """Add a tensor's dtype, shape and bytes to a hash."""
    digest.update(f"{tensor.dtype}{list(tensor.shape)}".encode())
    flat = tensor.detach().cpu().contiguous().reshape(-1)
    digest.update(flat.view(torch.uint8).numpy().data)

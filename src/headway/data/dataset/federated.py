"""Data held by clients: one store of examples, and the indices that each client holds."""

from __future__ import annotations

import copy
import hashlib
import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from headway.core.errors import DataError, nearest
from headway.core.names import NumberedNames
from headway.data.dataset.blocks import blocks_of
from headway.data.dataset.checks import check_alike, check_indices, check_values
from headway.data.dataset.client_index import ClientIndex
from headway.data.dataset.examples import Examples
from headway.data.dataset.inputs import InputKind, as_inputs, check_ranges, read_inputs
from headway.data.dataset.labels import LabelCounts
from headway.data.dataset.owners import client_notes
from headway.data.dataset.split import last_tested
from headway.data.dataset.targets import as_targets, class_count, is_binary, noted

MOST_NAMES = 10_000  # among which the nearest to a misspelt one is looked for
CLIENTS_AT_ONCE = 1 << 14  # whose holdings are hashed together


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
    no test part), and are kept as `ClientIndex`, which hold no object per client; `central` is a test set that no
    client owns; `classes` is None for regression; `features` names the columns of tabular inputs, and `shifts`
    describes in words what was done to a client's examples.  `class_names` holds the name of each class in the source
    (empty where
    the labels are their own names), and `notes` one line for each decision and conversion that reading the data took:
    what was left out, filled in, merged, renumbered or rescaled; `split` describes which examples are tested.  None is
    part of the fingerprint.  No example is in two places, so that nothing tested was trained on.

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
    class_names: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    split: str = ""

    def __post_init__(self) -> None:
        train, test = ClientIndex.of(self.train, "training"), self.test
        if not len(train):
            raise DataError(f"{self.name!r} has no client; at least one is needed.")
        if not test:
            zeros = torch.zeros(len(train), dtype=torch.int64)
            test = ClientIndex(train.names, zeros, zeros)
        elif not (isinstance(test, ClientIndex) and test.names == train.names):
            unknown = sorted(client for client in test if client not in train)
            if unknown:
                raise DataError(f"client {unknown[0]!r} has a test part but no training part; give it both.")
            none = torch.empty(0, dtype=torch.int64)
            test = ClientIndex.of({client: test.get(client, none) for client in train}, "test")
        object.__setattr__(self, "train", train)
        object.__setattr__(self, "test", test)
        if self.central is not None:
            check_alike(self.central, self.store, "the central test set")
        check_indices(self)
        check_values(self)

    @classmethod
    def from_clients(
        cls,
        clients: Mapping[str, Sequence[Any]],
        *,
        name: str = "clients",
        central: tuple[Any, Any] | None = None,
        description: str = "",
        inputs: InputKind | None = None,
    ) -> FederatedData:
        """Data from arrays, tensors or lists: `(x_train, y_train)` or `(x_train, y_train, x_test, y_test)`.

        Whole-number targets are class labels, zeros and ones `[N, L]` several labels per example, and other floats
        values to predict; labels are kept as they are given.  inputs: how inputs are read, see
        `headway.data.dataset.inputs.read_inputs`; by their number type and their axes where nothing is given.

        Raises:
            ConfigError: an unknown way to read inputs.
            DataError: a client's parts do not pair up, or its shapes or kinds differ from the others'.
        """
        parts: list[Examples] = []
        train: dict[str, Tensor] = {}
        test: dict[str, Tensor] = {}
        start = 0
        notes: tuple[str, ...] = ()
        ranges: dict[str, Any] = {}
        for client, given in clients.items():
            if len(given) not in (2, 4):
                raise DataError(
                    f"client {client!r} gives {len(given)} arrays, but (x_train, y_train) or "
                    "(x_train, y_train, x_test, y_test) is needed."
                )
            for held, at in ((train, 0), (test, 2)):
                x, y = given[at : at + 2] if at < len(given) else ((), ())
                part = _examples(x, y, f"of client {client!r}", inputs)
                held[client] = torch.arange(start, start + len(part))
                if len(part) == 0:
                    continue
                if not parts:
                    ranges["the first client's inputs"], notes = x, read_inputs(x, "the inputs", inputs)[1]
                check_ranges(ranges | {f"the inputs of client {client!r}": x})
                check_alike(part, parts[0] if parts else part, f"client {client!r}")
                start += len(part)
                parts.append(part)
        if not parts:
            raise DataError(f"{name!r} has no client with an example; at least one is needed.")
        store = Examples(torch.cat([p.inputs for p in parts]), torch.cat([p.targets for p in parts]))
        held_out = None
        if central is not None:
            check_ranges(ranges | {"the inputs of the central test set": central[0]})
            held_out = _examples(*central, "of the central test set", inputs)
        classes = max(
            (class_count(part.targets, f"the data {name!r}") or 0 for part in (store, held_out) if part is not None),
            default=0,
        )
        notes = (
            *notes,
            *noted(store.targets, "the targets"),
            *client_notes([client for client in train if isinstance(client, str)]),
        )
        return cls(name, store, train, test, held_out, classes or None, description, notes=notes)

    @classmethod
    def in_order(
        cls,
        name: str,
        store: Examples,
        *,
        clients: int,
        sizes: Tensor | None = None,
        test_share: float = 0.0,
        central: Examples | None = None,
        classes: int | None = None,
        description: str = "",
    ) -> FederatedData:
        """Data that lie client after client in the store, for as many clients as there may be.

        The clients are named `client-0...`, zero-padded, and cost 32 bytes each (see `NumberedNames` and
        `ClientIndex`); the store may be mapped from files (see `headway.data.sources.mapped`).  Client i holds the
        next `sizes[i]` examples, int64 `[clients]`; without sizes all hold as many, and the first ones one more where
        that does not come out even.  Of n examples the last `round(n test_share)`, at most n - 1, are the client's test
        part: nothing is drawn.

        Raises:
            ConfigError: `test_share` is not in [0, 1).
            DataError: fewer examples than clients, sizes that do not add up to the store, or what `FederatedData`
                raises.

        >>> data = FederatedData.in_order("toy", Examples(torch.zeros(5, 2), torch.zeros(5)), clients=2, test_share=0.3)
        >>> data.clients, data.train["client-0"].tolist(), data.test["client-1"].tolist()
        (NumberedNames(2, 'client-'), [0, 1], [4])
        """
        train, test = last_tested(in_order(len(store), clients, name, sizes), test_share)
        return cls(name, store, train, test, central, classes, description)

    @property
    def clients(self) -> Sequence[str]:
        """The client ids, sorted; always the same object."""
        return ClientIndex.of(self.train).names

    @property
    def population(self) -> int:
        """The number of clients."""
        return len(self.clients)

    @property
    def example(self) -> Tensor:
        """The first input `[1, ...]`."""
        return self.store.inputs[:1].clone()

    @property
    def held(self) -> FederatedData:
        """The data themselves: their examples are here."""
        return self

    @property
    def train_sizes(self) -> Tensor:
        """The number of training examples of each client, int64 `[C]`, in the order of `clients`."""
        return ClientIndex.of(self.train).sizes

    @property
    def test_sizes(self) -> Tensor:
        """The number of test examples of each client, int64 `[C]`, in the order of `clients`."""
        return ClientIndex.of(self.test).sizes

    @property
    def input_shape(self) -> tuple[int, ...]:
        """The shape of one input."""
        return tuple(self.store.inputs.shape[1:])

    @cached_property
    def multi_label(self) -> bool:
        """Whether the targets `[N, L]` are zeros and ones: several labels per example, each of which applies or not."""
        targets = self.store.targets
        return self.classes is None and targets.ndim == 2 and targets.shape[1] > 1 and is_binary(targets)

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
        if client not in held:
            known = f" (it has {len(held)}, {self.clients[0]!r} to {self.clients[-1]!r})"
            known_names = nearest(client, self.clients) if len(held) <= MOST_NAMES else known
            raise DataError(f"{self.name!r} has no client {client!r}{known_names}.")
        (selection,) = ClientIndex.of(held).selections([client])
        return self.store.take(selection)

    def to(self, number: torch.dtype) -> FederatedData:
        """The same data with floating-point inputs and targets as `number`; whole numbers stay as they are."""
        store, central = self.store.to(number), None if self.central is None else self.central.to(number)
        return self if store is self.store and central is self.central else replace(self, store=store, central=central)

    def with_store(self, store: Examples, train: Mapping[str, Tensor] | None = None) -> FederatedData:
        """The same data with the same examples somewhere else: nothing is looked through again.

        train: which of them some clients train on in the place of those that they held.
        """
        if store is self.store:
            return self
        moved = copy.copy(self)
        object.__setattr__(moved, "store", store)
        if train is not None:
            object.__setattr__(moved, "train", ClientIndex.of({**self.train, **train}))
        return moved

    def with_notes(self, notes: Sequence[str]) -> FederatedData:
        """The same data with further notes: nothing is looked through again."""
        if not notes:
            return self
        more = copy.copy(self)
        object.__setattr__(more, "notes", (*self.notes, *notes))
        return more

    def fingerprint(self) -> str:
        """128-bit hash, in hex, of every value and of who holds it; equal data give equal fingerprints."""
        digest = hashlib.blake2b(digest_size=16, person=b"headway-data")
        for part in (self.store, self.central):
            for tensor in (part.inputs, part.targets) if part is not None else ():
                _feed(digest, tensor)
            digest.update(b"|")
        for block in _holdings(ClientIndex.of(self.train), ClientIndex.of(self.test)):
            digest.update(block)
        return digest.hexdigest()

    def summary(self) -> tuple[ClientSummary, ...]:
        """Sizes and label counts of every client, in the order of `clients`."""
        labels = LabelCounts(self)
        return tuple(
            ClientSummary(client, len(self.train[client]), len(self.test[client]), labels.get(client))
            for client in self.clients
        )


def in_order(examples: int, clients: int, name: str, sizes: Tensor | None = None) -> ClientIndex:
    """Examples that lie client after client: as many for each, or `sizes` of them (int64 `[clients]`).

    Raises:
        DataError: fewer examples than clients, or sizes that do not add up.
    """
    if sizes is None:
        if not 0 < clients <= examples:
            raise DataError(f"{name!r} has {examples} examples for {clients} clients; each needs one or more.")
        sizes = torch.full((clients,), examples // clients)
        sizes[: examples % clients] += 1
    if int(sizes.sum()) != examples:
        raise DataError(f"the sizes add up to {int(sizes.sum())}, but {name!r} has {examples} examples.")
    return ClientIndex(NumberedNames(clients), sizes.cumsum(0) - sizes, sizes)


def _examples(x: Any, y: Any, where: str, kind: InputKind | None = None) -> Examples:
    inputs, targets = as_inputs(x, f"the inputs {where}", kind), as_targets(y, f"the targets {where}")
    if len(inputs) != len(targets):
        raise DataError(f"there are {len(inputs)} inputs but {len(targets)} targets {where}; they must pair up.")
    return Examples(inputs, targets)


def _feed(digest: hashlib.blake2b, tensor: Tensor) -> None:
    """Adds a tensor's dtype, shape and bytes to a hash."""
    digest.update(_head(tensor.dtype, list(tensor.shape)))
    for _, block in blocks_of(tensor):
        digest.update(block.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)


def _head(number: torch.dtype, shape: list[int]) -> bytes:
    return f"{number}{shape}".encode()


def _holdings(train: ClientIndex, test: ClientIndex) -> Iterator[bytes]:
    """The hashed form of the holdings: for each client its name, and dtype, shape and bytes of either part."""
    for first in range(0, len(train), CLIENTS_AT_ONCE):
        last = min(first + CLIENTS_AT_ONCE, len(train))
        columns: list[list[bytes]] = [[repr(client).encode() for client in train.names[first:last]]]
        for parts in (train, test):
            counts = parts.sizes[first:last].tolist()
            heads = {count: _head(torch.int64, [count]) for count in set(counts)}
            raw = parts.between(first, last).numpy().tobytes()
            ends = [8 * end for end in itertools.accumulate(counts, initial=0)]
            columns += [[heads[count] for count in counts], [raw[a:b] for a, b in itertools.pairwise(ends)]]
        yield b"".join(itertools.chain.from_iterable(zip(*columns, strict=True)))

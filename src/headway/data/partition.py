"""Dividing examples among clients: every example goes to exactly one client, as a pure function of a key.

Three Dirichlet label-skew partitions are in use under one name.  Accuracy at the same alpha differs between
them, so each has its own name here; quote the name beside every number.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, fields
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from headway.core.errors import ConfigError, DataError, nearest
from headway.core.keys import Key

_ATTEMPTS = 2_000

Counts = NDArray[np.int64]


class Partitioner(ABC):
    """Who holds which example.  A partitioner is plain numbers, rebuilt by `partitioner(kind, **numbers)`."""

    kind: ClassVar[str]

    @abstractmethod
    def assign(self, labels: Tensor, clients: int, key: Key) -> list[Tensor]:
        """Sorted int64 indices into `labels` (int64 `[N]`) for each of `clients` clients.

        Raises:
            DataError: the examples cannot be divided like this.
        """


@dataclass(frozen=True)
class Iid(Partitioner):
    """A random order, cut into parts whose sizes differ by at most one.

    >>> sorted(len(part) for part in Iid().assign(torch.zeros(5), 2, Key.root(0)))
    [2, 3]
    """

    kind: ClassVar[str] = "iid"

    def assign(self, labels: Tensor, clients: int, key: Key) -> list[Tensor]:
        """Indices of each client; `labels` only says how many examples there are."""
        _check_counts(len(labels), clients)
        return [part.sort().values for part in torch.tensor_split(key.permutation(len(labels)), clients)]


@dataclass(frozen=True)
class DirichletNiid(Partitioner):
    """`dirichlet-niid`: each class is spread over clients by p ~ Dir(alpha), with balancing.

    For class k, p_j is set to 0 for a client that already holds N/n examples, and p is renormalised; classes
    follow each other, and the whole draw is repeated until every client has `min_examples` examples.

    Differs from the paper: where no client below N/n has a share that a float can hold, the class is spread
    evenly over those clients; repetition is bounded.

    Reference: NIID-Bench, arXiv 2102.02079, section 4.1 and its code; FedMA, arXiv 2002.06440.
    """

    kind: ClassVar[str] = "dirichlet-niid"
    alpha: float
    min_examples: int = 10

    def __post_init__(self) -> None:
        _check_alpha(self)
        _check_min_examples(self)

    def assign(self, labels: Tensor, clients: int, key: Key) -> list[Tensor]:
        """Indices of each client, dealt class by class."""
        return _deal_until_enough(self, self._counts, labels, clients, key)

    def _counts(self, sizes: Counts, clients: int, rng: np.random.Generator) -> Counts:
        held = np.zeros(clients, dtype=np.int64)
        counts = np.zeros((len(sizes), clients), dtype=np.int64)
        for label, size in enumerate(sizes):
            open_clients = held * clients < sizes.sum()
            shares = rng.dirichlet(np.full(clients, self.alpha)) * open_clients
            shares = shares if shares.sum() > 0 else open_clients.astype(np.float64)
            counts[label] = _cut(shares[None] / shares.sum(), np.array([size]))[0]
            held += counts[label]
        return counts


@dataclass(frozen=True)
class DirichletClass(Partitioner):
    """`dirichlet-class`: each class is spread over clients by p ~ Dir(alpha), without balancing.

    Client sizes differ as the draws fall.  The draw is repeated until every client has `min_examples`.

    Differs from the paper: its code rounds every share down and drops what remains, then refills clients
    below 256 examples from others; here shares are cut cumulatively, so that no example is dropped, and
    nobody is refilled.

    Reference: ECGR, arXiv 2601.03584, and its code; the idea is from Yurochkin et al., arXiv 1905.12022.
    """

    kind: ClassVar[str] = "dirichlet-class"
    alpha: float
    min_examples: int = 1

    def __post_init__(self) -> None:
        _check_alpha(self)
        _check_min_examples(self)

    def assign(self, labels: Tensor, clients: int, key: Key) -> list[Tensor]:
        """Indices of each client, dealt class by class."""
        return _deal_until_enough(self, self._counts, labels, clients, key)

    def _counts(self, sizes: Counts, clients: int, rng: np.random.Generator) -> Counts:
        return _cut(rng.dirichlet(np.full(clients, self.alpha), size=len(sizes)), sizes)


@dataclass(frozen=True)
class DirichletClient(Partitioner):
    """`dirichlet-client`: each client draws its class mix q ~ Dir(alpha p); all clients are equally large.

    p is the class mix of all examples (it sums to 1).  Examples are drawn without replacement by q; when a
    class runs out, q is renormalised over the others.  Clients draw in random order, since those that draw
    last take what is left.  Sizes differ by at most one.

    Differs from the paper: FedDyn's code gives its alpha to each class, which is ours divided by the number
    of classes (where these are equally frequent), and it lets clients draw in turns.

    Reference: Hsu, Qi, Brown 2019, arXiv 1909.06335, section 3; FedDyn, arXiv 2111.04263.
    """

    kind: ClassVar[str] = "dirichlet-client"
    alpha: float

    def __post_init__(self) -> None:
        _check_alpha(self)

    def assign(self, labels: Tensor, clients: int, key: Key) -> list[Tensor]:
        """Indices of each client, drawn client by client."""
        _check_counts(len(labels), clients)
        group, sizes = _groups(labels, self.kind)
        rng = _generator(key.derive("shares"))
        counts = np.zeros((len(sizes), clients), dtype=np.int64)
        left = sizes.copy()
        for client in key.derive("turns").permutation(clients).tolist():
            mix = rng.dirichlet(self.alpha * sizes / sizes.sum())
            wanted = len(labels) // clients + (client < len(labels) % clients)
            while (need := wanted - counts[:, client].sum()) > 0:
                shares = mix * (left > 0)
                shares = shares if shares.sum() > 0 else left.astype(np.float64)
                taken = np.minimum(rng.multinomial(need, shares / shares.sum()), left)
                counts[:, client] += taken
                left -= taken
        return _deal(group, counts, key)


@dataclass(frozen=True)
class Classes(Partitioner):
    """`classes`: each client holds examples of `per_client` classes only ("#C = k").

    Client j holds class j mod K, and further classes drawn evenly; the examples of a class are divided evenly
    among those that hold it.

    Differs from the paper: with fewer clients than classes, classes that nobody holds yet are drawn first,
    where the code of NIID-Bench would leave their examples out.

    Reference: NIID-Bench, arXiv 2102.02079, section 4.1.
    """

    kind: ClassVar[str] = "classes"
    per_client: int

    def __post_init__(self) -> None:
        _check_per_client(self)

    def assign(self, labels: Tensor, clients: int, key: Key) -> list[Tensor]:
        """Indices of each client, dealt class by class."""
        _check_counts(len(labels), clients)
        group, sizes = _groups(labels, self.kind)
        if not self.per_client <= len(sizes) <= self.per_client * clients:
            raise DataError(
                f"{clients} clients with {self.per_client} classes each cannot share {len(sizes)} classes; each class "
                "needs a client, and each client as many different classes."
            )
        held = np.zeros((len(sizes), clients), dtype=bool)
        held[np.arange(clients) % len(sizes), np.arange(clients)] = True
        for client in range(clients):
            drawn = key.derive("classes", client).permutation(len(sizes)).tolist()
            wanted = [c for c in sorted(drawn, key=lambda c: bool(held[c].any())) if not held[c, client]]
            held[wanted[: self.per_client - 1], client] = True
        if (held.sum(axis=1) > sizes).any():
            raise DataError(f"a class has fewer examples than the clients that are to hold it ({clients} clients).")
        counts = np.zeros(held.shape, dtype=np.int64)
        for row, (owners, size) in enumerate(zip(held, sizes, strict=True)):
            share, rest = divmod(int(size), int(owners.sum()))
            counts[row, owners] = share + (np.arange(owners.sum()) < rest)
        return _deal(group, counts, key)


@dataclass(frozen=True)
class Shards(Partitioner):
    """`shards`: the examples, sorted by class, are cut into equal shards, and each client gets `per_client`.

    Reference: McMahan et al., arXiv 1602.05629, section 3 (two shards per client).
    """

    kind: ClassVar[str] = "shards"
    per_client: int = 2

    def __post_init__(self) -> None:
        _check_per_client(self)

    def assign(self, labels: Tensor, clients: int, key: Key) -> list[Tensor]:
        """Indices of each client."""
        _check_counts(len(labels), clients)
        if clients * self.per_client > len(labels):
            raise DataError(
                f"{len(labels)} examples cannot be cut into {clients * self.per_client} shards; ask for fewer clients."
            )
        group, _ = _groups(labels, self.kind)
        order = key.derive("order").permutation(len(labels))
        shards = torch.tensor_split(order[group[order].argsort(stable=True)], clients * self.per_client)
        dealt = key.derive("shards").permutation(len(shards)).reshape(clients, self.per_client)
        return [torch.cat([shards[i] for i in mine]).sort().values for mine in dealt.tolist()]


@dataclass(frozen=True)
class Quantity(Partitioner):
    """`quantity`: clients hold the same mix in unlike amounts, drawn as q ~ Dir(alpha) over the clients.

    The draw is repeated until every client has `min_examples` examples.

    Reference: NIID-Bench, arXiv 2102.02079, section 4.3.
    """

    kind: ClassVar[str] = "quantity"
    alpha: float
    min_examples: int = 10

    def __post_init__(self) -> None:
        _check_alpha(self)
        _check_min_examples(self)

    def assign(self, labels: Tensor, clients: int, key: Key) -> list[Tensor]:
        """Indices of each client; `labels` only says how many examples there are."""
        alike = torch.zeros(len(labels), dtype=torch.int64)
        return _deal_until_enough(self, self._counts, alike, clients, key)

    def _counts(self, sizes: Counts, clients: int, rng: np.random.Generator) -> Counts:
        return _cut(rng.dirichlet([self.alpha] * clients, size=1), sizes)


@dataclass(frozen=True)
class Column(Partitioner):
    """`column`: the natural partition, by a column that says who each example came from.

    >>> [part.tolist() for part in Column().assign(torch.tensor([1, 0, 1]), 2, Key.root(0))]
    [[1], [0, 2]]
    """

    kind: ClassVar[str] = "column"

    def assign(self, labels: Tensor, clients: int, key: Key) -> list[Tensor]:
        """Indices of each client; here `labels` (int64 `[N]`, 0..clients-1) are the examples' owners."""
        _check_counts(len(labels), clients)
        if bool(((labels < 0) | (labels >= clients)).any()):
            raise DataError(f"an example's owner is not among the clients 0 to {clients - 1}.")
        return _by_group(labels, torch.bincount(labels, minlength=clients))


PARTITIONERS: Mapping[str, type[Partitioner]] = {
    cls.kind: cls for cls in (Iid, DirichletNiid, DirichletClass, DirichletClient, Classes, Shards, Quantity, Column)
}


def partitioner(kind: str, **numbers: Any) -> Partitioner:
    """A partitioner from its name and numbers.

    Raises:
        ConfigError: an unknown kind or parameter, a missing parameter, or one of the wrong type.
        DataError: a parameter out of range.

    >>> partitioner("dirichlet-class", alpha=0.1)
    DirichletClass(alpha=0.1, min_examples=1)
    """
    if kind not in PARTITIONERS:
        raise ConfigError(f"there is no partition {kind!r}{nearest(str(kind), PARTITIONERS)}.")
    cls = PARTITIONERS[kind]
    known = {each.name: each for each in fields(cls)}  # type: ignore[arg-type]
    for name, value in numbers.items():
        if name not in known:
            raise ConfigError(f"the partition {kind!r} has no parameter {name!r}{nearest(name, known)}.")
        allowed = (int,) if known[name].type == "int" else (int, float)
        if isinstance(value, bool) or not isinstance(value, allowed):
            article = "a whole number" if allowed == (int,) else "a number"
            raise ConfigError(f"the parameter {name!r} of the partition {kind!r} is {value!r}, not {article}.")
    missing = [name for name, each in known.items() if each.default is MISSING and name not in numbers]
    if missing:
        raise ConfigError(f"the partition {kind!r} needs the parameter {missing[0]!r}.")
    return cls(**numbers)


def _check_alpha(partition: DirichletNiid | DirichletClass | DirichletClient | Quantity) -> None:
    if not 0.0 < partition.alpha < float("inf"):
        raise DataError(f"alpha of {partition.kind!r} is {partition.alpha}, but a number above 0 is needed.")


def _check_min_examples(partition: DirichletNiid | DirichletClass | Quantity) -> None:
    if partition.min_examples < 1:
        raise DataError(f"min_examples of {partition.kind!r} is {partition.min_examples}, but at least 1 is needed.")


def _check_per_client(partition: Classes | Shards) -> None:
    if partition.per_client < 1:
        raise DataError(f"per_client of {partition.kind!r} is {partition.per_client}, but at least 1 is needed.")


def _check_counts(examples: int, clients: int) -> None:
    if clients < 1:
        raise DataError(f"{clients} clients were asked for, but at least 1 is needed.")
    if clients > examples:
        raise DataError(f"{examples} examples cannot be divided among {clients} clients; ask for fewer clients.")


def _generator(key: Key) -> np.random.Generator:
    """NumPy's generator as a pure function of a key, for the gamma and multinomial draws."""
    return np.random.Generator(np.random.Philox(key=key.bits(2).numpy().astype(np.uint64)))


def _groups(labels: Tensor, kind: str) -> tuple[Tensor, Counts]:
    """The class of each example numbered without gaps (int64 `[N]`), and the class sizes."""
    if labels.ndim != 1 or labels.is_floating_point():
        raise DataError(
            f"the partition {kind!r} needs one class label per example, but the targets have shape "
            f"{list(labels.shape)} and {labels.dtype}; use 'iid' or a column of client ids."
        )
    _, group, sizes = torch.unique(labels, return_inverse=True, return_counts=True)
    return group, sizes.numpy()


def _cut(shares: NDArray[np.float64], sizes: Counts) -> Counts:
    """Whole counts from shares `[classes, clients]`: cumulative cuts, so that each row sums to its size."""
    cuts = (shares.cumsum(axis=1)[:, :-1] * sizes[:, None]).astype(np.int64).clip(0, sizes[:, None])
    return np.diff(cuts, axis=1, prepend=0, append=sizes[:, None])


def _deal_until_enough(
    partition: DirichletNiid | DirichletClass | Quantity, draw: Any, labels: Tensor, clients: int, key: Key
) -> list[Tensor]:
    """Repeat `draw(sizes, clients, rng) -> counts` until every client has enough, then deal the examples."""
    _check_counts(len(labels), clients)
    if clients * partition.min_examples > len(labels):
        raise DataError(
            f"{len(labels)} examples cannot give each of {clients} clients {partition.min_examples}; "
            "ask for fewer clients or a smaller min_examples."
        )
    group, sizes = _groups(labels, partition.kind)
    for attempt in range(_ATTEMPTS):
        counts = draw(sizes, clients, _generator(key.derive("shares", attempt)))
        if counts.sum(axis=0).min() >= partition.min_examples:
            return _deal(group, counts, key)
    raise DataError(
        f"{_ATTEMPTS} draws of {partition.kind!r} with alpha {partition.alpha} never gave each of {clients} "
        f"clients {partition.min_examples} examples; "
        "use a larger alpha, fewer clients or a smaller min_examples."
    )


def _deal(group: Tensor, counts: Counts, key: Key) -> list[Tensor]:
    """Hand out random examples of each class by `counts` `[classes, clients]`."""
    order = key.derive("deal").permutation(len(group))
    by_class = order[group[order].argsort(stable=True)]
    owners = torch.arange(counts.shape[1]).repeat(counts.shape[0])
    owner = torch.empty_like(group)
    owner[by_class] = owners.repeat_interleave(torch.from_numpy(counts.reshape(-1)))
    return _by_group(owner, torch.from_numpy(counts.sum(axis=0)))


def _by_group(owner: Tensor, sizes: Tensor) -> list[Tensor]:
    """The sorted indices that belong to each owner."""
    return list(torch.split(owner.argsort(stable=True), sizes.tolist()))

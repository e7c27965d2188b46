"""Label skew: partitions that give clients different mixes of classes.

Three Dirichlet label-skew partitions are in use under one name.  Accuracy at the same alpha differs between
them, so each has its own name here; quote the name with every number.
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from headway.core.errors import DataError
from headway.data.partition.allocation import (
    LARGEST,
    Counts,
    Partitioner,
    allocate,
    allocate_until_enough,
    check_alpha,
    check_bins,
    check_counts,
    check_repeated,
    cut,
    generator,
    groups,
)
from headway.numerics.keys import Key


class _DirichletByClass(Partitioner):
    """A partition that draws the shares of each class, again until every client has `min_examples`."""

    alpha: float
    min_examples: int
    bins: int | None

    def __post_init__(self) -> None:
        check_repeated(self)

    def assign(self, labels: Tensor, clients: int, key: Key) -> list[Tensor]:
        """Indices of each client, allocated class by class."""
        return allocate_until_enough(self, self._counts, labels, clients, key)

    @abstractmethod
    def _counts(self, sizes: Counts, clients: int, rng: np.random.Generator) -> Counts:
        """The number of examples of each class for each client, `[classes, clients]`."""


@dataclass(frozen=True)
class DirichletNiid(_DirichletByClass):
    """`dirichlet-niid`: each class is spread over clients by p ~ Dir(alpha), with balancing.

    For class k, p_j is set to 0 for a client that already holds N/n examples, and p is renormalised; classes
    follow each other, and the whole draw is repeated until every client has `min_examples` examples.

    bins: cuts a target of numbers into so many classes of about equal size.

    Differs from the paper: where no client below N/n has a share that a float can hold, shares are drawn anew for
    those clients alone, which is the same distribution; repetition is bounded.

    Reference: NIID-Bench, arXiv 2102.02079, section 4.1 and its code; FedMA, arXiv 2002.06440.
    """

    kind: ClassVar[str] = "dirichlet-niid"
    alpha: float
    min_examples: int = 10
    bins: int | None = None

    def _counts(self, sizes: Counts, clients: int, rng: np.random.Generator) -> Counts:
        alpha, held = min(self.alpha, LARGEST), np.zeros(clients, dtype=np.int64)
        counts = np.zeros((len(sizes), clients), dtype=np.int64)
        for label, size in enumerate(sizes):
            open_clients = held * clients < sizes.sum()
            shares = rng.dirichlet(np.full(clients, alpha)) * open_clients
            if not shares.sum() > 0:
                shares[open_clients] = rng.dirichlet(np.full(open_clients.sum(), alpha))
            counts[label] = cut(shares[None] / shares.sum(), np.array([size]))[0]
            held += counts[label]
        return counts


@dataclass(frozen=True)
class DirichletClass(_DirichletByClass):
    """`dirichlet-class`: each class is spread over clients by p ~ Dir(alpha), without balancing.

    Client sizes differ as the draws fall.  The draw is repeated until every client has `min_examples`.  bins: as in
    `dirichlet-niid`.

    Differs from the paper: its code rounds every share down and drops what remains, then refills clients
    below 256 examples from others; here shares are cut cumulatively, so that no example is dropped, and
    no client is refilled.

    Reference: ECGR, arXiv 2601.03584, and its code; the idea is from Yurochkin et al., arXiv 1905.12022.
    """

    kind: ClassVar[str] = "dirichlet-class"
    alpha: float
    min_examples: int = 1
    bins: int | None = None

    def _counts(self, sizes: Counts, clients: int, rng: np.random.Generator) -> Counts:
        return cut(rng.dirichlet(np.full(clients, min(self.alpha, LARGEST)), size=len(sizes)), sizes)


@dataclass(frozen=True)
class DirichletClient(Partitioner):
    """`dirichlet-client`: each client draws its class mix q ~ Dir(alpha p); all clients are equally large.

    p is the class mix of all examples (it sums to 1).  Examples are drawn without replacement by q; when a
    class runs out, q is renormalised over the others.  Clients draw in random order, since those that draw
    last take what is left.  Sizes differ by at most one.  bins: as in `dirichlet-niid`.

    Differs from the paper: FedDyn's code gives its alpha to each class, which is ours divided by the number
    of classes (where these are equally frequent), and it lets clients draw in turns.

    Reference: Hsu, Qi, Brown 2019, arXiv 1909.06335, section 3; FedDyn, arXiv 2111.04263.
    """

    kind: ClassVar[str] = "dirichlet-client"
    alpha: float
    bins: int | None = None

    def __post_init__(self) -> None:
        check_alpha(self.kind, self.alpha)
        check_bins(self.kind, self.bins)

    def assign(self, labels: Tensor, clients: int, key: Key) -> list[Tensor]:
        """Indices of each client, drawn client by client."""
        check_counts(len(labels), clients)
        group, sizes = groups(labels, self.kind, self.bins)
        rng, alpha = generator(key.derive("shares")), min(self.alpha, LARGEST)
        counts = np.zeros((len(sizes), clients), dtype=np.int64)
        left = sizes.copy()
        for client in key.derive("turns").permutation(clients).tolist():
            mix = rng.dirichlet(alpha * sizes / sizes.sum())
            wanted = len(labels) // clients + (client < len(labels) % clients)
            while (need := wanted - counts[:, client].sum()) > 0:
                shares = mix * (left > 0)
                if not shares.sum() > 0:  # nothing that a float can hold is left to them: the others, drawn anew
                    shares[left > 0] = rng.dirichlet(alpha * sizes[left > 0] / sizes.sum())
                taken = np.minimum(rng.multinomial(need, shares / shares.sum()), left)
                counts[:, client] += taken
                left -= taken
        return allocate(group, counts, key)


@dataclass(frozen=True)
class Classes(Partitioner):
    """`classes`: each client holds examples of `per_client` classes only ("#C = k").

    Client j holds class j mod K, and further classes drawn evenly; the examples of a class are divided evenly
    among those that hold it.  bins: as in `dirichlet-niid`.

    Differs from the paper: with fewer clients than classes, classes that no client holds yet are drawn first,
    where the code of NIID-Bench would leave their examples out.

    Reference: NIID-Bench, arXiv 2102.02079, section 4.1.
    """

    kind: ClassVar[str] = "classes"
    per_client: int
    bins: int | None = None

    def __post_init__(self) -> None:
        _check_per_client(self)

    def assign(self, labels: Tensor, clients: int, key: Key) -> list[Tensor]:
        """Indices of each client, allocated class by class."""
        check_counts(len(labels), clients)
        group, sizes = groups(labels, self.kind, self.bins)
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
            short = int((held.sum(axis=1) - sizes).argmax())
            label = short if labels.is_floating_point() else int(labels.unique()[short])
            raise DataError(
                f"class {label} has {sizes[short]} example{'s' * int(sizes[short] != 1)}, fewer than the "
                f"{held[short].sum()} of {clients} clients that are to hold it: ask for fewer clients or a smaller "
                "per_client, or leave so rare a class out."
            )
        counts = np.zeros(held.shape, dtype=np.int64)
        for row, (owners, size) in enumerate(zip(held, sizes, strict=True)):
            share, rest = divmod(int(size), int(owners.sum()))
            counts[row, owners] = share + (np.arange(owners.sum()) < rest)
        return allocate(group, counts, key)


@dataclass(frozen=True)
class Shards(Partitioner):
    """`shards`: the examples, sorted by class, are cut into equal shards, and each client gets `per_client`.

    bins: as in `dirichlet-niid`.

    Reference: McMahan et al., arXiv 1602.05629, section 3 (two shards per client).
    """

    kind: ClassVar[str] = "shards"
    per_client: int = 2
    bins: int | None = None

    def __post_init__(self) -> None:
        _check_per_client(self)

    def assign(self, labels: Tensor, clients: int, key: Key) -> list[Tensor]:
        """Indices of each client."""
        check_counts(len(labels), clients)
        if clients * self.per_client > len(labels):
            raise DataError(
                f"{len(labels)} examples cannot be cut into {clients * self.per_client} shards; ask for fewer clients "
                "or a smaller per_client."
            )
        group, _ = groups(labels, self.kind, self.bins)
        order = key.derive("order").permutation(len(labels))
        shards = torch.tensor_split(order[group[order].argsort(stable=True)], clients * self.per_client)
        drawn = key.derive("shards").permutation(len(shards)).reshape(clients, self.per_client)
        return [torch.cat([shards[i] for i in mine]).sort().values for mine in drawn.tolist()]


def _check_per_client(partition: Classes | Shards) -> None:
    check_bins(partition.kind, partition.bins)
    if partition.per_client < 1:
        raise DataError(f"per_client of {partition.kind!r} is {partition.per_client}, but at least 1 is needed.")

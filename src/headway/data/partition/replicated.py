"""The partition in which several clients hold the same examples, so that their work can be compared."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from headway.core.errors import DataError
from headway.data.partition.allocation import Partitioner
from headway.numerics.keys import Key


@dataclass(frozen=True)
class Replicated(Partitioner):
    """A partition among groups of clients, all clients of a group holding the same examples: the same training and the
    same test part.  In a run file `replicas` stands beside the parameters of the other partition.

    replicas: how many clients a group has; the number of clients is a multiple of it.
    of: the partition that divides the examples among the groups.

    Reference: Chen et al., arXiv 1803.09877, section 3 (repetition code).

    >>> from headway.data import partitioner
    >>> partitioner("iid", replicas=3)
    Replicated(replicas=3, of=Iid())
    """

    kind: ClassVar[str] = "replicated"
    replicas: int
    of: Partitioner

    def __post_init__(self) -> None:
        if self.replicas < 2:
            raise DataError(f"replicas is {self.replicas}, but at least 2 clients must hold the same examples.")

    def assign(self, labels: Tensor, clients: int, key: Key) -> list[Tensor]:
        """Indices of each client, one group after another."""
        if clients % self.replicas:
            raise DataError(
                f"{clients} clients cannot form groups of {self.replicas} replicas; ask for a multiple of it."
            )
        parts = self.of.assign(labels, clients // self.replicas, key)
        return [part for part in parts for _ in range(self.replicas)]

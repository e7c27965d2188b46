"""From examples that a source read to data that clients hold: owners or a partition, split, features."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypedDict

import torch
from torch import Tensor

from headway.core.errors import ConfigError
from headway.core.replicas import group_of, replica_names
from headway.data.dataset.examples import Examples
from headway.data.dataset.federated import FederatedData
from headway.data.dataset.owners import client_ids
from headway.data.dataset.split import Splitter
from headway.data.partition.allocation import Partitioner
from headway.data.partition.by_size import Column
from headway.data.partition.neighbours import neighbours
from headway.data.partition.partitioners import partitioner
from headway.data.partition.replicated import Replicated
from headway.data.sources.impute import EncodedTable
from headway.numerics.keys import Key

PartitionLike = Partitioner | Mapping[str, Any]


class Division(TypedDict, total=False):
    """The division of examples among clients: the arguments of `ExamplePool.divide`."""

    key: Key | int
    partition: PartitionLike | None
    clients: int | None
    test_share: float
    split: str | None


@dataclass(frozen=True, eq=False)
class ExamplePool:
    """N examples of one source, not yet held by clients.

    `inputs` is a tensor `[N, ...]`, or a table whose features depend on who holds which row; `owners` names
    the client of each example where the source knows it; `tested` (bool `[N]`) marks test examples where the
    source has chosen them.  `same` (int64 `[N]`) is a number that examples share where they are known to be copies of
    each other, and `groups` (int64 `[N]`) one that examples share which belong together in the split, as those of the
    array or column `group_name` do.  `class_names` and `notes` are those of the `FederatedData` that is made of it.
    """

    name: str
    inputs: Tensor | EncodedTable
    targets: Tensor
    classes: int | None
    owners: tuple[str, ...] | None = None
    tested: Tensor | None = None
    central: Examples | None = None
    description: str = ""
    class_names: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    same: Tensor | None = None
    groups: Tensor | None = None
    group_name: str = ""

    def divide(
        self,
        *,
        key: Key | int = 0,
        partition: PartitionLike | None = None,
        clients: int | None = None,
        test_share: float = 0.2,
        split: str | None = None,
    ) -> FederatedData:
        """The examples given to clients, each one's parted into training and test (see `Splitter`).

        key: of every draw; a seed stands for the key that a run of that seed draws its data by.

        Raises:
            ConfigError: a partition for a source with clients of its own, none for one without, or a
                malformed one.
            DataError: the examples cannot be divided like this.
        """
        key = Key.of(key, "data")
        strata = self.targets if self.classes is not None and self.targets.ndim == 1 else None
        rule = Splitter.of(split, test_share, labels=strata, groups=self.groups, group_name=self.group_name)
        if self.tested is not None and split is not None:
            raise ConfigError(f"{self.name!r} fixes which examples are tested, so split cannot apply; leave it out.")
        held = self._held(key, partition, clients)
        replicated = isinstance(_rule(partition), Replicated)  # whose clients have the split of their group
        owners = {client: group_of(client) for client in held} if replicated else {}
        train: dict[str, Tensor] = {}
        test: dict[str, Tensor] = {}
        for client, index in held.items():
            if self.tested is not None:
                tested = self.tested[index]
                train[client], test[client] = index[~tested], index[tested]
            else:
                train[client], test[client] = rule.part(index, key.derive("split", owners.get(client, client)))
        inputs = self.inputs.encode(train, test) if isinstance(self.inputs, EncodedTable) else self.inputs
        return FederatedData(
            self.name,
            Examples(inputs, self.targets),
            train,
            test,
            self.central,
            self.classes,
            self.description,
            self.inputs.feature_names() if isinstance(self.inputs, EncodedTable) else (),
            class_names=self.class_names,
            notes=(*self.notes, *self._split_notes(rule, train, test, inputs)),
            split=rule.summary if self.tested is None else "the source says which examples of each client are tested",
        )

    def _split_notes(
        self, rule: Splitter, train: Mapping[str, Tensor], test: Mapping[str, Tensor], inputs: Tensor
    ) -> tuple[str, ...]:
        """Notes on the training and test parts, and on what they have in common."""
        lines: tuple[str, ...] = ()
        if self.tested is None:
            lines += rule.notes(train, test)
            if rule.test_share and rule.kind in ("random", "stratified"):
                lines += neighbours(inputs, self.targets, train, test)
        if self.same is not None:
            trained, tested = (self.same[torch.cat(list(held.values()))] for held in (train, test))
            if count := int(torch.isin(tested, trained).sum()):
                lines += (f"{count} test examples are copies of one that is trained on",)
        return lines

    def _held(self, key: Key, partition: PartitionLike | None, clients: int | None) -> dict[str, Tensor]:
        """Client id -> the indices of its examples."""
        rule = _rule(partition)
        if clients is not None and (isinstance(clients, bool) or not isinstance(clients, int)):
            raise ConfigError(f"clients is {clients!r}, but a whole number is needed.")
        if self.owners is not None:
            ids = tuple(sorted(set(self.owners)))
            if rule is not None and not isinstance(rule, Column):
                raise ConfigError(
                    f"{self.name!r} has {len(ids)} clients of its own, so the partition {rule.kind!r} "
                    "cannot apply; leave the partition out."
                )
            if clients not in (None, len(ids)):
                raise ConfigError(f"{self.name!r} has {len(ids)} clients of its own, not {clients}; leave clients out.")
            number = {client: place for place, client in enumerate(ids)}
            codes = torch.tensor([number[owner] for owner in self.owners], dtype=torch.int64)
            return dict(zip(ids, Column().assign(codes, len(ids), key), strict=True))
        if rule is None or isinstance(rule, Column):
            raise ConfigError(
                f"{self.name!r} has no clients of its own; give a partition, such as {{'kind': 'iid'}}, "
                "and a number of clients."
            )
        if clients is None:
            raise ConfigError(f"the partition {rule.kind!r} needs a number of clients; give clients.")
        parts = rule.assign(self.targets, clients, key.derive("partition"))
        if isinstance(rule, Replicated):
            names = replica_names(client_ids(clients // rule.replicas), rule.replicas)
            return dict(zip(names, parts, strict=True))
        return dict(zip(client_ids(clients), parts, strict=True))


def _rule(partition: PartitionLike | None) -> Partitioner | None:
    """The partitioner that a mapping such as `{"kind": "dirichlet-class", "alpha": 0.1}` describes."""
    if partition is None or isinstance(partition, Partitioner):
        return partition
    if not isinstance(partition, Mapping) or "kind" not in partition:
        raise ConfigError(
            f"the partition is {partition!r}, but a mapping with a 'kind' is needed, such as {{'kind': 'iid'}}."
        )
    return partitioner(**partition)

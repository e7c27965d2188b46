"""The registered partitions, which divide examples among clients, each a pure function of a key.

Another package adds one by an entry point in the group `headway.partitions`, a module of one's own by the decorator
`register_partition`.
"""

from __future__ import annotations

from dataclasses import MISSING, fields
from typing import Any, get_args, get_type_hints

from headway.core.errors import ConfigError, nearest
from headway.core.plugins import NamedRegistry
from headway.core.registry import check_rebuildable, checked
from headway.data.partition.allocation import Partitioner
from headway.data.partition.by_label import Classes, DirichletClass, DirichletClient, DirichletNiid, Shards
from headway.data.partition.by_size import Column, Iid, PowerLaw, Quantity
from headway.data.partition.replicated import Replicated


def _of_kind(name: str | None, cls: Any) -> tuple[str, type[Partitioner]]:
    if not (isinstance(cls, type) and issubclass(cls, Partitioner) and isinstance(getattr(cls, "kind", None), str)):
        raise ConfigError(
            "a partition is a subclass of headway.data.Partitioner with a kind, which is its name in run files, "
            f"found {cls!r}."
        )
    check_rebuildable(cls, f"the partition {cls.kind!r}")
    return cls.kind, cls


PARTITIONERS: NamedRegistry[type[Partitioner]] = NamedRegistry("partition", "headway.partitions", _of_kind)
register_partition = PARTITIONERS.register
for _cls in (Iid, DirichletNiid, DirichletClass, DirichletClient, Classes, Shards, Quantity, PowerLaw, Column):
    register_partition(_cls)


def partitioner(kind: str, **numbers: Any) -> Partitioner:
    """A partitioner from its name and numbers.

    Raises:
        ConfigError: an unknown kind or parameter, a missing parameter, or one of the wrong type.
        DataError: a parameter out of range.

    >>> partitioner("dirichlet-class", alpha=0.1)
    DirichletClass(alpha=0.1, min_examples=1, bins=None)
    >>> partitioner("iid", replicas=3)
    Replicated(replicas=3, of=Iid())
    """
    if "replicas" in numbers:
        replicas = numbers.pop("replicas")
        if isinstance(replicas, bool) or not isinstance(replicas, int):
            raise ConfigError(
                f"the parameter 'replicas' of the partition {kind!r} is {replicas!r}, not a whole number."
            )
        return Replicated(replicas, partitioner(kind, **numbers))
    if kind not in PARTITIONERS:
        raise ConfigError(f"there is no partition {kind!r}{PARTITIONERS.near(str(kind))}.")
    cls = PARTITIONERS[kind]
    known = {each.name: each for each in fields(cls)}  # type: ignore[arg-type]
    hints = get_type_hints(cls)
    for name, value in numbers.items():
        if name not in known:
            raise ConfigError(f"the partition {kind!r} has no parameter {name!r}{nearest(name, known)}.")
        kinds = get_args(hints[name]) or (hints[name],)
        if value is None and type(None) in kinds:
            continue
        if not {int, float} & set(kinds):
            numbers[name] = checked(value, hints[name], known[name], cls.__name__)
            continue
        allowed = (int, float) if float in kinds else (int,)
        if isinstance(value, bool) or not isinstance(value, allowed):
            article = "a whole number" if allowed == (int,) else "a number"
            raise ConfigError(f"the parameter {name!r} of the partition {kind!r} is {value!r}, not {article}.")
    missing = [name for name, each in known.items() if each.default is MISSING and name not in numbers]
    if missing:
        raise ConfigError(f"the partition {kind!r} needs the parameter {missing[0]!r}.")
    return cls(**numbers)

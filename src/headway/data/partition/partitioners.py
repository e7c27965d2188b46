"""Dividing examples among clients: every example goes to exactly one client, as a pure function of a key."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, fields
from typing import Any

from headway.core.errors import ConfigError, nearest
from headway.data.partition.allocation import Partitioner
from headway.data.partition.by_label import Classes, DirichletClass, DirichletClient, DirichletNiid, Shards
from headway.data.partition.by_size import Column, Iid, PowerLaw, Quantity

PARTITIONERS: Mapping[str, type[Partitioner]] = {
    cls.kind: cls
    for cls in (Iid, DirichletNiid, DirichletClass, DirichletClient, Classes, Shards, Quantity, PowerLaw, Column)
}


def partitioner(kind: str, **numbers: Any) -> Partitioner:
    """A partitioner from its name and numbers.

    Raises:
        ConfigError: an unknown kind or parameter, a missing parameter, or one of the wrong type.
        DataError: a parameter out of range.

    >>> partitioner("dirichlet-class", alpha=0.1)
    DirichletClass(alpha=0.1, min_examples=1, bins=None)
    """
    if kind not in PARTITIONERS:
        raise ConfigError(f"there is no partition {kind!r}{nearest(str(kind), PARTITIONERS)}.")
    cls = PARTITIONERS[kind]
    known = {each.name: each for each in fields(cls)}  # type: ignore[arg-type]
    for name, value in numbers.items():
        if name not in known:
            raise ConfigError(f"the partition {kind!r} has no parameter {name!r}{nearest(name, known)}.")
        if value is None and "None" in str(known[name].type):
            continue
        allowed = (int,) if "int" in str(known[name].type) else (int, float)
        if isinstance(value, bool) or not isinstance(value, allowed):
            article = "a whole number" if allowed == (int,) else "a number"
            raise ConfigError(f"the parameter {name!r} of the partition {kind!r} is {value!r}, not {article}.")
    missing = [name for name, each in known.items() if each.default is MISSING and name not in numbers]
    if missing:
        raise ConfigError(f"the partition {kind!r} needs the parameter {missing[0]!r}.")
    return cls(**numbers)

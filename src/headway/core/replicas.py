"""Replicas: clients that hold the same data and do the same work, known as a group by their names."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from headway.core.errors import ConfigError


def group_of(client: str) -> str:
    """The group of a client: its name up to the last dot; a client without one is a group of its own.

    >>> group_of("north.1"), group_of("st.mary.2"), group_of("south")
    ('north', 'st.mary', 'south')
    """
    return client.rpartition(".")[0] or client


def grouped(clients: Iterable[str]) -> dict[str, list[str]]:
    """The clients of each group, both sorted.

    >>> grouped(["b.1", "a.2", "a.1"])
    {'a': ['a.1', 'a.2'], 'b': ['b.1']}
    """
    groups = dict[str, list[str]]()
    for client in sorted(clients):
        groups.setdefault(group_of(client), []).append(client)
    return dict(sorted(groups.items()))


def replica_names(groups: Sequence[str], replicas: int) -> tuple[str, ...]:
    """The names of so many replicas of each group.

    >>> replica_names(("north", "south"), 2)
    ('north.1', 'north.2', 'south.1', 'south.2')
    """
    width = len(str(replicas))
    return tuple(f"{group}.{number:0{width}d}" for group in groups for number in range(1, replicas + 1))


def check_groups(clients: Iterable[str], replicas: int) -> None:
    """Refuses clients that are not in groups of so many replicas.

    Raises:
        ConfigError: naming the first group of another size.
    """
    for group, members in grouped(clients).items():
        if len(members) != replicas:
            raise ConfigError(
                f"MajorityVote needs groups of {replicas} replicas, clients of one name up to the last dot "
                f"({group}.1, {group}.2, ...), and {group!r} has {len(members)}: {', '.join(members)}. Name the "
                "clients like this, divide the data with replicas in the partition, or set MajorityVote.replicas."
            )

"""Which clients attack, how, and from which round."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from headway.attacks.attack import Attack
from headway.core.errors import ConfigError
from headway.core.fields import at_least
from headway.core.registry import Plain


@dataclass(frozen=True)
class AttackPlan(Plain):
    """An attack in a simulation.

    attackers: their names; or `count` of all clients, the last by name.  from_round: the first round in which they
    attack, counted from 1.  knows: whether they know only their own honest updates ("attackers") or those of all
    clients ("everyone"), the worst case that guarantees are stated for.

    Raises:
        ConfigError: unless either names or a count are given.

    >>> from headway.attacks import SignFlip
    >>> AttackPlan(SignFlip(), count=4)
    AttackPlan(attack=SignFlip(scale=1.0), attackers=(), count=4, from_round=1, knows='attackers')
    """

    attack: Attack
    attackers: tuple[str, ...] = ()
    count: int = at_least(0, 0)
    from_round: int = at_least(1, 1)
    knows: Literal["attackers", "everyone"] = "attackers"

    def __post_init__(self) -> None:
        if bool(self.attackers) == bool(self.count):
            raise ConfigError("an attack needs either the names of its attackers or their count, and not both.")

    def among(self, clients: Sequence[str]) -> tuple[str, ...]:
        """The attackers' names, sorted.

        Raises:
            ConfigError: if one is no client, or nobody else would be left.
        """
        if unknown := sorted(set(self.attackers) - set(clients)):
            raise ConfigError(f"the attacker {unknown[0]!r} is none of the {len(clients)} clients.")
        if not max(self.count, len(set(self.attackers))) < len(clients):
            raise ConfigError(f"all of the {len(clients)} clients would attack; at least one must be honest.")
        return tuple(sorted(set(self.attackers) or sorted(clients)[-self.count :]))

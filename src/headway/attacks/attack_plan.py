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

    attackers: their names; or `count` of all clients, the last by name but for one that holds the server's own data.
    from_round: the first round in which they attack, counted from 1.  knows: whether they know only their own honest
    updates ("attackers") or those of all clients ("everyone"), the worst case that guarantees are stated for.

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

    def among(self, clients: Sequence[str], trusted: str | None = None) -> tuple[str, ...]:
        """The attackers' names, sorted.

        trusted: the client that holds the server's own data, which is none of them.

        Raises:
            ConfigError: if one is no client, or the trusted one, or nobody else would be left.
        """
        if unknown := sorted(set(self.attackers) - set(clients)):
            raise ConfigError(f"the attacker {unknown[0]!r} is none of the {len(clients)} clients.")
        if trusted in self.attackers:
            raise ConfigError(
                f"the attacker {trusted!r} holds the server's own data, which the rule trusts: name others."
            )
        others = sorted(set(clients) - {trusted})
        if not max(self.count, len(set(self.attackers))) < len(others):
            raise ConfigError(f"all of the {len(others)} clients would attack; at least one must be honest.")
        return tuple(sorted(set(self.attackers) or others[-self.count :]))

"""An attack: what a set of clients that work together does with its data and its updates."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from headway.core.registry import Plain, Registry
from headway.data import Examples
from headway.numerics.keys import Key


@dataclass(frozen=True, slots=True)
class AttackView:
    """What the attackers see in a round, of which there are M among n clients.

    own: the updates that they would send as honest clients, all vectors side by side, float64 `[M, P]`.
    others: the honest clients' updates `[n - M, P]`, where the attackers know them; `None` where they do not.
    weights: their own weights `[M]`.
    rule: the server's aggregate `[P]` of updates `[n, P]` in any order, which adaptive attackers know.
    """

    round: int
    key: Key
    own: Tensor
    others: Tensor | None
    weights: Tensor
    rule: Callable[[Tensor], Tensor]
    cohort: int

    @property
    def honest(self) -> Tensor:
        """The updates from which the attackers estimate those of honest clients: these, or their own honest ones."""
        return self.own if self.others is None else self.others

    def everyone(self, crafted: Tensor) -> Tensor:
        """All updates of the round as far as they are known, `[n, P]`: honest ones that are not known are stood for by
        the attackers' own honest ones, again and again."""
        if self.others is not None:
            return torch.cat([crafted, self.others])
        missing = self.cohort - len(crafted)
        places = torch.arange(missing) % len(self.own)
        return torch.cat([crafted, self.own[places]])

    def same(self, update: Tensor) -> Tensor:
        """The same update `[P]` from every attacker, `[M, P]`."""
        return update.expand(len(self.own), -1).clone()


@dataclass(frozen=True)
class Attack(Plain):
    """A set of attackers.  Override what it does: `poison`, `craft`, `weights`, `at`; all are pure."""

    registry: ClassVar[Registry[Attack]] = Registry("attack", "headway.attacks")

    @property
    def poisons(self) -> bool:
        """Whether attackers train on other examples than their own."""
        return type(self).poison is not Attack.poison

    def poison(self, examples: Examples, classes: int | None, key: Key) -> Examples:
        """The training examples with which an attacker trains."""
        return examples

    def craft(self, view: AttackView) -> Tensor:
        """The updates that the attackers send, `[M, P]`."""
        return view.own

    def weights(self, view: AttackView) -> Tensor:
        """The weights that the attackers claim, `[M]`."""
        return view.weights

    def at(self, scale: float) -> Attack:
        """The attack at another scale, for a `LineSearch`; an attack without one is the same at all."""
        return self

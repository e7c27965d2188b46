"""Attacks that need no other attacker."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, final

import torch
from torch import Tensor

from headway.attacks.attack import Attack, AttackView
from headway.core.fields import at_least, positive
from headway.numerics.secure_random import normals


@final
@Attack.registry.register
@dataclass(frozen=True)
class SignFlip(Attack):
    """Each attacker sends its honest update reversed, `-scale x_i`.

    >>> SignFlip()
    SignFlip(scale=1.0)
    """

    scale: float = positive(1.0)

    def craft(self, view: AttackView) -> Tensor:
        """The reversed updates."""
        return -self.scale * view.own


@final
@Attack.registry.register
@dataclass(frozen=True)
class GaussianUpdate(Attack):
    """Each attacker sends Gaussian noise of a standard deviation, in the units of the parameters.

    >>> GaussianUpdate(std=1.0)
    GaussianUpdate(std=1.0)
    """

    std: float = positive(1.0)

    def craft(self, view: AttackView) -> Tensor:
        """The noise."""
        keys = view.key.for_each("gaussian", names=range(len(view.own)))
        return self.std * normals(keys, view.own.shape[1]).double()


@final
@Attack.registry.register
@dataclass(frozen=True)
class NotFinite(Attack):
    """Each attacker sends numbers that are not finite, which the server's guard refuses by name.

    >>> NotFinite("inf")
    NotFinite(value='inf')
    """

    value: Literal["nan", "inf"] = "nan"

    def craft(self, view: AttackView) -> Tensor:
        """One such number at the start of each update."""
        crafted = view.own.clone()
        crafted[:, 0] = float(self.value)
        return crafted


@final
@Attack.registry.register
@dataclass(frozen=True)
class ZeroUpdate(Attack):
    """Each attacker sends zeros: a client that takes the model and gives nothing (a free rider).

    >>> ZeroUpdate()
    ZeroUpdate()
    """

    def craft(self, view: AttackView) -> Tensor:
        """The zeros."""
        return torch.zeros_like(view.own)


@final
@Attack.registry.register
@dataclass(frozen=True)
class ScaledUpdate(Attack):
    """Each attacker sends its honest update `scale` times as long.

    >>> ScaledUpdate(scale=10.0)
    ScaledUpdate(scale=10.0)
    """

    scale: float = positive(10.0)

    def craft(self, view: AttackView) -> Tensor:
        """The longer updates."""
        return self.scale * view.own


@final
@Attack.registry.register
@dataclass(frozen=True)
class HeavyWeight(Attack):
    """Each attacker reverses its update and claims `factor` times its weight.

    The guard refuses a weight above the client's number of examples where the server knows it.

    >>> HeavyWeight(factor=1000.0)
    HeavyWeight(factor=1000.0)
    """

    factor: float = at_least(1, 1000.0)

    def craft(self, view: AttackView) -> Tensor:
        """The reversed updates."""
        return -view.own

    def weights(self, view: AttackView) -> Tensor:
        """The claimed weights."""
        return self.factor * view.weights

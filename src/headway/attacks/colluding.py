"""Attacks of clients that work together."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from statistics import NormalDist
from typing import final

import torch
from torch import Tensor

from headway.attacks.attack import Attack, AttackView
from headway.attacks.poisoned_data import LabelFlip
from headway.core.errors import ConfigError
from headway.core.fields import at_least, positive
from headway.data import Examples
from headway.numerics.keys import Key
from headway.numerics.secure_random import normals

TRIALS = 24  # of a line search


@final
@Attack.registry.register
@dataclass(frozen=True)
class ALIE(Attack):
    """A little is enough: all send the honest mean moved by z standard deviations in each coordinate.

    Formula: `mean - z std`, over the honest updates that are known; z where it is not given is the largest that hides
    among honest clients: `Phi^-1((n - M - s) / (n - M))`, s = floor(n / 2 + 1) - M the honest clients that must be on
    the attackers' side for a majority.

    Reference: Baruch, Baruch, Goldberg, arXiv 1902.06156, Algorithm 3.

    >>> ALIE(z=1.5)
    ALIE(z=1.5)
    """

    z: float | None = at_least(0, None)

    def craft(self, view: AttackView) -> Tensor:
        """The same moved mean from all."""
        z = hiding_z(view.cohort, len(view.own)) if self.z is None else self.z
        honest = view.honest
        std = honest.std(0, unbiased=False) if len(honest) > 1 else torch.zeros_like(honest[0])
        return view.same(honest.mean(0) - z * std)

    def at(self, scale: float) -> ALIE:
        """The attack at another z."""
        return replace(self, z=scale)


@final
@Attack.registry.register
@dataclass(frozen=True)
class InnerProduct(Attack):
    """Inner-product manipulation: all send the honest mean reversed, `-scale mean`.

    Reference: Xie, Koyejo, Gupta, arXiv 1903.03936, section 4.

    >>> InnerProduct(scale=3.0)
    InnerProduct(scale=3.0)
    """

    scale: float = positive(3.0)

    def craft(self, view: AttackView) -> Tensor:
        """The same reversed mean from all."""
        return view.same(-self.scale * view.honest.mean(0))

    def at(self, scale: float) -> InnerProduct:
        """The attack at another scale."""
        return replace(self, scale=scale)


@final
@Attack.registry.register
@dataclass(frozen=True)
class FallOfEmpires(Attack):
    """All send the honest mean less `scale` times itself, `(1 - scale) mean`.

    Reference: Xie, Koyejo, Gupta, arXiv 1903.03936; in this form in Allouah et al., arXiv 2302.01772, appendix.

    >>> FallOfEmpires(scale=10.0)
    FallOfEmpires(scale=10.0)
    """

    scale: float = positive(10.0)

    def craft(self, view: AttackView) -> Tensor:
        """The same update from all."""
        return view.same((1 - self.scale) * view.honest.mean(0))

    def at(self, scale: float) -> FallOfEmpires:
        """The attack at another scale."""
        return replace(self, scale=scale)


@final
@Attack.registry.register
@dataclass(frozen=True)
class Mimic(Attack):
    """All send the update of one honest client, which then counts too much; the longer the less alike clients' data
    are.

    client: its place among the honest clients that are known, by name.

    Reference: Karimireddy, He, Jaggi, arXiv 2006.09365, section 3.2 (mimic); here with a fixed client.

    >>> Mimic()
    Mimic(client=0)
    """

    client: int = at_least(0, 0)

    def craft(self, view: AttackView) -> Tensor:
        """That update from all."""
        return view.same(view.honest[self.client % len(view.honest)])


@final
@Attack.registry.register
@dataclass(frozen=True)
class Sybils(Attack):
    """One attacker under several names: each of them sends what the first would send in another attack.

    Formula: `x + noise ||x||_2 (r_i - mean r) / sqrt(P)`, x being the first one's update in the attack `of` and r_i
    standard normal numbers of name i: copies that are not equal, and whose sum is that of copies.
    Each claims the weight that it would claim alone.

    Reference: Fung, Yoon, Beschastnikh, arXiv 1808.04866 (FoolsGold): sybils that poison, and noise that cancels.

    >>> Sybils(of=InnerProduct(scale=3.0))
    Sybils(of=InnerProduct(scale=3.0), noise=0.0)
    """

    of: Attack = LabelFlip()
    noise: float = at_least(0, 0.0)

    @property
    def poisons(self) -> bool:
        """Whether the other attack does."""
        return self.of.poisons

    def poison(self, examples: Examples, classes: int | None, key: Key) -> Examples:
        """The examples of the other attack."""
        return self.of.poison(examples, classes, key)

    def craft(self, view: AttackView) -> Tensor:
        """Copies of the first one's update, with noise."""
        first = self.of.craft(view)[0]
        if not self.noise:
            return view.same(first)
        drawn = normals(view.key.for_each("sybils", names=range(len(view.own))), len(first)).double()
        share = self.noise * float(first.norm()) / math.sqrt(len(first))
        return first + share * (drawn - drawn.mean(0))

    def weights(self, view: AttackView) -> Tensor:
        """Those of the other attack."""
        return self.of.weights(view)


@final
@Attack.registry.register
@dataclass(frozen=True)
class LineSearch(Attack):
    """An adaptive attack: the scale of another attack that moves the aggregate of the rule, which it knows, farthest.

    Formula: the scale s of the attack `of` that maximises `||A(crafted(s), honest) - mean honest||_2`, A being the
    server's rule: scales 2^k, then by halving the bracket around the best, 24 trials in all.  A rule that keeps
    something from round to round (the centre of CentredClipping) is tried as it starts, since attackers do not see it.

    Reference: Shejwalkar and Houmansadr, NDSS 2021 (attacks that know the aggregation); Allouah et al.,
    arXiv 2302.01772, appendix (optimised ALIE and FOE).

    >>> LineSearch(of=InnerProduct())
    LineSearch(of=InnerProduct(scale=3.0))
    """

    of: Attack = ALIE()

    def __post_init__(self) -> None:
        if type(self.of).at is Attack.at:
            raise ConfigError(f"LineSearch.of must be ALIE, InnerProduct or FallOfEmpires, found {self.of!r}.")

    def craft(self, view: AttackView) -> Tensor:
        """The updates of the attack at the best scale."""
        target, tried = view.honest.mean(0), dict[float, float]()

        def moved(scale: float) -> float:
            if scale not in tried:
                aggregate = view.rule(view.everyone(self.of.at(scale).craft(view)))
                tried[scale] = float((aggregate - target).norm())
            return tried[scale]

        powers = [2.0**power for power in range(-3, 8)]
        best = max(powers, key=moved)
        low, high = best / 2, best * 2
        while len(tried) < TRIALS - 1:
            left, right = (low + best) / 2, (best + high) / 2
            low, best, high = _shrunk(
                low, best, high, left, right, moved(left) - moved(best), moved(right) - moved(best)
            )
        return self.of.at(max(tried, key=lambda scale: (tried[scale], -scale))).craft(view)


def _shrunk(
    low: float, best: float, high: float, left: float, right: float, at_left: float, at_right: float
) -> tuple[float, float, float]:
    """The bracket of half the width around the best of three."""
    if at_left > max(0.0, at_right):
        return low, left, best
    return (best, right, high) if at_right > 0 else (left, best, right)


def hiding_z(cohort: int, attackers: int) -> float:
    """The z of ALIE: so many standard deviations away, enough honest clients of n are farther out.

    >>> round(hiding_z(50, 12), 3)
    0.336
    """
    honest = cohort - attackers
    supporters = math.floor(cohort / 2 + 1) - attackers
    share = min(max((honest - supporters) / honest, 1e-6), 1 - 1e-6) if honest else 0.5
    return max(NormalDist().inv_cdf(share), 0.0)

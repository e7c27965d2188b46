"""Noise of whole numbers at the clients, whose sum alone is seen."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, final

from torch import Tensor

from headway.core.context import ClientContext
from headway.core.fields import at_least, positive
from headway.core.flow import Flow, PrivacyEvent
from headway.core.stage import Place, Stage, stages
from headway.core.update import Tensors, Update
from headway.numerics.keys import Key
from headway.numerics.secure_random import SecureStream
from headway.numerics.skellam_noise import skellam, skellam_of_each


@final
@stages.register
@dataclass(frozen=True)
class Skellam(Stage):
    """Distributed differential privacy: each client adds a share of noise to its integers, and the server sees only
    the sum, in which the shares add up to the whole noise.

    Formula: `k <- k + Sk(v)` on every integer of every travelling vector, Sk(v) being the difference of two Poisson
    numbers of mean `v / 2`; `v = (multiplier * D2)^2 / survivors`.  D2 is the L2 norm of one client's integers, as
    Quantize bounds it.  The sum over m clients has the variance m v, which is at least `(multiplier * D2)^2` as long
    as `survivors` of them are in it: with fewer the round is skipped and nothing is unmasked.

    No trusted server is needed, but honest clients are: those that leave their share out weaken the noise.  Set
    `survivors` to how many of them are sure to be honest.
    The count of clients in the sum, and that a client takes part, are not hidden: the relation is that of a client
    replaced by zeros.  The modulus of the sum has room for the noise, but for a probability of 2^-59 per number.
    Units: multiplier is the standard deviation of the noise over the sensitivity, in integers.
    Shapes: `[..., P]`; the noise is drawn from each client's private key by AES-256 in counter mode.

    Raises:
        ConfigError: unless multiplier > 0 and survivors >= 1.
        ChainRefused: without a secure sum after it and Quantize before it, with weights that differ, or with rounds
            that are not synchronous.

    Reference: Agarwal, Kairouz, Liu, arXiv 2110.04995, Theorem 3.5 and Algorithm 1; Kairouz, Liu, Steinke, arXiv
    2102.06387, for the quantised sum.

    >>> Skellam(multiplier=1.0, survivors=40)
    Skellam(multiplier=1.0, survivors=40)
    """

    place: ClassVar[Place] = Place.NOISE
    multiplier: float = positive()
    survivors: int = at_least(1)

    def connect(self, flow: Flow) -> Flow:
        """Needs integers of a bounded norm that only a sum is seen of; sets the privacy event."""
        flow.require(self, quantised=True, behind_sum="only there do the shares of noise add up before they are seen")
        flow.require(self, integer_norm=True, finite_bound=True, same_weights=True)
        flow.require(self, synchronous="the noise is that of one cohort")
        l2, variance = flow.integer_norm or 0.0, self.survivors * self.share(flow)
        l1 = min(l2 * l2, l2 * math.sqrt(flow.coordinates or 1))
        assert flow.bound is not None
        numbers = {"l1": l1, "l2": l2, "variance": variance}
        event = PrivacyEvent(
            "skellam", self.multiplier, flow.bound, flow.vectors, relation="zero_out", at="distributed", details=numbers
        )
        needed = max(flow.min_updates, self.survivors)
        flow = flow.set(self, noise_variance=self.share(flow), survivors=self.survivors, min_updates=needed)
        return flow.set(self, events=(*flow.events, event)).keep(self, "additive", "dense", "bound")

    def share(self, flow: Flow) -> float:
        """v, the variance of one client's noise on each integer."""
        assert flow.integer_norm is not None
        return (self.multiplier * flow.integer_norm) ** 2 / self.survivors

    def send(self, update: Update, memory: Tensors, ctx: ClientContext) -> tuple[Update, Tensors]:
        """The integers with a share of noise."""
        names = sorted(update.vectors)
        lengths = [update.vectors[name].shape[-1] for name in names]
        ctx.flow.check_coordinates(self, sum(lengths))
        noise = self._noise(ctx, sum(lengths)).to(update.delta.device).split(lengths, dim=-1)
        noisy = {name: update.vectors[name] + part for name, part in zip(names, noise, strict=True)}
        return update.with_vectors(**noisy), memory

    def _noise(self, ctx: ClientContext, count: int) -> Tensor:
        """The noise of one client `[count]`, or of each of many `[C, count]`."""
        one, variance = ctx.private, self.share(ctx.flow)
        if isinstance(one, Key):
            return skellam(SecureStream(one), variance, count)
        return skellam_of_each([SecureStream(key) for key in one.each()], variance, count)

"""Gaussian noise at the server, on the aggregate."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, final

import torch

from headway.core.context import ServerContext
from headway.core.fields import positive
from headway.core.flow import Flow, PrivacyEvent
from headway.core.stage import Place, Stage, stages
from headway.core.update import Update
from headway.numerics.keys import Key, Keys
from headway.numerics.secure_random import SecureStream
from headway.stages.privacy.noise_grid import NoiseGrid


@final
@stages.register
@dataclass(frozen=True)
class GaussianNoise(Stage):
    """Gaussian noise on the aggregate, which hides whether any one client took part.

    Formula: `released = aggregate + N(0, (multiplier * S)^2 I)`, S being the most that one client can change the
    aggregate by: the clip norm over the expected cohort, read from the flow.  All vectors that travel are noised as
    one, a model's averaged statistics among them, and the same S holds for all together.
    Units: multiplier is the standard deviation over S, the z or noise multiplier of accounting.  A multiplier of 0 is
    refused: noise that hides nothing is left out.

    Value and noise are rounded to a grid of a 2^-32nd of the noise first, so that no low bit of the release depends on
    the value; discrete: the noise on the grid follows the discrete Gaussian distribution, drawn exactly from whole
    numbers, for about 30 times the time.  The generator is AES-256 in counter mode in either case.

    A round in which nobody takes part releases noise alone: that nobody did must not show either.

    Raises:
        ConfigError: unless multiplier > 0.
        ChainRefused: without a bound of one client's effect (a clip before `Mean(over="expected")`).

    Reference: McMahan et al., arXiv 1710.06963, Algorithm 1, with the fixed denominator; Canonne, Kamath and Steinke,
    arXiv 2004.00010, for discrete noise.
    Differs from the paper: the standard deviation is larger by a part below 10^-6 (10^-3 if discrete, at a million
    numbers), which pays for the rounding.

    >>> GaussianNoise(multiplier=1.1)
    GaussianNoise(multiplier=1.1, discrete=False)
    """

    place: ClassVar[Place] = Place.RELEASE
    multiplier: float = positive()
    discrete: bool = False

    def connect(self, flow: Flow) -> Flow:
        """Needs the bound; sets the privacy event."""
        flow.require(self, bound=True)
        event = PrivacyEvent("gaussian", self.multiplier, bound_of(flow), released(flow))
        return flow.set(self, events=(*flow.events, event))

    def release(self, update: Update, ctx: ServerContext) -> Update:
        """The aggregate with noise."""
        count = sum(vector.numel() for vector in update.vectors.values())
        grid = NoiseGrid(self.multiplier, bound_of(ctx.flow), count, self.discrete)
        return without_numbers(grid.add(update, SecureStream(one_key(ctx.private))), ctx.flow)


def bound_of(flow: Flow) -> float:
    """The bound of one client's effect, which there is."""
    assert flow.bound is not None
    return flow.bound


def one_key(key: Key | Keys) -> Key:
    """The key of the server, which is not one of many clients."""
    assert isinstance(key, Key)
    return key


def released(flow: Flow) -> tuple[str, ...]:
    """The names of the vectors that are released."""
    return tuple(name for name in flow.vectors if name != "weight")


def without_numbers(update: Update, flow: Flow) -> Update:
    """A release without the weight and the sums of the clients, on which there is no noise: what a mean over the
    expected cohort divides by stands in their place."""
    clients = torch.tensor(flow.cohort or 1.0, dtype=torch.float64)
    return Update(update.vectors, clients * (flow.weight_bound or 1.0), {"clients": clients})

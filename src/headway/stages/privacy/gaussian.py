"""Gaussian noise at the server, on the aggregate."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, final

import torch

from headway.core.context import ServerContext
from headway.core.facts import Relation
from headway.core.fields import positive
from headway.core.flow import Flow, PrivacyEvent
from headway.core.stage import Place, Stage, stages
from headway.core.update import Update
from headway.stages.privacy.noise_grid import NoiseGrid

SUM_WITHOUT_NOISE = (
    "the server sees the sum before the noise, so that the promise of the ledger is one to those who see the model; "
    "with Skellam before the secure sum it holds towards the server too."
)


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
        ChainRefused: without a bound of one client's effect (a clip before `Mean(over="expected")`); behind a rule
            over the whole cohort (a median), or with Rebase, whose effects have no such bound.

    Reference: McMahan et al., arXiv 1710.06963, Algorithm 1, with the fixed denominator; Canonne, Kamath and Steinke,
    arXiv 2004.00010, for discrete noise.
    Differs from the paper: the standard deviation is larger by a part of about 2 10^-5 (10^-3 if discrete, at a
    million numbers), which pays for all rounding.

    >>> GaussianNoise(multiplier=1.1)
    GaussianNoise(multiplier=1.1, discrete=False)
    """

    place: ClassVar[Place] = Place.RELEASE
    multiplier: float = positive()
    discrete: bool = False

    def connect(self, flow: Flow) -> Flow:
        """Needs the bound; sets the privacy event."""
        flow.require(self, sum=True, bound=True, not_rebased="what it adds is not clipped")
        event = PrivacyEvent("gaussian", self.multiplier, effect_of(flow), released(flow), relation=relation_of(flow))
        flow = flow.set(self, events=(*flow.events, event))
        return flow.warn(SUM_WITHOUT_NOISE) if flow.server_sees == "sum" else flow

    def release(self, update: Update, ctx: ServerContext) -> Update:
        """The aggregate with noise."""
        grid = NoiseGrid.of(update, self.multiplier, effect_of(ctx.flow), self.discrete)
        return without_numbers(grid.add(update, ctx.private), ctx.flow)


def effect_of(flow: Flow) -> float:
    """The most that one client's data can change what travels, which is known."""
    effect = flow.sensitivity if flow.bound is None else flow.bound
    assert effect is not None
    return effect


def relation_of(flow: Flow) -> Relation:
    """What is protected: that a client took part; or, where clients add noise of their own, which the release shows,
    what its data were."""
    drawn = any(event.unit == "client" and event.at != "server" for event in flow.events)
    return "zero_out" if drawn or flow.bound is None else "add_remove"


def released(flow: Flow) -> tuple[str, ...]:
    """The names of the vectors that are released."""
    return tuple(name for name in flow.vectors if name != "weight")


def without_numbers(update: Update, flow: Flow) -> Update:
    """A release without the weight and the sums of the clients, on which there is no noise: what a mean over the
    expected cohort divides by stands in their place."""
    clients = torch.tensor(flow.cohort or 1.0, dtype=torch.float64)
    return Update(update.vectors, clients * (flow.weight_bound or 1.0), {"clients": clients})

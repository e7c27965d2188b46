"""Gaussian noise at the client, on its own update."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, final

import torch

from headway.core.context import ClientContext
from headway.core.fields import positive
from headway.core.flow import Flow, PrivacyEvent
from headway.core.stage import Place, Stage, stages
from headway.core.update import Tensors, Update
from headway.stages.privacy.gaussian import effect_of, released
from headway.stages.privacy.noise_grid import NoiseGrid


@final
@stages.register
@dataclass(frozen=True)
class LocalGaussian(Stage):
    """Gaussian noise on each client's update before it leaves: local differential privacy, against the server too.

    Formula: `v <- v + N(0, (multiplier * norm)^2 I)`, norm being the clip norm, read from the flow, and v the delta
    with every vector that travels.  Each client draws its own noise from its own randomness.
    Units: multiplier is the standard deviation over the clip norm.  It is the noise multiplier between an update and
    none (zero-out); that between two different updates is half of it.

    A mean of m clients has the noise of one over sqrt(m), against one over m where the server adds it
    (GaussianNoise): local noise costs much more accuracy, and is for a server that is not trusted.  The number of
    examples does not leave the client: the weight that it sends is 1, and every client counts the same.

    Raises:
        ConfigError: unless multiplier > 0.
        ChainRefused: without a clip before it; after a sparsifier, whose choice of coordinates would show, a quantiser,
            or a stage that sets weights, which would be sent without noise.

    Reference: Duchi, Jordan, Wainwright, arXiv 1302.3203 (local privacy); Dwork and Roth, 2014, Theorem A.1 (the
    Gaussian mechanism).

    >>> LocalGaussian(multiplier=4.0)
    LocalGaussian(multiplier=4.0, discrete=False)
    """

    place: ClassVar[Place] = Place.NOISE
    multiplier: float = positive()
    discrete: bool = False

    def connect(self, flow: Flow) -> Flow:
        """Needs a bound of plain, dense vectors and equal weights; sets the event of the client's message."""
        flow.require(self, real=INTEGER_NOISE, dense=INDICES, bound=True, equal_weights=OPEN_WEIGHTS)
        norm = effect_of(flow)
        event = PrivacyEvent("gaussian", self.multiplier, norm, released(flow), relation="zero_out", at="client")
        return flow.set(self, events=(*flow.events, event), sensitivity=norm).keep(self, "additive", "dense")

    def send(self, update: Update, memory: Tensors, ctx: ClientContext) -> tuple[Update, Tensors]:
        """The update with noise and the weight 1."""
        grid = NoiseGrid.of(update, self.multiplier, effect_of(ctx.flow), self.discrete)
        return grid.add(update.with_weight(torch.ones_like(update.weight)), ctx.private), memory


INTEGER_NOISE = "its noise is of real numbers, while integers need Skellam"
INDICES = "which coordinates are sent would show without noise"
OPEN_WEIGHTS = "a weight would be sent without noise"

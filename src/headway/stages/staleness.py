"""Stages for updates that answer an earlier model than the one that they change."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal, final

import torch
from torch import Tensor

from headway.core.context import ServerContext
from headway.core.fields import at_least
from headway.core.flow import Flow
from headway.core.stage import Place, Stage, stages
from headway.core.update import Update


@final
@stages.register
@dataclass(frozen=True)
class Staleness(Stage):
    """Scales an update down by its age: how many rounds the model has moved on since the client was asked.

    Formula: `delta <- s(age) delta`, with

        constant:    1
        polynomial:  (1 + age) ** -power
        hinge:       1 up to age `grace`, and 1 / (slope (age - grace) + 1) beyond

    The weight stays, so that the mean is over as many clients as there are updates: with `Mean(over="clients")` and
    `Quorum(count=K, late="keep")` this is FedBuff.

    Raises:
        ConfigError: for another rule, or a negative power, slope or grace.

    Reference: Nguyen et al., arXiv 2106.06639, Algorithm 1 (polynomial, power 0.5); Xie et al., arXiv 1903.03934,
    section 5.2 (all three).
    Differs from the paper: none of FLSim's normalisation of the factors, which is not in it.

    >>> Staleness(by="hinge", slope=10.0, grace=4)
    Staleness(by='hinge', power=0.5, slope=10.0, grace=4)
    """

    place: ClassVar[Place] = Place.RESCALE
    by: Literal["constant", "polynomial", "hinge"] = "polynomial"
    power: float = at_least(0, 0.5)
    slope: float = at_least(0, 10.0)
    grace: int = at_least(0, 4)

    def connect(self, flow: Flow) -> Flow:
        """Shortens updates at the server, each by its own age, so that their sum will not do."""
        flow.require(self, not_rebased="that alone is shortened", fix="put Staleness before Rebase")
        if not flow.asynchronous:
            flow = flow.warn(
                "Staleness has nothing to do: late updates are not kept, so every update is of age 0. Say "
                'Quorum(late="keep"), or leave it out.'
            )
        return flow.set(self, additive=False).keep(self, "bound", "dense")

    def decode(self, update: Update, ctx: ServerContext) -> Update:
        """The update, shortened."""
        if not bool(ctx.age.any()):
            return update
        return update.scaled(self.factor(ctx.age.double()).expand_as(update.weight))

    def factor(self, age: Tensor) -> Tensor:
        """s(age), `[...]`."""
        if self.by == "polynomial":
            return (1 + age) ** -self.power
        beyond = 1 / (self.slope * (age - self.grace).clamp_min(0) + 1)
        return beyond if self.by == "hinge" else torch.ones_like(age)


@final
@stages.register
@dataclass(frozen=True)
class Rebase(Stage):
    """Counts a client's model from the server's model of now, and not from the one that the client was asked with.

    Formula: `delta <- delta + x_{t - age} - x_t`, so that `x_t + delta` is the client's own model, however old the
    model is that it began with.  With `Staleness` before it, `Mean(over="clients")`, `ServerSGD(lr=alpha)` and
    `Quorum(count=1, late="keep")` this is FedAsync,

        x_{t+1} = (1 - alpha_t) x_t + alpha_t y,    alpha_t = alpha s(age)

    y being the client's model.  With a larger count it is the mean of such steps.

    Reference: Xie et al., arXiv 1903.03934, Algorithm 1.

    >>> Rebase()
    Rebase()
    """

    place: ClassVar[Place] = Place.RESCALE

    def connect(self, flow: Flow) -> Flow:
        """Needs the update as it is, since the difference of two models is added to it."""
        if not flow.asynchronous:
            flow = flow.warn(
                "Rebase has nothing to do: late updates are not kept, so every client was asked with the model of now. "
                'Use Quorum(late="keep"), or leave it out.'
            )
        return flow.set(self, additive=False, rebased=True).keep(self, "dense")

    def decode(self, update: Update, ctx: ServerContext) -> Update:
        """The update, from the model of now."""
        if not bool(ctx.age.any()):
            return update
        return update.with_delta(update.delta + (ctx.asked_params - ctx.global_params).to(update.delta.dtype))

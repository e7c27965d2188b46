"""Stages that set how much an update counts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal, final

import torch

from headway.core.context import ClientContext
from headway.core.fields import at_least
from headway.core.flow import Flow
from headway.core.stage import Place, Stage, stages
from headway.core.update import Tensors, Update


@final
@stages.register
@dataclass(frozen=True)
class Weigh(Stage):
    """The weight of each client's update.

    Formula: `examples`: w_i = n_i; `uniform`: w_i = 1; `capped`: w_i = min(n_i, cap).
    Without this stage an update's weight is its number of examples.

    Raises:
        ConfigError: if `capped` has no cap >= 1, or another rule has one.

    Reference: McMahan et al., arXiv 1602.05629 (examples); arXiv 1710.06963, section 3 (capped).

    >>> Weigh(by="capped", cap=100)
    Weigh(by='capped', cap=100)
    """

    place: ClassVar[Place] = Place.WEIGH
    by: Literal["examples", "uniform", "capped"] = "examples"
    cap: int | None = at_least(1, None, only_with=("by", "capped"))

    def connect(self, flow: Flow) -> Flow:
        """Sets the largest weight; the vectors are left alone."""
        flow.require(self, own_weights=True)
        bound = {"examples": None, "uniform": 1.0, "capped": float(self.cap or 0)}[self.by]
        uniform = self.by == "uniform"
        flow = flow.set(self, weight_bound=bound, by_examples=not uniform, uniform=uniform)
        return flow.keep(self, "bound", "additive", "dense")

    def send(self, update: Update, memory: Tensors, ctx: ClientContext) -> tuple[Update, Tensors]:
        """The update with its weight."""
        examples = ctx.examples.to(update.weight.dtype)
        if self.by == "uniform":
            return update.with_weight(torch.ones_like(examples)), memory
        return update.with_weight(examples if self.cap is None else examples.clamp_max(self.cap)), memory

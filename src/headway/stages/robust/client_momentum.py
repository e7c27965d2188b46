"""Momentum at the client, which makes the updates of one client alike from round to round."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, final

import torch
from torch import Tensor

from headway.core.context import ClientContext
from headway.core.fields import between
from headway.core.flow import Flow
from headway.core.stage import Place, Stage, stages
from headway.core.update import Tensors, Update


@final
@stages.register
@dataclass(frozen=True)
class ClientMomentum(Stage):
    """Each client sends a running mean of its deltas.

    Formula: `m_i <- beta m_i + (1 - beta) delta_i`, from m_i = 0; the client sends m_i.  beta = 0 is FedAvg exactly.
    Shapes: delta and memory `[..., P]`.

    An attack that hides in the spread of honest updates has less room when each client's update varies less.

    Raises:
        ConfigError: unless 0 <= beta < 1.
        ChainRefused: on an engine whose clients keep nothing, or with late updates.

    Reference: Karimireddy, He, Jaggi, arXiv 2012.10333, section 4 (worker momentum).

    >>> ClientMomentum(beta=0.9)
    ClientMomentum(beta=0.9)
    """

    place: ClassVar[Place] = Place.RESCALE
    beta: float = between(0, 1, 0.9, without=1)

    def connect(self, flow: Flow) -> Flow:
        """Needs clients that keep their momentum, of rounds one after another."""
        flow.require(self, memory=True, synchronous=True, real=True)
        return flow.keep(self, "additive", "dense")

    def remember(self, w: Tensor) -> Tensors:
        """m_i = 0."""
        return {"momentum": torch.zeros_like(w)} if self.beta else {}

    def send(self, update: Update, memory: Tensors, ctx: ClientContext) -> tuple[Update, Tensors]:
        """The running mean, which is kept as well."""
        if not self.beta:
            return update, memory
        held = memory["momentum"]
        momentum = self.beta * held + (1 - self.beta) * update.delta.to(held.dtype)
        return update.with_delta(momentum), {"momentum": momentum}

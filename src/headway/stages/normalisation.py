"""Stages that put clients on one scale: by how far they could go, or by how well they are served."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, final

import torch
from torch import Tensor

from headway.core.context import ClientContext, ServerContext
from headway.core.fields import at_least
from headway.core.flow import Flow
from headway.core.stage import Place, Stage, stages
from headway.core.update import Tensors, Update

LOSS_FLOOR = 1e-10  # added to a loss that is raised to a power which may be negative


@final
@stages.register
@dataclass(frozen=True)
class FedNova(Stage):
    """Normalised averaging: clients that made more, or longer, local steps do not pull the model their way.

    Formula: `d_i = (w_t - w_K) / a_i`; `x <- x - tau_eff sum p_i d_i`; `tau_eff = sum p_i a_i`.
    a_i is how much a client's gradients count in its movement: tau for plain SGD, [tau - rho (1 - rho^tau) /
    (1 - rho)] / (1 - rho) with momentum rho, a <- a (1 - eta mu) + 1 with a proximal term; in general the
    movement of a constant gradient, over the mean learning rate.  p_i are the aggregator's weights.

    With a proximal term tau_eff takes the a_i of the same steps without it, `tau_eff = sum p_i a_i(mu = 0)`: for plain
    SGD that is `sum p_i tau_i`, as in the paper, and with momentum it is what tau_eff is at mu = 0, so that
    the method is continuous in mu.  This a_i travels as a vector `[..., 1]`.

    Clients that make equally many equal steps are averaged as by FedAvg, if nothing pulls them back.

    Reference: Wang et al., arXiv 2007.07481, equations (6) to (8) and section 4.
    Differs from the authors' code with momentum and a proximal term, a pair that is not in the paper: there tau_eff
    takes the numbers of steps as soon as mu is not 0, and the a_i with momentum if it is.  At momentum 0.9 these are up
    to 10 times the steps, so the model's moves become up to 10 times shorter between mu = 0 and any mu above it.

    >>> FedNova()
    FedNova()
    """

    place: ClassVar[Place] = Place.RESCALE
    by_columns: ClassVar[bool] = True

    def connect(self, flow: Flow) -> Flow:
        """Adds the scalar `normaliser`; needs steps that are linear in the gradients."""
        flow.require(self, linear_steps="it divides by how much each gradient counts in a client's movement")
        return flow.carry(self, "normaliser", scalar=True).keep(self, "additive", "dense")

    def send(self, update: Update, memory: Tensors, ctx: ClientContext) -> tuple[Update, Tensors]:
        """The delta per unit of gradient, and the unit."""
        delta = update.delta
        steps = ctx.steps.to(delta.dtype)
        moved = ctx.lr_sum > 0  # else the client made no step, or all of them at a learning rate of 0
        a = torch.where(moved, ctx.effective_lr * steps / ctx.lr_sum, 1.0).to(delta.dtype)
        counted = torch.where(moved, _without_pull(ctx, steps) if ctx.flow.proximal else a, 0.0)
        return update.with_vectors(delta=delta / a.unsqueeze(-1), normaliser=counted.unsqueeze(-1)), memory

    def receive(self, update: Update, state: Tensors, ctx: ServerContext) -> tuple[Update, Tensors]:
        """The mean direction, as long as the clients' mean effort."""
        return update.with_delta(update.delta * update.vectors["normaliser"].to(update.delta.dtype)), state


def _without_pull(ctx: ClientContext, steps: Tensor) -> Tensor:
    """The a_i of the same steps without a proximal term, `[...]`: as many as there are, without momentum."""
    plain = torch.isclose(ctx.free_effective_lr, ctx.lr_sum, rtol=1e-12, atol=0.0)  # the same sum in another order
    return torch.where(plain, steps, ctx.free_effective_lr * steps / ctx.lr_sum).to(steps.dtype)


@final
@stages.register
@dataclass(frozen=True)
class QFedAvg(Stage):
    """q-FedAvg: clients with a high loss count more, so that accuracy is spread more evenly.

    Formula, F_i being the client's loss at w_t and L = 1 / eta:

        D_i = F_i^q L (w_t - w_K);   h_i = q F_i^(q-1) ||L (w_t - w_K)||^2 + L F_i^q
        x <- x - sum D_i / sum h_i

    q = 0 is the plain mean over clients.  F_i is raised by 1e-10, so that a loss of zero does no harm.
    h_i travels as a vector `[..., 1]`.

    Raises:
        ConfigError: if q is negative.
        ChainRefused: if the trainer offers no initial loss, or the mean weighs clients by size.

    Reference: Li et al., arXiv 1905.10497, Algorithm 2.

    >>> QFedAvg(q=1.0)
    QFedAvg(q=1.0)
    """

    place: ClassVar[Place] = Place.RESCALE
    by_columns: ClassVar[bool] = True
    q: float = at_least(0, 1.0)

    def connect(self, flow: Flow) -> Flow:
        """Needs each client's loss at the broadcast model, and clients that count the same; adds a scalar."""
        flow = flow.measure(self, "initial_loss").set(self, equal=True)
        return flow.carry(self, "normaliser", scalar=True).keep(self, "additive", "dense")

    def send(self, update: Update, memory: Tensors, ctx: ClientContext) -> tuple[Update, Tensors]:
        """The delta scaled by the loss, and the estimate of its Lipschitz constant."""
        loss = ctx.measurements["initial_loss"].double() + LOSS_FLOOR
        inverse_lr = torch.where(ctx.lr_sum > 0, ctx.steps / ctx.lr_sum, 1.0).double()
        squared = (inverse_lr * torch.linalg.vector_norm(update.delta.double(), dim=-1)) ** 2
        h = self.q * loss ** (self.q - 1) * squared + inverse_lr * loss**self.q
        scale = (loss**self.q * inverse_lr).unsqueeze(-1).to(update.delta.dtype)
        normaliser = h.unsqueeze(-1).to(update.delta.dtype)
        return update.with_vectors(delta=update.delta * scale, normaliser=normaliser), memory

    def receive(self, update: Update, state: Tensors, ctx: ServerContext) -> tuple[Update, Tensors]:
        """Sum over sum: the means' common denominator cancels."""
        return update.with_delta(update.delta / update.vectors["normaliser"].to(update.delta.dtype)), state

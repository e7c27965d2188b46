"""Rules that change every local step."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal, final

import torch
from torch import Tensor

from headway.core.context import ClientContext, ServerContext, StepContext
from headway.core.fields import at_least, positive
from headway.core.flow import Flow
from headway.core.stage import Place, Stage, stages
from headway.core.update import Tensors, Update


@final
@stages.register
@dataclass(frozen=True)
class FedProx(Stage):
    """Pulls each local step towards the model at the start of the round.

    Formula: `g <- g + mu (w - w_t)`, the gradient of `f_i(w) + mu/2 ||w - w_t||^2`.
    Units: mu is a curvature, loss per squared parameter.  mu = 0 is FedAvg exactly.

    Raises:
        ConfigError: if mu is negative.

    Reference: Li et al., "Federated optimization in heterogeneous networks", arXiv 1812.06127, equation (2).

    >>> FedProx(mu=0.01)
    FedProx(mu=0.01)
    """

    place: ClassVar[Place] = Place.STEP
    mu: float = at_least(0, 0.01)

    def connect(self, flow: Flow) -> Flow:
        """Records how strongly steps are pulled back."""
        return flow.set(self, proximal=flow.proximal + self.mu)

    @property
    def is_proximal(self) -> bool:
        """Yes."""
        return True

    def step(self, grad: Tensor, w: Tensor, memory: Tensors, ctx: StepContext) -> Tensor:
        """The gradient with the proximal term."""
        return torch.add(grad, w - ctx.global_params, alpha=self.mu)


@final
@stages.register
@dataclass(frozen=True)
class Scaffold(Stage):
    """Corrects each local step by the difference between the server's and the client's control variate.

    Formula: `g <- g - c_i + c`; after K steps the client's variate becomes

        option I:   c_i+ = grad f_i(w_t), over all of the client's examples
        option II:  c_i+ = c_i - c + (w_t - w_K) / sum(eta)

    and the server adds `(1/N) sum_S (c_i+ - c_i)` to c, N being the whole population.  Shapes: `[..., P]`.
    All variates start at zero.  With momentum or a schedule, `sum(eta)` is the learning rate that the
    gradients finally received (K * eta for plain SGD), so that c_i+ stays an average gradient.

    correct: what `c - c_i` is added to: the "gradient", or with "step" the direction of the step, after clipping,
        weight decay and momentum; `sum(eta)` is then the sum of the learning rates, so that c_i+ is an average
        direction.  Without momentum the two are the same.

    Raises:
        ChainRefused: on an engine without client memory, and with buffered asynchrony (a stale variate
            breaks the correction).

    Reference: Karimireddy et al., arXiv 1910.06378, Algorithm 1, equations (3) to (5).
    Differs from the paper: momentum and schedules are not in the paper; see above.  correct="step" is what the
    code of NIID-Bench (arXiv 2102.02079) does.  The server's mean of the models is the aggregator's:
    `Mean(over="clients")` is the paper's, and the same weights then apply to both vectors.

    >>> Scaffold()
    Scaffold(option='II', correct='gradient')
    """

    place: ClassVar[Place] = Place.STEP
    by_columns: ClassVar[bool] = True
    option: Literal["I", "II"] = "II"
    correct: Literal["gradient", "step"] = "gradient"

    @property
    def after_momentum(self) -> bool:
        """Whether the rule is for the direction of the step, and not for the gradient."""
        return self.correct == "step"

    def connect(self, flow: Flow) -> Flow:
        """Needs client memory and rounds in step; adds the vector `control`."""
        flow.require(self, memory=True, synchronous="a stale variate breaks the correction", fix="use FedProx")
        if self.option == "I":
            flow = flow.measure(self, "initial_gradient")
        elif not self.after_momentum:
            reason = "its variates are average gradients, by the learning rate that these received"
            flow.require(self, linear_steps=reason, fix='use Scaffold(correct="step")')
        return flow.carry(self, "control").keep(self, "additive", "dense")

    def init(self, w: Tensor) -> Tensors:
        """The server's variate c, zero."""
        return {"control": torch.zeros_like(w)}

    def remember(self, w: Tensor) -> Tensors:
        """The client's variate c_i, zero."""
        return {"control": torch.zeros_like(w)}

    def broadcast(self, state: Tensors) -> Tensors:
        """Clients receive c."""
        return {"control": state["control"]}

    def step(self, grad: Tensor, w: Tensor, memory: Tensors, ctx: StepContext) -> Tensor:
        """The corrected gradient, or direction."""
        return grad + (ctx.received["control"] - memory["control"])

    def send(self, update: Update, memory: Tensors, ctx: ClientContext) -> tuple[Update, Tensors]:
        """Adds the change of the client's variate, and remembers the new one."""
        old = memory["control"]
        if self.option == "I":
            new = ctx.measurements["initial_gradient"]
        else:
            received = ctx.lr_sum if self.after_momentum else ctx.effective_lr
            effective_lr = received.unsqueeze(-1).to(old.dtype)
            moved = old - ctx.received["control"] - ctx.movement / effective_lr
            new = torch.where(effective_lr > 0, moved, old)  # a client that made no step learned nothing
        return update.with_vectors(control=new - old), {"control": new}

    def receive(self, update: Update, state: Tensors, ctx: ServerContext) -> tuple[Update, Tensors]:
        """Moves c by the population's mean change: clients that were not asked did not change theirs."""
        share = update.sums["clients"] / ctx.population
        change = update.vectors["control"] * share.to(state["control"].dtype)
        return update, {"control": state["control"] + change.to(state["control"].dtype)}


@final
@stages.register
@dataclass(frozen=True)
class FedDyn(Stage):
    """Dynamic regularisation: each client's objective is bent so that its minimum agrees with the global one.

    Formula, x being the model at the start of the round and y_i the client's at its end:

        g <- g - l_i + alpha (w - x);   l_i <- l_i - alpha (y_i - x)            at the client
        h <- h - (alpha / N) sum_S (y_i - x);   x <- mean_S y_i - h / alpha     at the server

    N is the whole population.  l_i and h start at zero; h is the mean of all l_i.  Shapes: `[..., P]`.
    Where a stage combines the steps (ECGR), what it makes of them stands for y_i - x in both.

    Raises:
        ConfigError: unless alpha > 0.
        ChainRefused: on an engine without client memory, with buffered asynchrony, or under a mean that weighs
            clients by size.

    Reference: Acar et al., arXiv 2111.04263, Algorithm 1.

    >>> FedDyn(alpha=0.1)
    FedDyn(alpha=0.1)
    """

    place: ClassVar[Place] = Place.STEP
    by_columns: ClassVar[bool] = True
    alpha: float = positive(0.1)

    def connect(self, flow: Flow) -> Flow:
        """Needs client memory, rounds in step, and clients that count the same."""
        flow.require(self, memory=True, synchronous="a stale l_i bends the wrong objective", fix="use FedProx")
        return flow.set(self, equal=True, proximal=flow.proximal + self.alpha).keep(self, "additive", "dense")

    def init(self, w: Tensor) -> Tensors:
        """h = 0."""
        return {"h": torch.zeros_like(w)}

    def remember(self, w: Tensor) -> Tensors:
        """l_i = 0."""
        return {"l": torch.zeros_like(w)}

    def step(self, grad: Tensor, w: Tensor, memory: Tensors, ctx: StepContext) -> Tensor:
        """The gradient of the bent objective."""
        return grad - memory["l"] + self.alpha * (w - ctx.global_params)

    def send(self, update: Update, memory: Tensors, ctx: ClientContext) -> tuple[Update, Tensors]:
        """Remembers l_i; the update is left alone."""
        return update, {"l": memory["l"] - self.alpha * update.delta.to(memory["l"].dtype)}

    def receive(self, update: Update, state: Tensors, ctx: ServerContext) -> tuple[Update, Tensors]:
        """Moves h, and the model by the mean and by h."""
        share = (update.sums["clients"] / ctx.population).to(state["h"].dtype)
        delta = update.delta.to(state["h"].dtype)
        h = state["h"] - self.alpha * share * delta
        return update.with_delta(delta - h / self.alpha), {"h": h}

"""Server optimizers: what the server makes of the aggregate, seen as a pseudo-gradient."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, Literal, TypeGuard, final

import torch
from torch import Tensor

from headway.core.context import ServerContext
from headway.core.fields import at_least, between, positive
from headway.core.flow import Flow
from headway.core.stage import Place, Stage, stages
from headway.core.update import Tensors, Update

LEAST_TAU = 1e-3  # behind a robust rule: a step divided by less makes much of the bias that attackers leave


@final
@stages.register
@dataclass(frozen=True)
class ServerSGD(Stage):
    """The server moves along the aggregate, with momentum where wanted.

    Formula: `v <- momentum v + Delta`; `x <- x + lr v`.  lr = 1 without momentum is FedAvg exactly.
    After Rebase lr is the rate at which models are mixed, and averaged statistics are mixed by it too (by at most 1);
    else no server optimizer touches them.

    Raises:
        ConfigError: unless lr > 0 and 0 <= momentum < 1.

    Reference: Hsu et al., arXiv 1909.06335, section 4.3 (FedAvgM).

    >>> ServerSGD()
    ServerSGD(lr=1.0, momentum=0.0)
    """

    place: ClassVar[Place] = Place.SERVER
    by_columns: ClassVar[bool] = True
    lr: float = positive(1.0)
    momentum: float = between(0, 1, 0.0, without=1)

    def connect(self, flow: Flow) -> Flow:
        """Records at which rate models are mixed, if they are."""
        return flow.set(self, mixing=min(self.lr, 1.0)) if flow.rebased else flow

    def init(self, w: Tensor) -> Tensors:
        """v = 0, where there is momentum."""
        return {"momentum": torch.zeros_like(w)} if self.momentum else {}

    def receive(self, update: Update, state: Tensors, ctx: ServerContext) -> tuple[Update, Tensors]:
        """The server's step."""
        if not self.momentum:
            return update if self.lr == 1 else update.with_delta(update.delta * self.lr), state
        v = state["momentum"] * self.momentum + update.delta.to(state["momentum"].dtype)
        return update.with_delta(v * self.lr), {"momentum": v}


@final
@stages.register
@dataclass(frozen=True)
class ServerAdam(Stage):
    """Adam at the server (FedAdam).

    Formula: `m <- beta1 m + (1 - beta1) Delta`; `v <- beta2 v + (1 - beta2) Delta^2`;
    `x <- x + lr m / (sqrt(v) + tau)`, from m = 0 and v = tau^2.  Units: tau is that of Delta.

    bias_correction: divides m by 1 - beta1^t and v by 1 - beta2^t, and starts at v = 0, since what is corrected is
        that v starts there: then this is torch.optim.Adam (eps = tau, on -Delta) to rounding.  The paper's algorithm
        corrects nothing.
    start: v before the first round, where it is neither: 0 for none without correction.
    epsilon: where tau stands, t being the number of rounds,

            outside:  lr m^ / (sqrt(v^) + tau)                                             the paper, torch
            keras:    lr m sqrt(1 - beta2^t) / (1 - beta1^t) / (sqrt(v) + tau)             Keras
            inside:   lr m^ / sqrt(v^ + tau)

        m^ and v^ being the corrected moments.  Without correction "keras" is "outside".

    Raises:
        ConfigError: unless lr > 0, tau > 0, start >= 0 and both betas are in [0, 1).

    Reference: Reddi et al., arXiv 2003.00295, Algorithm 2; Kingma and Ba, arXiv 1412.6980, for the correction.
    Differs from Keras and TensorFlow Federated, which are `bias_correction=True, epsilon="keras"` here, and from
    Flower, which counts t one too high and else does as Keras.

    >>> ServerAdam(lr=0.01)
    ServerAdam(lr=0.01, beta1=0.9, beta2=0.99, tau=0.001, bias_correction=False, start=None, epsilon='outside')
    """

    place: ClassVar[Place] = Place.SERVER
    by_columns: ClassVar[bool] = True
    lr: float = positive(0.01)
    beta1: float = between(0, 1, 0.9, without=1)
    beta2: float = between(0, 1, 0.99, without=1)
    tau: float = positive(1e-3)
    bias_correction: bool = False
    start: float | None = at_least(0, None)
    epsilon: Literal["outside", "keras", "inside"] = "outside"

    def connect(self, flow: Flow) -> Flow:
        """Warns of control variates, for which there is no theory, and of late updates."""
        return _warn_of_pairs(self, flow)

    def init(self, w: Tensor) -> Tensors:
        """m = 0, t = 0, and v at its start."""
        return _moments(self, w)

    def receive(self, update: Update, state: Tensors, ctx: ServerContext) -> tuple[Update, Tensors]:
        """The server's step."""
        delta = update.delta.to(state["m"].dtype)
        v = self.beta2 * state["v"] + (1 - self.beta2) * delta**2
        return _adaptive(self, update, state, delta, v)


@final
@stages.register
@dataclass(frozen=True)
class ServerYogi(Stage):
    """Yogi at the server (FedYogi): the second moment moves by at most (1 - beta2) Delta^2 a round.

    Formula: as ServerAdam, with `v <- v - (1 - beta2) Delta^2 sign(v - Delta^2)`.

    bias_correction, start, epsilon: as for ServerAdam; the corrected v starts at 0.

    Raises:
        ConfigError: unless lr > 0, tau > 0, start >= 0 and both betas are in [0, 1).

    Reference: Reddi et al., arXiv 2003.00295, Algorithm 2.
    Differs from Keras, which is `bias_correction=True, epsilon="keras"`, and TensorFlow Federated, which is that with
    `start=1e-6`.

    >>> ServerYogi(lr=0.01)
    ServerYogi(lr=0.01, beta1=0.9, beta2=0.99, tau=0.001, bias_correction=False, start=None, epsilon='outside')
    """

    place: ClassVar[Place] = Place.SERVER
    by_columns: ClassVar[bool] = True
    lr: float = positive(0.01)
    beta1: float = between(0, 1, 0.9, without=1)
    beta2: float = between(0, 1, 0.99, without=1)
    tau: float = positive(1e-3)
    bias_correction: bool = False
    start: float | None = at_least(0, None)
    epsilon: Literal["outside", "keras", "inside"] = "outside"

    def connect(self, flow: Flow) -> Flow:
        """Warns of control variates and of late updates."""
        return _warn_of_pairs(self, flow)

    def init(self, w: Tensor) -> Tensors:
        """m = 0, t = 0, and v at its start."""
        return _moments(self, w)

    def receive(self, update: Update, state: Tensors, ctx: ServerContext) -> tuple[Update, Tensors]:
        """The server's step."""
        delta = update.delta.to(state["m"].dtype)
        v = state["v"] - (1 - self.beta2) * delta**2 * torch.sign(state["v"] - delta**2)
        return _adaptive(self, update, state, delta, v)


@final
@stages.register
@dataclass(frozen=True)
class ServerAdagrad(Stage):
    """Adagrad at the server (FedAdagrad).

    Formula: `v <- v + Delta^2`; `x <- x + lr m / (sqrt(v) + tau)`, with `m <- beta1 m + (1 - beta1) Delta`
    (beta1 = 0 by default, as published) from v = tau^2.  Units: tau is that of Delta.

    start: v before the first round, tau^2 by default.  epsilon: "outside" the root as above, or "inside",
        `lr m / sqrt(v + tau)`.

    Raises:
        ConfigError: unless lr > 0, tau > 0, start >= 0 and beta1 is in [0, 1).

    Reference: Reddi et al., arXiv 2003.00295, Algorithm 2.
    Differs from TensorFlow Federated, which is `start=0.1, epsilon="inside"` here, and from torch.optim.Adagrad and
    Flower, which are `start=0.0`.

    >>> ServerAdagrad(lr=0.01)
    ServerAdagrad(lr=0.01, beta1=0.0, tau=0.001, start=None, epsilon='outside')
    """

    place: ClassVar[Place] = Place.SERVER
    by_columns: ClassVar[bool] = True
    lr: float = positive(0.01)
    beta1: float = between(0, 1, 0.0, without=1)
    tau: float = positive(1e-3)
    start: float | None = at_least(0, None)
    epsilon: Literal["outside", "inside"] = "outside"

    def connect(self, flow: Flow) -> Flow:
        """Warns of control variates and of late updates."""
        return _warn_of_pairs(self, flow)

    def init(self, w: Tensor) -> Tensors:
        """m = 0, t = 0, and v at its start."""
        return _moments(self, w)

    def receive(self, update: Update, state: Tensors, ctx: ServerContext) -> tuple[Update, Tensors]:
        """The server's step."""
        delta = update.delta.to(state["m"].dtype)
        return _adaptive(self, update, state, delta, state["v"] + delta**2)


@final
@stages.register
@dataclass(frozen=True)
class AverageModel(Stage):
    """Evaluates and keeps the average of the models of all rounds; training goes on from the last one.

    Formula: `m <- m + (x_t - m) / t`, so that m = (x_1 + ... + x_t) / t.  What clients are sent is x_t.
    The statistics of a model that has some are of the last round.

    Reference: Polyak and Juditsky, SIAM J. Control Optim. 30 (1992); it is what AFL returns.

    >>> AverageModel()
    AverageModel()
    """

    place: ClassVar[Place] = Place.AVERAGE
    by_columns: ClassVar[bool] = True

    def init(self, w: Tensor) -> Tensors:
        """m = the initial model, of no round."""
        return {"model": w.clone(), "rounds": torch.zeros(1, dtype=torch.float64)}

    def receive(self, update: Update, state: Tensors, ctx: ServerContext) -> tuple[Update, Tensors]:
        """Adds the new model to the average; the update is left alone."""
        new = ctx.global_params + update.delta.to(ctx.global_params.dtype)
        rounds = state["rounds"] + 1
        return update, {"model": state["model"] + (new - state["model"]) / float(rounds), "rounds": rounds}


_Adaptive = ServerAdam | ServerYogi | ServerAdagrad


def _adaptive(
    stage: _Adaptive, update: Update, state: Tensors, delta: Tensor, v: Tensor
) -> tuple[Update, dict[str, Tensor]]:
    """The step that the three share, given their second moment: `lr m / (sqrt(v) + tau)`."""
    m = stage.beta1 * state["m"] + (1 - stage.beta1) * delta
    t = state["t"] + 1
    lr, m_hat, v_hat = stage.lr, m, v
    if _corrects(stage):
        first, second = 1 - stage.beta1 ** float(t), 1 - stage.beta2 ** float(t)
        if stage.epsilon == "keras":
            lr *= math.sqrt(second) / first
        else:
            m_hat, v_hat = m / first, v / second
    root = (v_hat + stage.tau).sqrt() if stage.epsilon == "inside" else v_hat.sqrt() + stage.tau
    return update.with_delta(lr * m_hat / root), {"m": m, "v": v, "t": t}


def _corrects(stage: _Adaptive) -> TypeGuard[ServerAdam | ServerYogi]:
    """Whether the moments are divided by what is missing of them in the first rounds."""
    return not isinstance(stage, ServerAdagrad) and stage.bias_correction


def _moments(stage: _Adaptive, w: Tensor) -> dict[str, Tensor]:
    """m = 0, t = 0, and v at `start`, by default at 0 where it is corrected, else at tau^2."""
    start = (0.0 if _corrects(stage) else stage.tau**2) if stage.start is None else stage.start
    return {
        "m": torch.zeros_like(w),
        "v": torch.full_like(w, start),
        "t": torch.zeros(1, dtype=torch.float64),
    }


def _warn_of_pairs(stage: Stage, flow: Flow) -> Flow:
    """For control variates under an adaptive server there is no theory; late updates make its steps too long; behind a
    robust rule a small tau would magnify the bias that attackers leave."""
    name = type(stage).__name__
    if flow.attackers and getattr(stage, "tau", 1.0) < LEAST_TAU:
        flow.refuse(
            stage,
            "attackers",
            needed=f"tau of at least {LEAST_TAU:g} behind a robust rule",
            found="a smaller one",
            do_this=f"set tau = {LEAST_TAU:g}",
        )
    if flow.asynchronous:
        flow = flow.warn(
            f"{name} takes late updates for fresh ones, and its steps do not shorten as they do: choose its lr with "
            "the delays that there are, or use ServerSGD."
        )
    if "control" not in flow.vectors:
        return flow
    return flow.warn(f"Scaffold with {name} runs, but no theory covers the pair: compare it with ServerSGD.")

"""Agnostic federated learning: the worst mixture of the clients is made better."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, final

import torch
from torch import Tensor

from headway.core.context import ClientContext, ServerContext
from headway.core.fields import at_least
from headway.core.flow import Flow
from headway.core.stage import Aggregator, Place, stages
from headway.core.update import Rows, Tensors, Update


@final
@stages.register
@dataclass(frozen=True)
class AFL(Aggregator):
    """Agnostic federated learning: `min_w max_lambda sum_k lambda_k F_k(w)` over all mixtures lambda of clients.

    Formula, per round, F_k being the client's mean loss at w_t:

        x <- x + sum lambda_k delta_k;    lambda <- Proj_simplex(lambda + lr F)

    With one full-batch step, delta_k = -eta grad F_k and this is the paper's algorithm; more local steps are
    ours.  lambda starts at 1 / N.  The projection onto {lambda >= 0, sum lambda = 1} is the exact one by
    sorting: lambda_k = max(v_k - theta, 0) for one threshold theta that all clients share.

    So each client keeps its own v_k, and the server keeps theta and broadcasts it: a client sends lambda_k as its
    weight and v_k = lambda_k + lr F_k as an additive number, and the next theta needs every v_k at once.  A
    projection does not see what all coordinates have in common, so v_k = 1 stands for 1 / N at the start.
    The sum of the deltas is divided by the sum of the lambda_k that answered, which is 1 if all did.  Where a
    client is lost in a round (a straggler, a rejected update), its v_k stays, and the next projection of all
    puts lambda back on the simplex.

    lr: step size of lambda, per unit of loss.  lr = 0 is the plain mean over clients.
    Shapes: rows `[C, P]`, weights `[C]`; v_k and theta `[1]`.

    Raises:
        ConfigError: if lr is negative.
        ChainRefused: unless every client takes part in every round and is seen by itself: with a sampler of
            some, a secure sum, buffered asynchrony, an engine without client memory; with another stage that
            sets weights or needs clients to count the same; if the trainer offers no initial loss.

    Reference: Mohri, Sivek, Suresh, arXiv 1902.00146, Algorithm 1 (Stochastic-AFL); the projection: Duchi et al.,
    "Efficient projections onto the l1-ball", ICML 2008, figure 1.
    The paper returns the average of the models of all rounds: that is AverageModel(), which the recipe adds.
    Differs from the paper: its losses are of one batch; here they are of all of a client's training examples.

    >>> AFL(lr=0.1)
    AFL(lr=0.1)
    """

    place: ClassVar[Place] = Place.AGGREGATE
    whole_cohort: ClassVar[bool] = True
    lr: float = at_least(0, 0.1)

    def connect(self, flow: Flow) -> Flow:
        """Needs every client in every round, seen by itself, with its memory and its loss."""
        flow.require(self, whole_population="the mixture is one of all clients", never_excluded=True, fix="use QFedAvg")
        flow.require(self, synchronous="the losses that are compared must be of one model", memory=True)
        flow.require(self, single_updates="each has its own share of the mixture", fix="use QFedAvg")
        flow = super().connect(flow).require(self, own_weights=True, any_weights="the mixture lambda")
        flow = flow.measure(self, "initial_loss")
        revealed = "loss of the global model"
        return flow.set(self, weight_bound=1.0, weight_leaks=revealed, exposed=(*flow.exposed, revealed))

    def init(self, w: Tensor) -> Tensors:
        """theta = 0."""
        return {"threshold": torch.zeros(1, dtype=torch.float64)}

    def remember(self, w: Tensor) -> Tensors:
        """v_k = 1 for all, which stands for lambda_k = 1 / N."""
        return {"ascended": torch.ones_like(w[..., :1], dtype=torch.float64)}

    def broadcast(self, state: Tensors) -> Tensors:
        """Clients receive theta."""
        return state

    def send(self, update: Update, memory: Tensors, ctx: ClientContext) -> tuple[Update, Tensors]:
        """The update weighed by lambda_k, and lambda_k one step up the client's loss."""
        share = (memory["ascended"] - ctx.received["threshold"]).clamp(0.0, 1.0).squeeze(-1)
        ascended = share + self.lr * ctx.measurements["initial_loss"].double()
        return update.with_weight(share).with_sums(ascended=ascended), {"ascended": ascended.unsqueeze(-1)}

    def reduce(self, rows: Rows, state: Tensors, ctx: ServerContext) -> tuple[Update, Tensors]:
        """`sum lambda_k delta_k / sum lambda_k`, the plain mean if all that answered have lambda_k = 0; and the
        threshold of the next mixture."""
        shares = rows.weights.double() if float(rows.weights.sum()) > 0 else torch.ones_like(rows.weights).double()
        mixture = (rows.joined().double() * (shares / shares.sum()).unsqueeze(-1)).sum(0)
        return rows.update(mixture), {"threshold": simplex_threshold(rows.sums["ascended"]).reshape(1)}


def simplex_threshold(v: Tensor) -> Tensor:
    """theta such that `max(v - theta, 0)` is the point of the simplex nearest to v `[C]`.

    Formula, u being v in falling order: theta = (u_1 + ... + u_r - 1) / r, r the largest j with
    `u_j > (u_1 + ... + u_j - 1) / j`.

    >>> simplex_threshold(torch.tensor([0.9, 0.5, -1.0]))
    tensor(0.2000)
    """
    falling = v.sort(descending=True).values
    thresholds = (falling.cumsum(0) - 1) / torch.arange(1, len(v) + 1, dtype=v.dtype)
    return thresholds[(falling > thresholds).sum() - 1]

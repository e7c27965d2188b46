"""Aggregators that are sums."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal, final

import torch

from headway.core.context import Context, ServerContext
from headway.core.flow import Flow
from headway.core.stage import Aggregator, Place, stages
from headway.core.update import Update
from headway.protocol.sums import ExactTotal

BY_SIZE = ("by size", "power of choice")  # the kinds of samplers that prefer large clients


@final
@stages.register
@dataclass(frozen=True)
class Mean(Aggregator):
    """The mean of the updates, over a choice of denominators.

        examples:  sum w_i delta_i / sum w_i            w_i = n_i, or the weight of Weigh
        clients:   sum delta_i / |S|                    S: the clients that answered
        expected:  sum w_i delta_i / (E|S| w_max)       w_i = 1 and w_max = 1, or the limits of Weigh

    `expected` divides by the cohort that the sampler announces, however many answer: one client's effect is
    then at most its bound over E|S|, which privacy accounting needs.  The same mean is taken of every
    vector that travels; only averaged statistics are divided by no less than the weights that arrived, so that no
    variance becomes negative where more clients answer than were expected; not so behind a clip, whose bound would not
    hold for such a quotient.

    Raises:
        ConfigError: for another denominator.
        ChainRefused: `clients` after Weigh, `expected` with weights that have no upper limit, or weights where a
            stage needs clients to count the same.

    Reference: McMahan et al., arXiv 1602.05629, Algorithm 1; arXiv 1710.06963, section 3, for `expected`.

    >>> Mean(over="clients")
    Mean(over='clients')
    """

    place: ClassVar[Place] = Place.AGGREGATE
    by_columns: ClassVar[bool] = True
    over: Literal["examples", "clients", "expected"] = "examples"

    def connect(self, flow: Flow) -> Flow:
        """Checks the weights, and turns the bound of one client into that of its effect."""
        flow = super().connect(flow)
        if self.over == "clients":
            flow.require(self, equal_weights=True, fix='use Mean(over="examples")')
        elif self.over == "examples" or flow.weighed_by:
            flow.require(self, any_weights=True, fix="leave that stage out")
        if self.over == "expected":
            flow.require(self, limited_weights=True, cohort_size=True, fix='use Mean(over="clients")')
        if (
            self.over == "examples"
            and not flow.weighed_by
            and flow.sampler is not None
            and flow.sampler.kind in BY_SIZE
        ):
            flow = flow.warn(
                "clients are drawn by size and count by size in the mean, so large ones count twice: "
                f'use Mean(over="clients") with {flow.set_by.get("sampler", "this sampler")}, or draw with Uniform.'
            )
        bounds = {"bound": flow.bound, "sensitivity": flow.sensitivity}
        known = {name: bound for name, bound in bounds.items() if bound is not None}
        if self.over != "expected":
            return flow.set(self, **dict.fromkeys(known))
        # a cohort that is not known yet has at least one client; the run's flows know it
        return flow.set(self, **{name: bound / (flow.cohort or 1.0) for name, bound in known.items()})

    def largest_weight(self, flow: Flow) -> float | None:
        """The limit of the weights, or 1 where all clients count the same."""
        return flow.weight_bound if self._weighs(flow) else 1.0

    def lift(self, update: Update, ctx: Context) -> Update:
        """`w_i delta_i` and w_i."""
        if self._weighs(ctx.flow):
            return update.scaled_exactly(update.weight)
        return update.with_weight(torch.ones_like(update.weight)).scaled_exactly(torch.ones_like(update.weight))

    def _weighs(self, flow: Flow) -> bool:
        """Whether each update is multiplied by its weight."""
        return self.over == "examples" or (self.over == "expected" and bool(flow.weighed_by))

    def finish(self, total: ExactTotal, ctx: ServerContext) -> Update:
        """The sums over the denominator; the sum `clients` is the number of clients that the mean is over."""
        summed = total.value()
        clients = torch.tensor(float(total.count), dtype=torch.float64)
        if self.over == "expected":
            clients = torch.tensor(ctx.flow.cohort, dtype=torch.float64)
            denominator = clients * (ctx.flow.weight_bound or 1.0)
        else:
            denominator = summed.weight if float(summed.weight) > 0 else torch.ones_like(summed.weight)
        vectors = {name: vector / denominator for name, vector in summed.vectors.items()}
        if "buffers" in vectors and ctx.flow.bound is None:  # goes no further than to the clients' own statistics
            vectors["buffers"] = summed.vectors["buffers"] / torch.maximum(denominator, summed.weight)
        mean = Update(vectors, summed.weight, summed.sums)
        return mean.with_sums(clients=clients)

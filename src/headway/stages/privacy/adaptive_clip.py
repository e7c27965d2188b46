"""A clip whose norm follows a quantile of the clients' norms, found out privately."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, final

import torch
from torch import Tensor

from headway.core.context import ClientContext, ServerContext
from headway.core.fields import at_least, between, positive
from headway.core.flow import Flow
from headway.core.stage import Place, Stage, stages
from headway.core.update import Tensors, Update
from headway.stages.clipping import joint_norm

BIT = "clip_bit"  # the vector of one number that travels with the others


@final
@stages.register
@dataclass(frozen=True)
class AdaptiveClip(Stage):
    """Shortens updates to a norm C that moves to the target quantile of their norms, by one noisy bit of each client.

    Formula, b_i = 1 if `||v_i|| <= C` and 0 otherwise:

        client:  u_i = (sqrt(1 - s^2) v_i min(1, C / ||v_i||) / C,  s (2 b_i - 1)),   so that ||u_i|| <= 1
        server:  u = the aggregate of all u_i, with its noise;
                 delta = C u_delta / sqrt(1 - s^2);    C <- C exp(-lr (u_bit / (2 s) + 1 / 2 - target))

    So C grows where most updates are clipped.  Lengths are in units of C on the way: the bound is 1 in every round,
    which a quantiser's scale and a noise multiplier can rely on, and the noise is of the same C that has clipped.  The
    bit travels as one coordinate more, under the same noise, mask and bound.

    bit_share: s, the share of the bound that is the bit's.  With GaussianNoise(z) the noise on the sum of the deltas is
    `z C / sqrt(1 - s^2)`, and on the sum of the bits `sigma_b = z / (2 s)`: the paper's split
    `z_delta = (z^-2 - (2 sigma_b)^-2)^(-1/2)`.  Both are one release of multiplier z.  With z = 1 and 100 clients, 0.1
    is the paper's sigma_b, a 20th of the cohort.
    initial: C of the first round, in the units of the parameters.  target: the share of the clients that are not
    clipped in the end.  lr: the step of log C.

    An update that is not finite becomes zero with its bit, and moves nothing.  Where fewer clients answer than a mean
    over the expected cohort divides by, the estimated share lies nearer to 1/2.

    Raises:
        ConfigError: for a number out of its range.
        ChainRefused: where late updates are kept, which were clipped by an older C.

    Reference: Andrew, Thakkar, McMahan, Ramaswamy, arXiv 1905.03871, Algorithm 1 and section 2.2 (the split).
    Differs from the paper: updates travel in units of C, which changes nothing but rounding.

    >>> AdaptiveClip(initial=0.1)
    AdaptiveClip(initial=0.1, target=0.5, lr=0.2, bit_share=0.1)
    """

    place: ClassVar[Place] = Place.CLIP
    initial: float = positive(0.1)
    target: float = between(0, 1, 0.5)
    lr: float = at_least(0, 0.2)
    bit_share: float = between(0, 0.9, 0.1, without=0)

    def connect(self, flow: Flow) -> Flow:
        """Sets a bound of 1, in units of C, for all vectors together with the bit."""
        flow.require(self, real=True, synchronous="late updates were clipped by an older norm")
        return flow.carry(self, BIT, scalar=True).set(self, bound=1.0, rescaled=True).keep(self, "additive", "dense")

    def init(self, w: Tensor) -> Tensors:
        """C of the first round."""
        return {"norm": torch.full((1,), self.initial, dtype=torch.float64)}

    def broadcast(self, state: Tensors) -> Tensors:
        """C."""
        return state

    def send(self, update: Update, memory: Tensors, ctx: ClientContext) -> tuple[Update, Tensors]:
        """The update in units of C, shortened where it is too long, with its bit."""
        limit = ctx.received["norm"].double()[..., 0]
        norm = joint_norm(update.vectors)
        finite = torch.isfinite(norm).unsqueeze(-1)
        factor = self._scale / torch.maximum(norm, limit).unsqueeze(-1)
        vectors = {
            name: torch.where(finite, (vector.double() * factor).to(vector.dtype), 0.0)
            for name, vector in update.vectors.items()
        }
        bit = (2.0 * (norm <= limit).to(update.delta.dtype) - 1.0).unsqueeze(-1)
        vectors[BIT] = torch.where(finite, self.bit_share * bit, 0.0)
        return update.with_vectors(**vectors), memory

    def receive(self, update: Update, state: Tensors, ctx: ServerContext) -> tuple[Update, Tensors]:
        """The aggregate in the units of the parameters, and the next C."""
        norm, vectors = state["norm"], dict(update.vectors)
        below = vectors.pop(BIT).double() / (2 * self.bit_share) + 0.5
        units = norm / self._scale
        vectors = {name: (vector.double() * units).to(vector.dtype) for name, vector in vectors.items()}
        moved = norm * torch.exp(-self.lr * (below - self.target))
        return Update(vectors, update.weight, update.sums), {"norm": moved}

    @property
    def _scale(self) -> float:
        """The share of the bound that is the update's."""
        return math.sqrt(1 - self.bit_share**2)

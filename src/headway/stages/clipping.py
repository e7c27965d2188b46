"""Stages that bound the length of an update."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, final

import torch
from torch import Tensor

from headway.core.context import ClientContext
from headway.core.fields import positive
from headway.core.flow import Flow
from headway.core.stage import Place, Stage, stages
from headway.core.update import Tensors, Update


@final
@stages.register
@dataclass(frozen=True)
class Clip(Stage):
    """Shortens an update that is longer than a norm: all vectors that travel are taken as one.

    Formula: `v <- v * min(1, norm / ||v||_2)`, v being the delta with every travelling vector.  others: the delta alone
    is clipped to `norm`, and every other vector alone to `others`, so that a control change, say, has a scale of its
    own; the bound of all together is then `sqrt(norm^2 + n others^2)`, n being how many others there are.
    Units: norm is that of the parameters.  An update that is not finite becomes zero, so the bound
    holds for every input.  A huge norm is FedAvg exactly.  A model's averaged statistics (BatchNorm) are among the
    vectors, since they leave the client too and a bound must hold for all that does.

    Raises:
        ConfigError: unless norm > 0, and others > 0 where it is given.

    Reference: Abadi et al., arXiv 1607.00133, Algorithm 1; McMahan et al., arXiv 1710.06963, for clients.

    >>> Clip(norm=1.0)
    Clip(norm=1.0, others=None)
    """

    place: ClassVar[Place] = Place.CLIP
    norm: float = positive(1.0, infinite=True)
    others: float | None = positive(None, infinite=True)

    def connect(self, flow: Flow) -> Flow:
        """Sets the bound; needs plain numbers, since scaling encoded ones has no meaning."""
        flow.require(self, real=True, fix="put Clip before the quantiser")
        bounds = {} if self.others is None else {name: self._limit(name) for name in (*flow.vectors, "buffers")}
        own = [limit for name, limit in bounds.items() if name != "buffers" or flow.statistics]
        flow = flow.set(self, bound=math.hypot(*own) if own else self.norm, bounds=bounds)
        return flow.keep(self, "additive", "dense")

    def send(self, update: Update, memory: Tensors, ctx: ClientContext) -> tuple[Update, Tensors]:
        """The update, shortened where it is too long."""
        if self.others is None:
            return update.with_vectors(**_shortened(update.vectors, self.norm)), memory
        apart = [_shortened({name: vector}, self._limit(name)) for name, vector in update.vectors.items()]
        return update.with_vectors(**{name: vector for one in apart for name, vector in one.items()}), memory

    def _limit(self, name: str) -> float:
        """The norm of one vector that is clipped on its own."""
        return self.norm if name == "delta" or self.others is None else self.others


def _shortened(vectors: Tensors, limit: float) -> dict[str, Tensor]:
    """The vectors, as one of at most this norm."""
    norm = joint_norm(vectors)
    finite = torch.isfinite(norm)
    factor = shortening(norm, limit)
    return {
        name: torch.where(finite.unsqueeze(-1), (vector.double() * factor.unsqueeze(-1)).to(vector.dtype), 0.0)
        for name, vector in vectors.items()
    }


def shortening(norms: Tensor, limit: float | Tensor) -> Tensor:
    """`min(1, limit / ||v||)`, the factors that leave no vector longer than the limit, from the norms `[...]`.

    >>> shortening(torch.tensor([0.0, 1.0, 4.0]), 2.0)
    tensor([1.0000, 1.0000, 0.5000])
    """
    return torch.where(norms > limit, limit / norms, torch.ones_like(norms))


def joint_norm(vectors: Tensors) -> Tensor:
    """The L2 norm of all vectors as one, float64 `[...]`: scaled, so that it cannot overflow."""
    largest = torch.stack([v.double().abs().amax(-1) for v in vectors.values()]).amax(0)
    unit = torch.where(largest > 0, largest, torch.ones_like(largest)).unsqueeze(-1)
    parts = [torch.linalg.vector_norm(v.double() / unit, dim=-1) for v in vectors.values()]
    norm: Tensor = torch.linalg.vector_norm(torch.stack(parts), dim=0)
    return norm * unit.squeeze(-1)

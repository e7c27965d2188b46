"""Stages that bound the length of an update."""

from __future__ import annotations

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

    Formula: `v <- v * min(1, norm / ||v||_2)`, v being the delta with every travelling vector.
    Units: norm is that of the parameters.  An update that is not finite becomes zero, so the bound
    holds for every input.  A huge norm is FedAvg exactly.  A model's averaged statistics (BatchNorm) are among the
    vectors, since they leave the client too and a bound must hold for all that does.

    Raises:
        ConfigError: unless norm > 0.

    Reference: Abadi et al., arXiv 1607.00133, Algorithm 1; McMahan et al., arXiv 1710.06963, for clients.

    >>> Clip(norm=1.0)
    Clip(norm=1.0)
    """

    place: ClassVar[Place] = Place.CLIP
    norm: float = positive(1.0, infinite=True)

    def connect(self, flow: Flow) -> Flow:
        """Sets the bound; needs plain numbers, since scaling encoded ones has no meaning."""
        flow.require(self, real=True, fix="put Clip before the quantiser")
        return flow.set(self, bound=self.norm).keep(self, "additive", "dense")

    def send(self, update: Update, memory: Tensors, ctx: ClientContext) -> tuple[Update, Tensors]:
        """The update, shortened where it is too long."""
        norm = joint_norm(update)
        finite = torch.isfinite(norm)
        factor = torch.where(norm > self.norm, self.norm / norm, torch.ones_like(norm))
        vectors = {
            name: torch.where(finite.unsqueeze(-1), (vector.double() * factor.unsqueeze(-1)).to(vector.dtype), 0.0)
            for name, vector in update.vectors.items()
        }
        return update.with_vectors(**vectors), memory


def joint_norm(update: Update) -> Tensor:
    """The L2 norm of all vectors as one, float64 `[...]`: scaled, so that it cannot overflow."""
    largest = torch.stack([v.double().abs().amax(-1) for v in update.vectors.values()]).amax(0)
    unit = torch.where(largest > 0, largest, torch.ones_like(largest)).unsqueeze(-1)
    parts = [torch.linalg.vector_norm(v.double() / unit, dim=-1) for v in update.vectors.values()]
    norm: Tensor = torch.linalg.vector_norm(torch.stack(parts), dim=0)
    return norm * unit.squeeze(-1)

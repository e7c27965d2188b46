"""Reals as integers on one scale that all clients have in common."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar, final

import torch
from torch import Tensor

from headway.core.context import ClientContext, ServerContext
from headway.core.fields import between
from headway.core.flow import Flow
from headway.core.stage import Place, Stage, stages
from headway.core.update import Tensors, Update
from headway.numerics.ring import centred, residues
from headway.numerics.rounding import conditional_rounding, rounded_norm


@final
@stages.register
@dataclass(frozen=True)
class Quantize(Stage):
    """Reals as integers of a few bits, rounded at random so that their mean stays, on one public scale.

    Formula: `k = round(L v / C)` with `L = 2^(bits - 1) - 1`, stochastic rounding of all travelling vectors v taken as
    one; `decode: v = C k / L`.  C is the bound that the flow knows (of Clip), so no coordinate leaves `[-L, L]`, and
    every client has the same scale.  Where only the sum is seen, v is the weight times the update, and C the bound
    times the largest weight.  A zero is exactly zero, and so is an update that is not finite.

    A draw whose L2 norm is above `sqrt(C^2 + g^2 d / 4 + sqrt(2 log(1 / beta)) g (C + g sqrt(d) / 2))` is repeated,
    with `g = C / L`, d coordinates and beta = e^(-1/2): that is the bound from here on, by which noise is scaled.
    Shapes: `[..., P]`; each client by its own draws.  On its way an integer has `bits` bits, modulo `2^bits`, or as
    many as the modulus of a secure sum.

    Raises:
        ConfigError: for bits that are not from 2 to 32.
        ChainRefused: without a finite bound, or behind a sum whose weights have no limit.

    Reference: Kairouz, Liu, Steinke, arXiv 2102.06387, Algorithms 1 and 2 and section 4 (conditional rounding).
    Differs from the paper: the step is the bound over L, and not a number of its own.

    >>> Quantize(bits=8)
    Quantize(bits=8)
    """

    place: ClassVar[Place] = Place.QUANTISE
    bits: int = between(2, 32, 16)

    def connect(self, flow: Flow) -> Flow:
        """Needs the bound that sets the scale; restates it as rounding leaves it."""
        flow.require(self, real=True, finite_bound=True, limited_terms="the scale is the same for all clients")
        names = (*flow.vectors, "buffers")
        bits = None if flow.weighted else self.bits
        codes = {name: replace(flow.spec(name), number="integer", bits=bits) for name in names}
        assert flow.bound is not None
        longest = flow.bound * rounded_norm(self.largest, flow.coordinates or 1) / self.largest
        flow = flow.recode(self, **codes).set(self, bound=longest).keep(self, "dense")
        if flow.weighted:
            flow = flow.set(self, number="ring", largest=self.largest).keep(self, "additive")
        return flow

    @property
    def largest(self) -> int:
        """L, the largest absolute value of an integer."""
        return (1 << (self.bits - 1)) - 1

    def send(self, update: Update, memory: Tensors, ctx: ClientContext) -> tuple[Update, Tensors]:
        """The update in integers."""
        reach = _reach(ctx.flow)
        whole = _in_ball(torch.cat([v.double() for v in update.vectors.values()], dim=-1), reach) * (
            self.largest / reach
        )
        limit = rounded_norm(self.largest, whole.shape[-1])
        codes = conditional_rounding(whole, ctx.private, limit).clamp_(-self.largest, self.largest).to(torch.int64)
        if not ctx.flow.weighted:
            codes = residues(codes, self.bits)
        return update.with_vectors(**_parted(codes, update.vectors)), memory

    def decode(self, update: Update, ctx: ServerContext) -> Update:
        """The reals of integers, or of their sum."""
        step = _reach(ctx.flow) / self.largest
        codes = update.vectors
        if not ctx.flow.weighted:
            codes = {name: centred(vector, self.bits) for name, vector in codes.items()}
        return update.with_vectors(**{name: vector.double() * step for name, vector in codes.items()})


def _reach(flow: Flow) -> float:
    """The largest L2 norm of what arrives at the quantiser: the bound, times the weight that is multiplied in."""
    assert flow.bound is not None
    return flow.bound * (flow.lifted or 1.0 if flow.weighted else 1.0)


def _in_ball(whole: Tensor, radius: float) -> Tensor:
    """The vectors `[..., d]`, shortened where float rounding has left them longer than the radius; zero where they are
    not finite."""
    norm = torch.linalg.vector_norm(whole, dim=-1, keepdim=True)
    whole = torch.where(norm > radius, whole * (radius / norm), whole)
    return torch.where(torch.isfinite(norm), whole, 0.0)


def _parted(codes: Tensor, like: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The parts of a joined vector by name."""
    parts = codes.split([vector.shape[-1] for vector in like.values()], dim=-1)
    return dict(zip(like, parts, strict=True))

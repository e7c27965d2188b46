"""Reals as integers on one scale that all clients have in common."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import ClassVar, final

import torch
from torch import Tensor

from headway.core.context import ClientContext, ServerContext
from headway.core.fields import between
from headway.core.flow import Flow
from headway.core.stage import Place, Stage, stages
from headway.core.update import Tensors, Update
from headway.numerics.hadamard import rotated, spread, turned_back
from headway.numerics.keys import Key
from headway.numerics.ring import centred, residues
from headway.numerics.rounding import conditional_rounding, rounded_norm

ROTATION = Key.root(0).derive("Quantize", "rotation")  # public: the same for all clients and the server


@final
@stages.register
@dataclass(frozen=True)
class Quantize(Stage):
    """Reals as integers of a few bits, rounded at random so that their mean stays, on one public scale.

    Formula: `k = round(v / g)` with `g = C / L`, `L = 2^(bits - 1) - 1`, stochastic rounding of all travelling vectors
    v taken as one; `decode: v = g k`.  C is the bound that the flow knows (of Clip), so no coordinate leaves `[-L, L]`,
    and every client has the same scale.  Where only the sum is seen, v is the weight times the update, and C the bound
    times the largest weight.  A zero is exactly zero, and so is an update that is not finite.

    rotate: v is rotated first, by signs that are those of the round and a Walsh-Hadamard transform, which spreads it
    evenly: then `g = C min(1, sqrt(2 log(2 d / 10^-6) / m)) / L`, d being the coordinates and m the largest power of
    two up to d, a step 96 times finer for a million.  The rare coordinate that is larger, in one vector of a million,
    is cut to L.  `decode` turns it back exactly.

    A draw whose L2 norm is above `sqrt(C^2 + g^2 d / 4 + sqrt(2 log(1 / beta)) g (C + g sqrt(d) / 2))` is repeated,
    with beta = e^(-1/2): that is the bound from here on, by which noise is scaled.
    Shapes: `[..., P]`; each client by its own draws.  On its way an integer has `bits` bits, modulo `2^bits`, or as
    many as the modulus of a secure sum.

    Raises:
        ConfigError: for bits that are not from 2 to 32.
        ChainRefused: without a finite bound, or behind a sum whose weights have no limit.

    Reference: Kairouz, Liu, Steinke, arXiv 2102.06387, Algorithms 1 and 2 and section 4 (conditional rounding);
    Suresh et al., arXiv 1611.00429, sections 2 and 3 (stochastic rounding, rotation).
    Differs from the papers: the step follows from the bound and the bits, and is no number of its own; the rotation has
    two overlapping blocks instead of zeros up to a power of two, so that it makes no vector longer.

    >>> Quantize(bits=8)
    Quantize(bits=8, rotate=False)
    """

    place: ClassVar[Place] = Place.QUANTISE
    bits: int = between(2, 32, 16)
    rotate: bool = False

    def connect(self, flow: Flow) -> Flow:
        """Needs the bound that sets the scale; restates it as rounding leaves it."""
        flow.require(self, real=True, finite_bound=True, limited_terms="the scale is the same for all clients")
        bits = None if flow.weighted else self.bits
        codes = {name: replace(flow.spec(name), number="integer", bits=bits) for name in (*flow.vectors, "buffers")}
        size = flow.coordinates or 1
        unit = self.unit(flow, size)
        longest = rounded_norm(_reach(flow) / unit, size) * unit
        flow = flow.recode(self, **codes).set(self, bound=longest / _weight(flow)).keep(self, "dense")
        if flow.weighted:
            flow = flow.set(self, number="ring", largest=self.largest, unit=unit)
            flow = flow.keep(self, "additive")
        return flow

    @property
    def largest(self) -> int:
        """L, the largest absolute value of an integer."""
        return (1 << (self.bits - 1)) - 1

    def unit(self, flow: Flow, size: int) -> float:
        """g, the real that an integer of 1 stands for, where so many coordinates travel."""
        return _reach(flow) * (spread(size) if self.rotate else 1.0) / self.largest

    def send(self, update: Update, memory: Tensors, ctx: ClientContext) -> tuple[Update, Tensors]:
        """The update in integers."""
        whole = _in_ball(_joined(update.vectors), _reach(ctx.flow))
        size = whole.shape[-1]
        if self.rotate:
            whole = _by_round(rotated, whole, ctx.round)
        unit = self.unit(ctx.flow, size)
        whole = (whole / unit).clamp_(-self.largest, self.largest)
        codes = conditional_rounding(whole, ctx.private, rounded_norm(_reach(ctx.flow) / unit, size)).to(torch.int64)
        if not ctx.flow.weighted:
            codes = residues(codes, self.bits)
        return update.with_vectors(**_parted(codes, update.vectors)), memory

    def decode(self, update: Update, ctx: ServerContext) -> Update:
        """The reals of integers, or of their sum."""
        codes = _joined(update.vectors) if ctx.flow.weighted else centred(_joined(update.vectors), self.bits)
        whole = codes.double() * self.unit(ctx.flow, codes.shape[-1])
        if self.rotate:
            whole = _by_round(turned_back, whole, ctx.round - ctx.age)
        return update.with_vectors(**_parted(whole, update.vectors))


def _weight(flow: Flow) -> float:
    """The largest weight that is multiplied in."""
    return flow.lifted or 1.0 if flow.weighted else 1.0


def _reach(flow: Flow) -> float:
    """The largest L2 norm of what arrives at the quantiser: the bound, times the weight that is multiplied in."""
    assert flow.bound is not None
    return flow.bound * _weight(flow)


def _in_ball(whole: Tensor, radius: float) -> Tensor:
    """The vectors `[..., d]` in float64, shortened where float rounding has left them longer than the radius; zero
    where they are not finite."""
    whole = whole.double()
    norm = torch.linalg.vector_norm(whole, dim=-1, keepdim=True)
    whole = torch.where(norm > radius, whole * (radius / norm), whole)
    return torch.where(torch.isfinite(norm), whole, 0.0)


def _joined(vectors: Mapping[str, Tensor]) -> Tensor:
    """All vectors as one, in the order of their names."""
    if len(vectors) == 1:
        return next(iter(vectors.values()))
    return torch.cat([vectors[name] for name in sorted(vectors)], dim=-1)


def _parted(whole: Tensor, like: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The parts of a joined vector by name."""
    names = sorted(like)
    return dict(zip(names, whole.split([like[name].shape[-1] for name in names], dim=-1), strict=True))


def _by_round(turn: Callable[[Tensor, Key], Tensor], whole: Tensor, round: int | Tensor) -> Tensor:
    """Vectors `[..., d]` turned with the signs of a round, or each `[C, d]` with those of its own round."""
    rounds = torch.as_tensor(round).flatten().to(torch.int64).tolist()
    if len(set(rounds)) == 1:
        return turn(whole, ROTATION.derive(rounds[0]))
    return torch.stack([turn(row, ROTATION.derive(one)) for row, one in zip(whole, rounds, strict=True)])

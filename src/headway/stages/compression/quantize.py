"""Reals as integers on one scale that all clients have in common."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
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
    and every client has the same scale.  Where each vector is clipped on its own, each is quantised on its own.
    Where only the sum is seen, v is the weight times the update, and C the bound times the largest weight.  A zero is
    exactly zero, and so is an update that is not finite.

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
        ChainRefused: without a finite bound, behind a sum whose weights have no limit, or with a control change that
            is clipped together with the delta.

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
        flow.require(self, own_scales=True)
        bits = None if flow.weighted else self.bits
        codes = {name: replace(flow.spec(name), number="integer", bits=bits) for name in (*flow.vectors, "buffers")}
        lengths = dict.fromkeys(flow.vectors, 1) if flow.size is None else flow.lengths(flow.size)
        if flow.statistics:
            lengths["buffers"] = flow.statistics
        scales = self._scales(flow, lengths)
        bound = math.hypot(*(scale.longest * scale.unit for scale in scales)) / _weight(flow)
        after = flow.recode(self, **codes).set(self, bound=bound, number="ring" if flow.weighted else "real")
        if flow.weighted:
            norm = math.hypot(*(scale.longest for scale in scales))
            after = after.set(self, largest=self.largest, integer_norm=norm).keep(self, "additive")
        return after.keep(self, "dense")

    @property
    def largest(self) -> int:
        """L, the largest absolute value of an integer."""
        return (1 << (self.bits - 1)) - 1

    def scale(self, reach: float, size: int) -> Scale:
        """The scale of vectors of at most this norm."""
        unit = reach * (spread(size) if self.rotate else 1.0) / self.largest
        return Scale(("delta",), reach, unit, rounded_norm(reach / unit, size))

    def _scales(self, flow: Flow, lengths: Mapping[str, int]) -> list[Scale]:
        """The scale of all vectors together, or of each that has a bound of its own."""
        weight, names = _weight(flow), tuple(sorted(lengths))
        if flow.bounds:
            alone = [(name, self.scale(flow.bounds[name] * weight, lengths[name])) for name in names]
            return [replace(scale, names=(name,)) for name, scale in alone]
        assert flow.bound is not None
        return [replace(self.scale(flow.bound * weight, sum(lengths.values())), names=names)]

    def send(self, update: Update, memory: Tensors, ctx: ClientContext) -> tuple[Update, Tensors]:
        """The update in integers."""
        vectors = dict(update.vectors)
        for scale in self._scales(ctx.flow, _lengths(vectors)):
            whole = _in_ball(_joined(vectors, scale.names), scale.reach)
            if self.rotate:
                whole = _by_round(rotated, whole, ctx.round)
            whole = (whole / scale.unit).clamp_(-self.largest, self.largest)
            codes = conditional_rounding(whole, ctx.private.derive(*scale.names), scale.longest).to(torch.int64)
            vectors |= _parted(codes if ctx.flow.weighted else residues(codes, self.bits), vectors, scale.names)
        return update.with_vectors(**vectors), memory

    def decode(self, update: Update, ctx: ServerContext) -> Update:
        """The reals of integers, or of their sum."""
        vectors = dict(update.vectors)
        for scale in self._scales(ctx.flow, _lengths(vectors)):
            codes = _joined(vectors, scale.names)
            whole = (codes if ctx.flow.weighted else centred(codes, self.bits)).double() * scale.unit
            if self.rotate:
                whole = _by_round(turned_back, whole, ctx.round - ctx.age)
            vectors |= _parted(whole, vectors, scale.names)
        return update.with_vectors(**vectors)


@dataclass(frozen=True, slots=True)
class Scale:
    """The scale of vectors that are quantised as one.

    names: theirs, sorted.  reach: their largest L2 norm.  unit: g, the real that an integer of 1 stands for.
    longest: the largest L2 norm of their integers.
    """

    names: tuple[str, ...]
    reach: float
    unit: float
    longest: float


def _weight(flow: Flow) -> float:
    """The largest weight that is multiplied in."""
    return flow.lifted or 1.0 if flow.weighted else 1.0


def _lengths(vectors: Mapping[str, Tensor]) -> dict[str, int]:
    return {name: vector.shape[-1] for name, vector in vectors.items()}


def _in_ball(whole: Tensor, radius: float) -> Tensor:
    """The vectors `[..., d]` in float64, shortened where float rounding has left them longer than the radius; zero
    where they are not finite."""
    whole = whole.double()
    norm = torch.linalg.vector_norm(whole, dim=-1, keepdim=True)
    if bool((norm <= radius).all()):
        return whole
    whole = torch.where(norm > radius, whole * (radius / norm), whole)
    return torch.where(torch.isfinite(norm), whole, 0.0)


def _joined(vectors: Mapping[str, Tensor], names: Sequence[str]) -> Tensor:
    """These vectors as one."""
    return vectors[names[0]] if len(names) == 1 else torch.cat([vectors[name] for name in names], dim=-1)


def _parted(whole: Tensor, like: Mapping[str, Tensor], names: Sequence[str]) -> dict[str, Tensor]:
    """The parts of a joined vector by name."""
    return dict(zip(names, whole.split([like[name].shape[-1] for name in names], dim=-1), strict=True))


def _by_round(turn: Callable[[Tensor, Key], Tensor], whole: Tensor, round: int | Tensor) -> Tensor:
    """Vectors `[..., d]` turned with the signs of a round, or each `[C, d]` with those of its own round."""
    rounds = torch.as_tensor(round).flatten().to(torch.int64).tolist()
    if len(set(rounds)) == 1:
        return turn(whole, ROTATION.derive(rounds[0]))
    return torch.stack([turn(row, ROTATION.derive(one)) for row, one in zip(whole, rounds, strict=True)])

"""The flow's promises on each update, against which the server checks arriving updates."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from headway.core.chain import Chain
from headway.core.errors import UpdateRejected
from headway.core.flow import Flow
from headway.core.update import Update
from headway.numerics.packing import packed_length
from headway.protocol.sums import ExactTotal, not_finite
from headway.protocol.wire import too_wide

BESIDES = 1 << 16  # bytes of a reply besides its vectors: header, weight, sums, figures, a reason
SLACK = 1e-5  # relative: what rounding may add to a norm or a weight


@dataclass(frozen=True)
class Promise:
    """The form of an update on its way, and how much of one client may enter the sum.

    lengths: how many numbers each vector has.  integers: the names of those that hold integers; True for all.
    bits: of those whose integers take a number of bits, that number.
    bound: the largest L2 norm of all vectors together once they are decoded.  weight_bound: the largest weight;
    by_examples: whether a weight is at most the client's number of examples.
    decoded: whether vectors are decoded before they are summed, so that the bound is theirs after that.
    """

    lengths: Mapping[str, int]
    integers: bool | frozenset[str] = False
    bound: float | None = None
    weight_bound: float | None = None
    by_examples: bool = False
    decoded: bool = False
    caused_by: Mapping[str, str] = field(default_factory=dict)
    bits: Mapping[str, int] = field(default_factory=dict)

    @classmethod
    def of(cls, chain: Chain, flows: Sequence[Flow], size: int, statistics: int = 0) -> Promise:
        """The promise of a chain whose facts after each stage are `flows`; P = size, statistics: the averaged ones."""
        last, border = flows[-1], chain.stages.index(chain.aggregator)
        before = flows[border - 1] if border else Flow()
        lengths = {**last.lengths(size), **({"buffers": statistics} if statistics else {})}
        real = last.number == "real" and last.server_sees == "each"
        return cls(
            lengths,
            last.integers,
            before.bound if real else None,
            flows[border].weight_bound if last.server_sees == "each" else None,
            flows[border].by_examples and last.server_sees == "each",
            chain.has_codecs,
            flows[border].set_by,
            last.packed,
        )

    @property
    def largest_reply(self) -> int:
        """How many bytes the frame of a promised update has at most, real numbers taken as float64; an upload that is
        longer need not be received."""
        numbers = sum(
            packed_length(length, self.bits[name]) if name in self.bits else 8 * length
            for name, length in self.lengths.items()
        )
        heads = sum(16 + len(name.encode()) for name in self.lengths)
        return numbers + heads + BESIDES

    def check(self, update: Update, client: str, examples: int | None = None) -> float:
        """The L2 norm of an update's delta.

        Raises:
            UpdateRejected: if the update has not the form that was promised, or too large a weight; if it is longer
                than was promised, unless it must be decoded first (`check_bound`).
        """
        norm = guard(update, self.lengths, client, self.integers)
        if self.bits and (wide := too_wide(update, self.bits)) is not None:
            raise UpdateRejected(client, f"{wide!r} holds integers that do not fit in {self.bits[wide]} bits")
        weight = float(update.weight)
        if self.weight_bound is not None and weight > self.weight_bound * (1 + SLACK):
            by = self.caused_by.get("weight_bound", "the chain")
            raise UpdateRejected(client, f"its weight is {weight:g}, and {by} promises at most {self.weight_bound:g}")
        if self.by_examples and examples is not None and weight > examples * (1 + SLACK):
            raise UpdateRejected(client, f"its weight is {weight:g}, above its {examples} examples")
        if self.bound is not None and not self.decoded:
            self.check_bound(update, client)
        return norm

    def check_bound(self, update: Update, client: str) -> None:
        """Refuses a decoded update that is longer than was promised.

        Raises:
            UpdateRejected: saying how long it is.
        """
        if self.bound is None or math.isinf(self.bound):
            return
        length = float(update.squared_norm().sqrt())
        if not length <= self.bound * (1 + SLACK):
            by = self.caused_by.get("bound", "the chain")
            raise UpdateRejected(client, f"its vectors have the norm {length:.6g}, and {by} promises {self.bound:g}")

    def check_sum(self, total: ExactTotal, relay: str, examples: int | None = None) -> None:
        """Refuses a sum over several clients whose weight or sums cannot be theirs.

        examples: of the clients in the sum together.

        Raises:
            UpdateRejected: naming the number.
        """
        weight = total.weight.value()
        if not math.isfinite(weight) or weight < 0:
            raise UpdateRejected(relay, f"the weight of its sum is {weight:g}, not a finite number >= 0")
        if self.weight_bound is not None and weight > total.count * self.weight_bound * (1 + SLACK):
            by = self.caused_by.get("weight_bound", "the chain")
            most = f"{by} promises at most {self.weight_bound:g} for each of its {total.count} clients"
            raise UpdateRejected(relay, f"the weight of its sum is {weight:g}, and {most}")
        if self.by_examples and examples is not None and weight > examples * (1 + SLACK):
            raise UpdateRejected(relay, f"the weight of its sum is {weight:g}, above its clients' {examples} examples")
        for name, number in total.sums.items():
            if not math.isfinite(value := number.value()):
                raise UpdateRejected(relay, f"its sum {name!r} is {value:g}")

    def check_lanes(self, update: Update, examples: Tensor) -> Tensor | None:
        """`check` of many updates at once: the norms of their deltas, float64 `[C]`; `None` if any would be refused."""
        norms = guard_lanes(update, self.lengths, self.integers)
        if norms is None or too_wide(update, self.bits) is not None:
            return None
        limits = [] if self.weight_bound is None else [torch.full_like(update.weight, self.weight_bound)]
        limits += [examples.to(update.weight)] if self.by_examples else []
        if any(bool((update.weight > limit * (1 + SLACK)).any()) for limit in limits):
            return None
        return norms if self.decoded or self.holds(update) else None

    def holds(self, update: Update) -> bool:
        """Whether none of many decoded updates `[C, P]` is longer than was promised."""
        if self.bound is None or math.isinf(self.bound):
            return True
        return bool((update.squared_norm().sqrt() <= self.bound * (1 + SLACK)).all())


def guard(update: Update, expected: Mapping[str, int], client: str, integers: bool | Collection[str] = False) -> float:
    """The L2 norm of the delta of an update that may enter the model; NaN for a delta of integers.

    integers: the names of the vectors that hold integers; True for all.

    Raises:
        UpdateRejected: if a vector is missing, unknown, of another length or kind, or not finite, or if the
            weight is negative or not finite.
    """
    for name in expected.keys() - update.vectors.keys():
        raise UpdateRejected(client, f"its vector {name!r} is missing")
    norm = math.nan  # of a delta of integers
    for name, vector in update.vectors.items():
        if name not in expected:
            raise UpdateRejected(client, f"it holds a vector {name!r} that the chain does not send")
        if tuple(vector.shape) != (expected[name],):
            raise UpdateRejected(
                client, f"{name!r} has shape {tuple(vector.shape)}, not ({expected[name]},) as the chain promises"
            )
        whole = integers if isinstance(integers, bool) else name in integers
        if vector.is_floating_point() == whole:
            wanted = "integers" if whole else "floating-point numbers"
            raise UpdateRejected(client, f"{name!r} holds {vector.dtype}, and the chain promises {wanted}")
        if whole:
            continue
        length = math.sqrt(float(torch.dot(vector, vector)))
        if not math.isfinite(length):  # a number is not, or a square has overflowed
            if (trouble := not_finite(vector)) is not None:
                raise UpdateRejected(client, f"{name!r} {trouble}")
            length = float(torch.linalg.vector_norm(vector, dtype=torch.float64))
        if name == "delta":
            norm = length
    weight = float(update.weight)
    if not math.isfinite(weight) or weight < 0:
        raise UpdateRejected(client, f"its weight is {weight:g}, not a finite number >= 0")
    for name, number in update.sums.items():
        if not math.isfinite(float(number)):
            raise UpdateRejected(client, f"its sum {name!r} is {float(number):g}")
    return norm


def guard_lanes(update: Update, expected: Mapping[str, int], integers: bool | Collection[str] = False) -> Tensor | None:
    """`guard` for many updates at once: the norms of their deltas, float64 `[C]`; `None` if any would be refused."""
    lanes = update.weight.shape
    if update.vectors.keys() != expected.keys():
        return None
    for name, vector in update.vectors.items():
        kind = vector.is_floating_point() == (integers if isinstance(integers, bool) else name in integers)
        if tuple(vector.shape) != (*lanes, expected[name]) or kind:
            return None
    if not bool((torch.isfinite(update.weight) & (update.weight >= 0)).all()):
        return None
    if not all(bool(torch.isfinite(number).all()) for number in update.sums.values()):
        return None
    real = {name: v for name, v in update.vectors.items() if v.is_floating_point()}
    norms = {name: torch.linalg.vector_norm(vector, dim=-1) for name, vector in real.items()}
    if not all(bool(torch.isfinite(norm).all()) for norm in norms.values()):
        return None
    return norms["delta"].double() if "delta" in norms else torch.full(lanes, math.nan, dtype=torch.float64)

"""A client's update: named vectors, a weight, additive sums."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, NamedTuple

import torch
from torch import Tensor

Tensors = Mapping[str, Tensor]


def flat_names(params: Tensor, buffers: Tensor | None, stages: Mapping[str, Tensors], prefix: str) -> dict[str, Tensor]:
    """The model, its averaged buffers and what belongs to stages, under names without nesting."""
    named = {"params": params} if buffers is None else {"params": params, "buffers": buffers}
    for label, tensors in stages.items():
        named |= {f"{prefix}{label}/{name}": tensor for name, tensor in tensors.items()}
    return named


def unflat_names(named: Tensors, prefix: str = "") -> tuple[Tensor, Tensor | None, dict[str, dict[str, Tensor]]]:
    """The parts that `flat_names` has named: the model, its averaged buffers, what belongs to stages."""
    stages: dict[str, dict[str, Tensor]] = {}
    for path, tensor in named.items():
        if path in ("params", "buffers") or not path.startswith(prefix):
            continue
        label, name = path.removeprefix(prefix).split("/", 1)
        stages.setdefault(label, {})[name] = tensor
    return named["params"], named.get("buffers"), stages


@dataclass(frozen=True, slots=True)
class Update:
    """Named vectors `[..., P]` (always `delta`, new minus old: the server adds it), a weight `[...]` and
    sums `[...]` that add over clients.  Leading axes are clients.

    >>> update = Update.of(torch.tensor([1.0, 2.0]), weight=3.0)
    >>> update.with_delta(update.delta * 2).delta
    tensor([2., 4.])
    """

    vectors: Mapping[str, Tensor]
    weight: Tensor
    sums: Mapping[str, Tensor] = field(default_factory=dict)

    @classmethod
    def of(cls, delta: Tensor, weight: float | Tensor = 1.0, **vectors: Tensor) -> Update:
        """An update of a delta, a weight, and other named vectors."""
        weight = torch.as_tensor(weight, dtype=torch.float64)
        return cls({"delta": delta, **vectors}, weight.expand(delta.shape[:-1]))

    @property
    def delta(self) -> Tensor:
        """The change of the model, `[..., P]`."""
        return self.vectors["delta"]

    def with_delta(self, delta: Tensor) -> Update:
        """The same update with another delta."""
        return self.with_vectors(delta=delta)

    def with_vectors(self, **vectors: Tensor) -> Update:
        """The same update with these vectors replaced or added."""
        return replace(self, vectors={**self.vectors, **vectors})

    def with_weight(self, weight: Tensor) -> Update:
        """The same update with another weight."""
        return replace(self, weight=weight)

    def with_sums(self, **sums: Tensor) -> Update:
        """The same update with these sums replaced or added."""
        return replace(self, sums={**self.sums, **sums})

    def scaled(self, factor: Tensor) -> Update:
        """Every vector multiplied by a factor `[...]` per client."""
        return replace(self, vectors={k: v * factor.to(v.dtype).unsqueeze(-1) for k, v in self.vectors.items()})

    def scaled_exactly(self, factor: Tensor) -> Update:
        """Every vector times a factor `[...]`, in float64: exact while the factor has at most 29 bits."""
        wide = factor.double().unsqueeze(-1)
        return replace(self, vectors={k: v.to(torch.float64, copy=True).mul_(wide) for k, v in self.vectors.items()})

    def squared_norm(self) -> Tensor:
        """The squared L2 norm of all vectors taken as one, float64 `[...]`."""
        return _squared_norm(self.vectors)

    def cpu(self) -> Update:
        """The same update in main memory."""
        vectors = {k: v.cpu() for k, v in self.vectors.items()}
        return Update(vectors, self.weight.cpu(), {k: v.cpu() for k, v in self.sums.items()})

    def lanes(self, rows: slice) -> Update:
        """The updates of some clients out of a batch."""
        vectors = {name: vector[rows] for name, vector in self.vectors.items()}
        return Update(vectors, self.weight[rows], {name: number[rows] for name, number in self.sums.items()})

    @classmethod
    def joined(cls, parts: Sequence[Update]) -> Update:
        """One batch of several."""
        vectors = {name: torch.cat([part.vectors[name] for part in parts]) for name in parts[0].vectors}
        sums = {name: torch.cat([part.sums[name] for part in parts]) for name in parts[0].sums}
        return cls(vectors, torch.cat([part.weight for part in parts]), sums)

    @classmethod
    def stacked(cls, each: Sequence[Update]) -> Update:
        """A batch `[C, ...]` of the updates of single clients."""
        vectors = {name: torch.stack([one.vectors[name] for one in each]) for name in each[0].vectors}
        sums = {name: torch.stack([one.sums[name] for one in each]) for name in each[0].sums}
        return cls(vectors, torch.stack([one.weight for one in each]), sums)

    def lane(self, index: int) -> Update:
        """One client's update out of a batch of them."""
        return Update(
            {k: v[index] for k, v in self.vectors.items()},
            self.weight[index],
            {k: v[index] for k, v in self.sums.items()},
        )


def without_own(update: Update) -> tuple[Update, dict[str, dict[str, Tensor]]]:
    """An update without the vectors that are named after a stage (`"Stage/name"`); and those, by stage."""
    own: dict[str, dict[str, Tensor]] = {}
    for path in update.vectors:
        if "/" in path:
            label, name = path.split("/", 1)
            own.setdefault(label, {})[name] = update.vectors[path]
    vectors = {name: vector for name, vector in update.vectors.items() if "/" not in name}
    return (replace(update, vectors=vectors) if own else update), own


def _squared_norm(vectors: Tensors) -> Tensor:
    parts = [torch.linalg.vector_norm(v, dim=-1, dtype=torch.float64) ** 2 for v in vectors.values()]
    return torch.stack(parts).sum(0)


class LeftOut(NamedTuple):
    """Why an aggregator leaves a client out: its update was found to be wrong ("rejected"), or cannot be judged
    ("dropped"); the reason is a phrase."""

    status: Literal["rejected", "dropped"]
    reason: str


@dataclass(frozen=True, slots=True)
class Rows:
    """All updates of a round, one client a row, for a rule that needs the whole cohort at once.

    names: the clients, sorted.  vectors: each named vector `[C, length]`.  weights: `[C]`.  sums: the additive numbers
    of each client, `[C]`.
    """

    names: tuple[str, ...]
    vectors: Mapping[str, Tensor]
    weights: Tensor
    sums: Mapping[str, Tensor] = field(default_factory=dict)

    @classmethod
    def of(cls, updates: Mapping[str, Update]) -> Rows:
        """The rows of the updates of these clients."""
        names = tuple(sorted(updates))
        ordered = [updates[name] for name in names]
        vectors = {name: torch.stack([update.vectors[name] for update in ordered]) for name in ordered[0].vectors}
        sums = {name: torch.stack([update.sums[name] for update in ordered]) for name in ordered[0].sums}
        return cls(names, vectors, torch.stack([update.weight for update in ordered]), sums)

    def norms(self) -> Tensor:
        """The L2 norm of each client's vectors, all taken as one, float64 `[C]`."""
        return _squared_norm(self.vectors).sqrt()

    def joined(self) -> Tensor:
        """All vectors of a client side by side, `[C, sum of the lengths]`: a rule that reduces them as one treats the
        same clients alike in each vector."""
        return torch.cat(list(self.vectors.values()), dim=-1)

    def update(self, joined: Tensor) -> Update:
        """The aggregate of the vectors that lie side by side in `joined`, `[sum of the lengths]`."""
        parts = torch.split(joined, [vector.shape[-1] for vector in self.vectors.values()], dim=-1)
        return Update(dict(zip(self.vectors, parts, strict=True)), self.weights.double().sum())

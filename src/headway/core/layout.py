"""The map between a model's named tensors and one flat vector."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from math import prod

import torch
from torch import Tensor

from headway.core.errors import ConfigError, nearest


@dataclass(frozen=True, slots=True)
class Entry:
    """One named tensor and its place `[offset, offset + numel)` in the vector; a scalar has numel 1."""

    name: str
    shape: tuple[int, ...]
    offset: int
    numel: int = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "numel", prod(self.shape))


@dataclass(frozen=True)
class Layout:
    """The place of each shared parameter in the flat vector `[..., P]`.

    Flat vectors are for exchange; the model keeps its own parameters.  Leading axes are clients.

    >>> layout = Layout.of({"w": torch.ones(2, 3), "b": torch.zeros(3)})
    >>> layout.size, layout.names
    (9, ('w', 'b'))
    >>> layout.views(layout.flatten({"w": torch.ones(2, 3), "b": torch.zeros(3)}))["b"]
    tensor([0., 0., 0.])
    """

    entries: tuple[Entry, ...]
    dtype: torch.dtype = torch.float32

    @classmethod
    def of(cls, tensors: Mapping[str, Tensor]) -> Layout:
        """The layout of these tensors, in their order; float64 if all are, else float32.

        Raises:
            ConfigError: if a tensor is not floating point.
        """
        entries: list[Entry] = []
        offset = 0
        for name, tensor in tensors.items():
            if not tensor.is_floating_point():
                raise ConfigError(
                    f"only floating-point tensors can be in the layout, but {name!r} is {tensor.dtype}; "
                    "leave it out of the shared parameters."
                )
            entries.append(Entry(name, tuple(tensor.shape), offset))
            offset += tensor.numel()
        double = bool(tensors) and all(t.dtype == torch.float64 for t in tensors.values())
        return cls(tuple(entries), torch.float64 if double else torch.float32)

    @cached_property
    def size(self) -> int:
        """P, the length of the vector."""
        return sum(self.sizes)

    @cached_property
    def sizes(self) -> list[int]:
        """How many numbers each tensor holds, in order."""
        return [entry.numel for entry in self.entries]

    @cached_property
    def names(self) -> tuple[str, ...]:
        """The tensors' names, in order."""
        return tuple(entry.name for entry in self.entries)

    @cached_property
    def fingerprint(self) -> str:
        """A hash of names, shapes, order and number type: two ends that agree on it agree on every offset."""
        text = repr([(entry.name, entry.shape) for entry in self.entries] + [str(self.dtype)])
        return hashlib.sha256(text.encode()).hexdigest()[:32]

    def flatten(self, tensors: Mapping[str, Tensor], out: Tensor | None = None) -> Tensor:
        """The vector `[..., P]` of tensors `[..., *shape]`; leading axes must be the same for all.

        Raises:
            ConfigError: if a tensor is missing or has another shape.
        """
        parts = []
        for entry in self.entries:
            if entry.name not in tensors:
                raise ConfigError(
                    f"the model has no tensor {entry.name!r}, which the layout needs{nearest(entry.name, tensors)}."
                )
            tensor = tensors[entry.name]
            lead = tensor.ndim - len(entry.shape)
            if lead < 0 or tuple(tensor.shape[lead:]) != entry.shape:
                raise ConfigError(
                    f"tensor {entry.name!r} must end in shape {entry.shape}, found {tuple(tensor.shape)}."
                )
            parts.append(tensor.reshape(*tensor.shape[:lead], entry.numel).to(self.dtype))
        if not parts:
            return torch.empty(0, dtype=self.dtype) if out is None else out
        return torch.cat(parts, dim=-1) if out is None else torch.cat(parts, dim=-1, out=out)

    def views(self, vector: Tensor) -> dict[str, Tensor]:
        """The named tensors `[..., *shape]` inside a vector `[..., P]`, without copying.

        Raises:
            ConfigError: if the vector's last axis is not P.
        """
        self.check(vector)
        lead = vector.shape[:-1]
        return {
            entry.name: part.view((*lead, *entry.shape))
            for entry, part in zip(self.entries, self.slices(vector), strict=True)
        }

    def slices(self, vector: Tensor) -> tuple[Tensor, ...]:
        """The flat pieces `[..., numel]` of a vector, one per tensor, without copying."""
        return vector.split(self.sizes, -1) if self.entries else ()

    def split(self, named: Mapping[str, Tensor]) -> list[dict[str, Tensor]]:
        """The pieces of named vectors `[..., P]` for each tensor, by name; scalars `[..., 1]` stay whole."""
        size, sizes = self.size, self.sizes
        if not named or not sizes:
            return [{}] * len(sizes)
        pieces = [
            vector.split(sizes, -1) if vector.shape[-1] == size else (vector,) * len(sizes) for vector in named.values()
        ]
        return [dict(zip(named, own, strict=True)) for own in zip(*pieces, strict=True)]

    def select(self, which: Iterable[str] | Callable[[str], bool]) -> Layout:
        """The layout of some of the tensors only, in the same order, packed anew.

        Raises:
            ConfigError: if a name is unknown.
        """
        if callable(which):
            chosen = {name for name in self.names if which(name)}
        else:
            chosen = set(which)
            for name in sorted(chosen - set(self.names)):
                raise ConfigError(f"the layout has no tensor {name!r}{nearest(name, self.names)}.")
        entries: list[Entry] = []
        offset = 0
        for entry in self.entries:
            if entry.name in chosen:
                entries.append(Entry(entry.name, entry.shape, offset))
                offset += entry.numel
        return Layout(tuple(entries), self.dtype)

    def check(self, vector: Tensor) -> None:
        """Refuses a vector whose last axis is not P."""
        if vector.ndim == 0 or vector.shape[-1] != self.size:
            raise ConfigError(f"a vector [..., {self.size}] was needed, found shape {tuple(vector.shape)}.")

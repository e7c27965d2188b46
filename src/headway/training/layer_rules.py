"""Layers on the examples of many clients, and what their parameters get of each example."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from headway.training.patches import Convolved, Patches
from headway.training.reused_memory import ReusedMemory


class LayerRule(ABC):
    """One layer on inputs x `[C, B, ...]`, and the gradients of its parameters from errors e `[C, B, ...]`, the
    gradient of each example's loss with respect to the layer's outputs.

    names: the layer's parameters.  given, returned: the shapes of one example's inputs and outputs.
    """

    def __init__(self, name: str, part: nn.Module, given: torch.Size, returned: torch.Size) -> None:
        self.name, self.part, self.given, self.returned = name, part, given[1:], returned[1:]
        self.names = [f"{name}.{each}" if name else each for each, _ in part.named_parameters(recurse=False)]

    @property
    def held(self) -> int:
        """About how many numbers are held for each example."""
        return self.given.numel() + 2 * self.returned.numel()

    @abstractmethod
    def forward(self, x: Tensor, parameters: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """What `prepare` needs of the inputs, and the outputs, by each client's parameters `[C, *shape]`."""

    @abstractmethod
    def prepare(self, x: Tensor, e: Tensor) -> tuple[Tensor, ...]:
        """The factors of each example's gradients, or the gradients themselves, which the other two methods take."""

    @abstractmethod
    def norms(self, kept: Sequence[Tensor]) -> list[Tensor]:
        """The norms of each example's gradients of the parameters `names`, `[C, B]` each."""

    @abstractmethod
    def sums(self, kept: Sequence[Tensor], factors: Tensor) -> list[Tensor]:
        """The sums of these gradients with factors `[C, B]`, `[C, *shape]` each."""

    @property
    def bias(self) -> bool:
        """Whether it has a bias."""
        return self.part.bias is not None


class RowLayer(LayerRule):
    """A linear layer on one row for each example: the gradient is the outer product of e and x."""

    def forward(self, x: Tensor, parameters: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """`x W^T + b`."""
        return x, _linear(x, parameters)

    def prepare(self, x: Tensor, e: Tensor) -> tuple[Tensor, ...]:
        """The two as they are."""
        return x, e

    def norms(self, kept: Sequence[Tensor]) -> list[Tensor]:
        """`||e|| ||x||`, and `||e||` of the bias."""
        x, e = (torch.linalg.vector_norm(each, dim=-1) for each in kept)
        return [x * e, e] if self.bias else [x * e]

    def sums(self, kept: Sequence[Tensor], factors: Tensor) -> list[Tensor]:
        """One product of all rows."""
        x, e = kept
        scaled = e * factors.unsqueeze(-1)
        return [scaled.mT @ x, scaled.sum(1)] if self.bias else [scaled.mT @ x]


class WrittenLayer(LayerRule):
    """A layer for whose parameters the single gradients are written down, `[C, B, *shape]`."""

    @property
    def held(self) -> int:
        """With the gradients."""
        return super().held + sum(parameter.numel() for parameter in self.part.parameters(recurse=False))

    def norms(self, kept: Sequence[Tensor]) -> list[Tensor]:
        """Of what is written."""
        return [torch.linalg.vector_norm(each.flatten(2), dim=2) for each in kept]

    def sums(self, kept: Sequence[Tensor], factors: Tensor) -> list[Tensor]:
        """A product with the factors."""
        made = [(factors.unsqueeze(1) @ each.flatten(2)).squeeze(1) for each in kept]
        return [flat.view(len(flat), *each.shape[2:]) for flat, each in zip(made, kept, strict=True)]


class SequenceLayer(WrittenLayer):
    """A linear layer on several rows of each example."""

    def forward(self, x: Tensor, parameters: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """`x W^T + b` of each row."""
        return x, _linear(x.flatten(1, -2), parameters).unflatten(1, x.shape[1:-1])

    def prepare(self, x: Tensor, e: Tensor) -> tuple[Tensor, ...]:
        """`sum_t e_t x_t^T`, and the sum of the e_t."""
        x, e = x.flatten(2, -2), e.flatten(2, -2)
        return (e.mT @ x, e.sum(2)) if self.bias else (e.mT @ x,)


class ConvolutionLayer(WrittenLayer):
    """A two-dimensional convolution without groups: a linear layer on the patches of each example.

    channels_last: whether its outputs lie in memory with channels last, which pooling is several times faster on, but
    `view` refuses.
    """

    def __init__(
        self, name: str, part: nn.Module, given: torch.Size, returned: torch.Size, channels_last: bool
    ) -> None:
        super().__init__(name, part, given, returned)
        conv: Any = part
        _, high, wide = self.returned
        self.patches = Patches(conv.kernel_size, conv.stride, conv.padding, conv.dilation, (high, wide))
        self.channels_last, self.memory = channels_last, ReusedMemory()
        self.shape: torch.Size = conv.weight.shape

    @property
    def held(self) -> int:
        """With the patches."""
        return super().held + self.returned[1:].numel() * self.shape[1:].numel()

    def forward(self, x: Tensor, parameters: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """`p W^T + b` of the patches p `[C, B, L, k]`."""
        front = x.shape[:2]
        self.memory.again()
        weight = parameters[0].permute(0, 1, 3, 4, 2).flatten(2).mT  # with channels last, as the patches
        bias = parameters[1].unsqueeze(1) if self.bias else None
        x = x.flatten(0, 1).permute(0, 2, 3, 1).contiguous()
        patches, out = Convolved.apply(x, weight, bias, self.patches, self.memory)  # type: ignore[no-untyped-call]
        out = out.view(*front, *self.returned[1:], -1).permute(0, 1, 4, 2, 3)
        return patches.view(*front, *patches.shape[1:]), out if self.channels_last else out.contiguous()

    def prepare(self, x: Tensor, e: Tensor) -> tuple[Tensor, ...]:
        """`sum_l e_l p_l^T` over the places, with channels last, and the sum of the e_l."""
        front, e = x.shape[:2], e.permute(0, 1, 3, 4, 2).flatten(2, 3)
        room = self.memory.empty(x, (len(x) * front[1], e.shape[3], x.shape[3]))
        weights = torch.bmm(e.flatten(0, 1).mT, x.flatten(0, 1), out=room).view(*front, *room.shape[1:])
        return (weights, e.sum(2)) if self.bias else (weights,)

    def sums(self, kept: Sequence[Tensor], factors: Tensor) -> list[Tensor]:
        """As of what is written, with channels first."""
        weight, *bias = super().sums(kept, factors)
        out, channels, *kernel = self.shape
        return [weight.view(-1, out, *kernel, channels).permute(0, 1, 4, 2, 3), *bias]


class NormLayer(WrittenLayer):
    """A layer norm or a group norm, which looks at one example at a time."""

    def forward(self, x: Tensor, parameters: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """The normalised inputs, each times its weight, plus its bias."""
        part: Any = self.part
        flat = x.flatten(0, 1)
        if isinstance(part, nn.LayerNorm):
            normal = F.layer_norm(flat, part.normalized_shape, eps=part.eps).view_as(x)
            shape = (1,) * (x.ndim - 1 - len(part.normalized_shape)) + tuple(part.normalized_shape)
        else:
            flat = flat.contiguous()  # with channels last, torch loses digits
            normal = F.group_norm(flat, part.num_groups, eps=part.eps).view_as(x)
            shape = (1, part.num_channels, *(1,) * (x.ndim - 3))
        out = normal * parameters[0].view(-1, *shape)
        return normal, out + parameters[1].view(-1, *shape) if self.bias else out

    def prepare(self, x: Tensor, e: Tensor) -> tuple[Tensor, ...]:
        """The errors times the normalised inputs, and the errors, summed over what shares a parameter."""
        part: Any = self.part
        layer = isinstance(part, nn.LayerNorm)
        axes = tuple(range(2, x.ndim - len(part.normalized_shape)) if layer else range(3, x.ndim))
        made = (e * x, e) if self.bias else (e * x,)
        return tuple(each.sum(axes) for each in made) if axes else made


def rule_for(
    name: str, part: nn.Module, given: torch.Size, returned: torch.Size, channels_last: bool
) -> LayerRule | None:
    """The rule for a layer with inputs and outputs of these shapes `[B, ...]`; `None` if there is none."""
    kind: type[LayerRule] | None = None
    if type(part) is nn.Linear and len(given) > 1:
        kind = RowLayer if len(given) == 2 else SequenceLayer
    elif type(part) is nn.Conv2d and len(given) == 4:
        plain = part.groups == 1 and part.padding_mode == "zeros" and not isinstance(part.padding, str)
        return ConvolutionLayer(name, part, given, returned, channels_last) if plain else None
    elif type(part) in (nn.LayerNorm, nn.GroupNorm) and len(given) > 1:
        kind = NormLayer
    return None if kind is None else kind(name, part, given, returned)


class CalledTwice(Exception):
    """A layer is called more than once."""


@contextmanager
def calling(layers: Mapping[str, nn.Module], call: Callable[[str, nn.Module, Tensor], Tensor]) -> Iterator[None]:
    """The layers' forward passes are calls of `call` with the layer's name, itself and its inputs."""
    for name, part in layers.items():
        part.forward = partial(call, name, part)
    try:
        yield
    finally:
        for part in layers.values():
            del part.forward


def _linear(x: Tensor, parameters: Sequence[Tensor]) -> Tensor:
    """Rows `[C, n, in]` times each client's weight, plus its bias."""
    weight = parameters[0].mT
    return x @ weight if len(parameters) == 1 else torch.baddbmm(parameters[1].unsqueeze(1), x, weight)

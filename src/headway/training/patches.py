"""What each place of a two-dimensional convolution's output sees of its input, with channels last."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

Pair = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Patches:
    """The patches of a convolution with these numbers for height and width; outputs: the size of its output.

    >>> Patches((2, 2), (1, 1), (0, 0), (1, 1), (1, 2))(torch.arange(6.0).view(1, 2, 3, 1)).tolist()
    [[[0.0, 1.0, 3.0, 4.0], [1.0, 2.0, 4.0, 5.0]]]
    """

    kernel: Pair
    stride: Pair
    padding: Pair
    dilation: Pair
    outputs: Pair

    def __call__(self, x: Tensor) -> Tensor:
        """The patches `[N, L, kh * kw * C]` of inputs `[N, H, W, C]`, L being the places, row by row."""
        made: Tensor = _Taken.apply(x, self)  # type: ignore[no-untyped-call]
        return made

    def taken(self, x: Tensor) -> Tensor:
        """The same, without a gradient."""
        (top, left), (down, right), (by_row, by_column) = self.padding, self.stride, self.dilation
        if top or left:
            x = F.pad(x, (0, 0, left, left, top, top))
        example, row, column, channel = x.stride()
        shape = (len(x), *self.outputs, *self.kernel, x.shape[3])
        steps = (example, row * down, column * right, row * by_row, column * by_column, channel)
        return x.as_strided(shape, steps).reshape(len(x), self.outputs[0] * self.outputs[1], -1)

    def added_up(self, patches: Tensor, shape: torch.Size) -> Tensor:
        """The sums over all patches that a number of the inputs is in, `[N, H, W, C]`: the gradient of `taken`."""
        count, *sizes, channels = shape
        blocks = [list(self._blocks(axis)) for axis in (0, 1)]
        strides = [  # that the padded inputs reach over
            max(max(out + block.place for block in each), -(-(size + 2 * padding) // stride))
            for out, each, size, padding, stride in zip(
                self.outputs, blocks, sizes, self.padding, self.stride, strict=True
            )
        ]
        room = patches.new_zeros(count, strides[0], self.stride[0], strides[1], self.stride[1], channels)
        apart = patches.view(count, *self.outputs, *self.kernel, channels)
        for row, column in itertools.product(*blocks):
            (down, within), (right, across) = (
                (slice(block.place, block.place + out), slice(block.within, block.within + block.length))
                for block, out in zip((row, column), self.outputs, strict=True)
            )
            of_kernel = [slice(block.first, block.first + block.length) for block in (row, column)]
            room[:, down, within, right, across] += apart[:, :, :, *of_kernel].transpose(2, 3)
        padded = room.view(count, strides[0] * self.stride[0], strides[1] * self.stride[1], channels)
        (top, left), (height, width) = self.padding, sizes
        return padded[:, top : top + height, left : left + width]

    def _blocks(self, axis: int) -> Iterator[_Block]:
        kernel, stride, dilation = self.kernel[axis], self.stride[axis], self.dilation[axis]
        most = stride if dilation == 1 else 1
        for first in range(0, kernel, most):
            yield _Block(first, min(most, kernel - first), *divmod(first * dilation, stride))


class _Block(NamedTuple):
    """A part of a kernel, along one axis, that lies within one stride of the inputs: where it begins and its length;
    and its place in the inputs, in whole strides and what is over."""

    first: int
    length: int
    place: int
    within: int


class _Taken(torch.autograd.Function):
    """`Patches.taken` with its gradient."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, patches: Patches) -> Tensor:
        ctx.patches, ctx.shape = patches, x.shape
        return patches.taken(x)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, errors: Tensor) -> tuple[Tensor, None]:
        return ctx.patches.added_up(errors.contiguous(), ctx.shape), None

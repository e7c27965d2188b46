"""What each place of a two-dimensional convolution's output sees of its input, with channels last."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from headway.training.reused_memory import ReusedMemory

Pair = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Patches:
    """The patches of a convolution with these numbers for height and width; outputs: the size of its output.

    Tensors lie in the memory that is given, until it is used again.

    >>> patches = Patches((2, 2), (1, 1), (0, 0), (1, 1), (1, 2))
    >>> patches.taken(torch.arange(6.0).view(1, 2, 3, 1), ReusedMemory()).tolist()
    [[[0.0, 1.0, 3.0, 4.0], [1.0, 2.0, 4.0, 5.0]]]
    """

    kernel: Pair
    stride: Pair
    padding: Pair
    dilation: Pair
    outputs: Pair

    def taken(self, x: Tensor, memory: ReusedMemory) -> Tensor:
        """The patches `[N, L, kh * kw * C]` of inputs `[N, H, W, C]`, L being the places, row by row."""
        (top, left), (down, right), (by_row, by_column) = self.padding, self.stride, self.dilation
        if top or left:
            x = F.pad(x, (0, 0, left, left, top, top))
        example, row, column, channel = x.stride()
        shape = (len(x), *self.outputs, *self.kernel, x.shape[3])
        steps = (example, row * down, column * right, row * by_row, column * by_column, channel)
        made = memory.empty(x, shape).copy_(x.as_strided(shape, steps))
        return made.view(len(x), self.outputs[0] * self.outputs[1], -1)

    def added_up(self, patches: Tensor, shape: torch.Size, memory: ReusedMemory) -> Tensor:
        """The sums over all patches that a number of the inputs is in, `[N, H, W, C]`: the gradient of `taken`."""
        count, high, wide, channels = shape
        (top, left), (down, right), (by_row, by_column) = self.padding, self.stride, self.dilation
        room = memory.empty(patches, (count, high + 2 * top, wide + 2 * left, channels)).zero_()
        example, row, column, channel = room.stride()
        apart = patches.view(count, *self.outputs, *self.kernel, channels)
        for (first, rows), (before, columns) in itertools.product(self._blocks(0), self._blocks(1)):
            sizes = (count, self.outputs[0], rows, self.outputs[1], columns, channels)
            steps = (example, row * down, row, column * right, column, channel)
            start = room.storage_offset() + row * by_row * first + column * by_column * before
            part = apart[:, :, :, first : first + rows, before : before + columns]
            room.as_strided(sizes, steps, start).add_(part.transpose(2, 3))
        return room[:, top : top + high, left : left + wide] if top or left else room

    def _blocks(self, axis: int) -> Iterator[tuple[int, int]]:
        """The parts of the kernel, along one axis, in which the patches of two places have no number of the inputs in
        common: where each begins, and its length."""
        kernel, most = self.kernel[axis], self.stride[axis] if self.dilation[axis] == 1 else 1
        for first in range(0, kernel, most):
            yield first, min(most, kernel - first)


class Convolved(torch.autograd.Function):
    """The patches `[N, L, k]` of inputs `[N, H, W, C]`, and their products with the weights `[lanes, k, out]` of the
    lanes, of N / lanes examples each, plus biases `[lanes, 1, out]`, if there are any: `[lanes, N / lanes * L, out]`.

    Only the inputs have a gradient.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, patches: Patches, memory: ReusedMemory
    ) -> tuple[Tensor, Tensor]:
        """The patches, which have no gradient, and the products."""
        ctx.weight, ctx.patches, ctx.memory, ctx.shape = weight, patches, memory, x.shape
        made = patches.taken(x, memory)
        rows = made.view(len(weight), -1, made.shape[2])
        room = memory.empty(x, (*rows.shape[:2], weight.shape[2]))
        out = torch.bmm(rows, weight, out=room) if bias is None else torch.baddbmm(bias, rows, weight, out=room)
        ctx.mark_non_differentiable(made)
        return made, out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, _: Tensor, errors: Tensor) -> tuple[Tensor, None, None, None, None]:
        """The gradient of the inputs."""
        room = ctx.memory.empty(errors, (*errors.shape[:2], ctx.weight.shape[1]))
        torch.bmm(errors, ctx.weight.mT, out=room)
        return ctx.patches.added_up(room, ctx.shape, ctx.memory), None, None, None, None

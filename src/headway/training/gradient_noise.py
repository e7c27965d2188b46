"""Gaussian noise on the gradients of local steps, of one client or of many at once."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from headway.numerics.keys import Key, Keys
from headway.numerics.secure_random import normals, single_normals
from headway.training.example_privacy import NOISE, ExamplePrivacy


class GradientNoise:
    """The noise of each local step: `z C / denominator` times standard normal numbers, for each parameter by itself.

    The numbers come from a cryptographic generator, in the precision of the model.  They are floating-point numbers, so
    the lowest bits of a step are not covered by the promise in theory (arXiv 2107.10138).
    keys: private, of one client or of many.  denominators: float64 `[C]` of many, or one.
    """

    def __init__(self, privacy: ExamplePrivacy, keys: Key | Keys, denominators: Tensor | float) -> None:
        self.keys = keys
        self.scale = torch.as_tensor(denominators, dtype=torch.float64).reciprocal() * (
            privacy.noise_multiplier * privacy.clip_norm
        )

    def added(self, gradients: Sequence[Tensor], step: int) -> list[Tensor]:
        """The gradients `[..., *shape]`, which are changed in place, with the noise of this step; of many clients, of
        the first ones."""
        if not bool((self.scale > 0).any()):
            return list(gradients)
        scale, keys = self.scale, self.keys.derive(NOISE, step)
        shapes = [each.shape[scale.ndim :] for each in gradients]
        if isinstance(keys, Keys):
            keys, scale = keys[: len(gradients[0])], scale[: len(gradients[0]), None]
        number, count = gradients[0].dtype, sum(map(math.prod, shapes))
        if number == torch.float32:
            drawn = single_normals(keys, count, scale.flatten().tolist() if scale.ndim else float(scale))
        else:
            drawn = normals(keys, count).mul_(scale)
        drawn = drawn.to(gradients[0].device, number)
        return [grad.add_(noise) for grad, noise in zip(gradients, parts_of(drawn, shapes), strict=True)]


def parts_of(vector: Tensor, shapes: Sequence[torch.Size]) -> list[Tensor]:
    """A vector `[..., P]` as tensors of these shapes `[..., *shape]`."""
    front, pieces = vector.shape[:-1], vector.split([shape.numel() for shape in shapes], dim=-1)
    return [piece.reshape(*front, *shape) for piece, shape in zip(pieces, shapes, strict=True)]

"""Gaussian noise on the gradients of local steps, of one client or of many at once."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from headway.numerics.keys import Key, Keys
from headway.training.example_privacy import NOISE, ExamplePrivacy
from headway.training.per_example_gradients import parts_of


class GradientNoise:
    """The noise of each local step: `z C / denominator` times standard normal numbers, for each parameter by itself.

    keys: private, of one client or of many.  denominators: float64 `[C]` of many, or one.
    """

    def __init__(self, privacy: ExamplePrivacy, keys: Key | Keys, denominators: Tensor | float) -> None:
        self.keys = keys
        self.scale = torch.as_tensor(denominators, dtype=torch.float64).reciprocal() * (
            privacy.noise_multiplier * privacy.clip_norm
        )

    def added(self, gradients: Sequence[Tensor], step: int) -> list[Tensor]:
        """The gradients `[..., *shape]` with the noise of this step; of many clients, of the first ones."""
        if not bool((self.scale > 0).any()):
            return list(gradients)
        scale, keys = self.scale, self.keys.derive(NOISE, step)
        shapes = [each.shape[scale.ndim :] for each in gradients]
        if isinstance(keys, Keys):
            keys, scale = keys[: len(gradients[0])], scale[: len(gradients[0]), None]
        drawn = normal(keys, sum(map(math.prod, shapes))) * scale
        drawn = drawn.to(gradients[0].device, gradients[0].dtype)
        return [grad + noise for grad, noise in zip(gradients, parts_of(drawn, shapes), strict=True)]


def normal(keys: Key | Keys, count: int) -> Tensor:
    """Standard normal numbers, float64 `[count]`, or `[C, count]`, each row from its own key.

    Reference: Box, Muller, "A note on the generation of random normal deviates", 1958.
    """
    half = (count + 1) // 2
    one, other = keys.uniform(2 * half).unflatten(-1, (2, half)).unbind(-2)
    radius, angle = torch.log1p(-one).mul_(-2).sqrt_(), other * (2 * math.pi)
    return torch.cat([radius * angle.cos(), radius * angle.sin()], dim=-1)[..., :count]

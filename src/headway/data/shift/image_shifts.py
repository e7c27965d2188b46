"""Feature skew of images: noise, angle, colour and stain of each client's own camera or scanner."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from math import cos, inf, radians, sin
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from headway.core.errors import DataError
from headway.data.dataset.federated import FederatedData
from headway.data.partition.allocation import generator
from headway.data.shift.shifting import Move, Shift, need_half_widths, need_images, need_range
from headway.numerics.keys import Key

# Rows: optical density of haematoxylin, eosin and DAB in red, green and blue (Ruifrok & Johnston 2001).
STAINS = ((0.65, 0.70, 0.29), (0.07, 0.99, 0.11), (0.27, 0.57, 0.78))
_DARKEST = 1.0 / 255.0
_CHUNK = 1024


@dataclass(frozen=True)
class Noise(Shift):
    """`noise`: client i of n sees x + e, e ~ N(0, level i/n), drawn once for each value of each example.

    x `[C, H, W]`, values as loaded and not clipped; i counts from 1 in the order of the ids, so the last client
    has variance `level`.

    Raises:
        ConfigError: a negative level.

    Reference: NIID-Bench, arXiv 2102.02079, section 4.2 (noise-based feature skew).
    Differs from the paper's code: there the standard deviation grows with i, and noise is drawn in each epoch.

    >>> Noise(level=0.1)
    Noise(level=0.1)
    """

    kind: ClassVar[str] = "noise"
    level: float

    def check(self) -> None:
        """The level is a variance."""
        need_range(self.kind, "level", self.level, 0, inf)

    def moves(self, data: FederatedData, key: Key) -> Mapping[str, Move]:
        """Every client, unless the level is 0."""
        need_images(self.kind, data)
        count = len(data.clients)
        variances = {client: self.level * (i + 1) / count for i, client in enumerate(data.clients)}
        return {
            client: Move(f"noise of variance {variance:.3g}", partial(_add_noise, variance**0.5, key.derive(client)))
            for client, variance in variances.items()
            if variance > 0
        }


def _add_noise(deviation: float, key: Key, images: Tensor) -> Tensor:
    noise = generator(key).standard_normal(tuple(images.shape), dtype=np.float32)
    return images + torch.from_numpy(noise).to(images.dtype) * deviation


@dataclass(frozen=True)
class Rotation(Shift):
    """`rotation`: client i of n sees its images turned anticlockwise by degrees ((i - 1) mod m) / m.

    x `[C, H, W]`.  m is `clusters`, or n where that is 0: angles are spaced evenly over `degrees`, and the first
    client's is 0.  `degrees=360, clusters=4` gives multiples of 90.  Square images turned by a multiple of 90
    degrees are exact; others are interpolated (bilinear about the centre), and pixels from outside the image are
    those of its nearest edge.  Neutral: degrees 0.

    Raises:
        ConfigError: degrees outside -360..360, or negative clusters.

    Reference: rotated MNIST of IFCA, Ghosh et al., arXiv 2006.04088, section 6.

    >>> Rotation(clusters=4)
    Rotation(degrees=360.0, clusters=4)
    """

    kind: ClassVar[str] = "rotation"
    degrees: float = 360.0
    clusters: int = 0

    def check(self) -> None:
        """An angle, and a number of groups."""
        need_range(self.kind, "degrees", self.degrees, -360, 360)
        need_range(self.kind, "clusters", self.clusters, 0, inf)

    def moves(self, data: FederatedData, key: Key) -> Mapping[str, Move]:
        """Every client whose angle is no multiple of 360."""
        need_images(self.kind, data)
        groups = self.clusters or len(data.clients)
        angles = {client: self.degrees * (i % groups) / groups for i, client in enumerate(data.clients)}
        return {
            client: Move(f"rotated by {angle:.4g} degrees", partial(rotate, angle))
            for client, angle in angles.items()
            if angle % 360
        }


def rotate(angle: float, images: Tensor) -> Tensor:
    """Images `[n, C, H, W]` turned anticlockwise about their centre by `angle` degrees.

    >>> rotate(90.0, torch.tensor([[[[1.0, 2.0], [3.0, 4.0]]]])).tolist()
    [[[[2.0, 4.0], [1.0, 3.0]]]]
    """
    height, width = images.shape[-2:]
    if angle % 180 == 0 or (angle % 90 == 0 and height == width):
        return torch.rot90(images, int(angle // 90) % 4, (-2, -1))
    c, s = cos(radians(angle)), sin(radians(angle))
    turn = torch.tensor([[c, -s * height / width, 0.0], [s * width / height, c, 0.0]], dtype=images.dtype)
    turned = torch.empty_like(images)
    for start in range(0, len(images), _CHUNK):
        part = images[start : start + _CHUNK]
        grid = torch.nn.functional.affine_grid(turn.expand(len(part), 2, 3), list(part.shape), align_corners=False)
        turned[start : start + _CHUNK] = torch.nn.functional.grid_sample(
            part, grid, mode="bilinear", padding_mode="border", align_corners=False
        )
    return turned


@dataclass(frozen=True)
class Colour(Shift):
    """`colour`: each client sees channel c as (1 + g_c) x_c + b_c, with g_c and b_c of its own.

    x `[C, H, W]`, values as loaded and not clipped; g_c ~ U(-gain, gain), b_c ~ U(-bias, bias), one draw per client
    and channel.  On grey images it is contrast and brightness.  Neutral: gain 0 and bias 0.

    Raises:
        ConfigError: a gain outside 0..1, or a negative bias.

    Reference: images from different cameras and scanners, as in FedBN, arXiv 2102.07623, section 1.

    >>> Colour(gain=0.2)
    Colour(gain=0.2, bias=0.0)
    """

    kind: ClassVar[str] = "colour"
    gain: float = 0.0
    bias: float = 0.0

    def check(self) -> None:
        """Half-widths of the two draws."""
        need_half_widths(self.kind, gain=self.gain, bias=self.bias)

    def moves(self, data: FederatedData, key: Key) -> Mapping[str, Move]:
        """Every client, unless both are 0."""
        need_images(self.kind, data)
        if self.gain == self.bias == 0:
            return {}
        moves = {}
        for client in data.clients:
            gains, biases = affine_draws(key.derive(client), data.input_shape[0], self.gain, self.bias)
            summary = f"channels times {_listed(gains)} plus {_listed(biases)}"
            moves[client] = Move(summary, partial(_affine, gains[:, None, None], biases[:, None, None]))
        return moves


def affine_draws(key: Key, count: int, gain: float, bias: float) -> tuple[Tensor, Tensor]:
    """`count` factors 1 + U(-gain, gain) and `count` offsets U(-bias, bias), float64."""
    gains = 1.0 + gain * (2.0 * key.derive("gain").uniform(count) - 1.0)
    return gains, bias * (2.0 * key.derive("bias").uniform(count) - 1.0)


def _affine(gains: Tensor, biases: Tensor, inputs: Tensor) -> Tensor:
    return inputs * gains.to(inputs.dtype) + biases.to(inputs.dtype)


@dataclass(frozen=True)
class Stain(Shift):
    """`stain`: each client's slides hold other amounts of haematoxylin and eosin, as if from another laboratory.

    x `[3, H, W]` of RGB intensities in 0..1.  OD = -log10(max(x, 1/255)); s = OD M^-1, where the rows of M are the
    unit vectors of haematoxylin, eosin and DAB; s_k' = (1 + a_k) s_k + b_k for the first two, with
    a_k ~ U(-scale, scale) and b_k ~ U(-offset, offset) drawn once per client; x' = 10^(-s' M), clipped to 0..1.
    Neutral: scale 0 and offset 0.

    Raises:
        ConfigError: a scale outside 0..1, or a negative offset.

    Reference: Ruifrok and Johnston, Anal. Quant. Cytol. Histol. 23 (2001) 291-299 (deconvolution and M); Tellez et
    al., arXiv 1808.05896 (scale and offset per stain).

    >>> Stain(scale=0.3)
    Stain(scale=0.3, offset=0.0)
    """

    kind: ClassVar[str] = "stain"
    scale: float = 0.0
    offset: float = 0.0

    def check(self) -> None:
        """Half-widths of the two draws."""
        need_half_widths(self.kind, scale=self.scale, offset=self.offset)

    def moves(self, data: FederatedData, key: Key) -> Mapping[str, Move]:
        """Every client, unless both are 0."""
        need_images(self.kind, data, channels=(3,))
        low, high = float(data.store.inputs.min()), float(data.store.inputs.max())
        if data.store.inputs.is_floating_point() and not 0.0 <= low <= high <= 1.0:
            raise DataError(
                f"the shift {self.kind!r} needs intensities from 0 to 1, but {data.name!r} holds {low:.3g} to "
                f"{high:.3g}; let it come before shifts that leave that range, or scale the images."
            )
        if self.scale == self.offset == 0:
            return {}
        moves = {}
        for client in data.clients:
            scales, offsets = affine_draws(key.derive(client), 2, self.scale, self.offset)
            summary = f"haematoxylin and eosin times {_listed(scales)} plus {_listed(offsets)}"
            moves[client] = Move(summary, partial(restain, scales, offsets))
        return moves


def restain(scales: Tensor, offsets: Tensor, images: Tensor) -> Tensor:
    """Images `[n, 3, H, W]` in 0..1 whose first two stains became scales * s + offsets (float64 `[2]`)."""
    rows = torch.tensor(STAINS, dtype=torch.float64)
    to_rgb = rows / rows.norm(dim=1, keepdim=True)
    factors = torch.cat([scales, scales.new_ones(1)])
    # the whole change is affine in optical density: OD' = OD M^-1 diag(factors) M + (offsets, 0) M
    mix = to_rgb.inverse() @ torch.diag(factors) @ to_rgb
    add = torch.cat([offsets, offsets.new_zeros(1)]) @ to_rgb
    return _by_chunks(images, partial(_restained, mix.to(images.dtype), add.to(images.dtype)[:, None, None]))


def _restained(mix: Tensor, add: Tensor, images: Tensor) -> Tensor:
    density = -torch.log10(images.clamp(min=_DARKEST))
    return torch.pow(10.0, -(torch.einsum("nchw,cd->ndhw", density, mix) + add)).clamp(0.0, 1.0)


def _by_chunks(images: Tensor, change: Callable[[Tensor], Tensor]) -> Tensor:
    """`change` of all images, some at a time, so that its intermediates stay small."""
    changed = torch.empty_like(images)
    for start in range(0, len(images), _CHUNK):
        changed[start : start + _CHUNK] = change(images[start : start + _CHUNK])
    return changed


def _listed(values: Tensor) -> str:
    return "/".join(f"{value:.2f}" for value in values.tolist())

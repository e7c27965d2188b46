"""A random rotation that spreads a vector evenly over its coordinates, and its exact inverse."""

from __future__ import annotations

import math
from functools import lru_cache

import torch
from torch import Tensor

from headway.numerics.keys import Key

BITS = 63  # of a drawn integer, each the sign of one coordinate
FAILURE = 1e-6  # the probability that some coordinate of a rotated vector is larger than `spread` says


def hadamard(x: Tensor) -> Tensor:
    """The orthonormal Walsh-Hadamard transform of vectors `[..., n]`, n a power of two; its own inverse.

    The additions are those of every vector by itself, so that many at once have the bits of one by one.

    >>> hadamard(torch.tensor([2.0, 0.0, 0.0, 0.0])).tolist()
    [1.0, 1.0, 1.0, 1.0]
    """
    size = x.shape[-1]
    assert size & (size - 1) == 0
    for _ in range(size.bit_length() - 1):  # each pass turns the bits of the places by one, all of them once around
        even, odd = x[..., ::2], x[..., 1::2]
        x = torch.cat([even + odd, even - odd], dim=-1)
    return x / math.sqrt(size)


def rotated(x: Tensor, key: Key) -> Tensor:
    """Vectors `[..., d]`, rotated: random signs, then the transform.

    With m the largest power of two up to d, the first m coordinates are turned, and then the last m.  So the length
    stays d, and each coordinate of the result is sub-Gaussian with variance `||x||^2 / m`, over the signs.

    Reference: Ailon, Chazelle, "The fast Johnson-Lindenstrauss transform", SIAM J. Comput. 2009; Suresh et al., arXiv
    1611.00429, section 3; Kairouz, Liu, Steinke, arXiv 2102.06387, section 4.
    Differs from the papers: two overlapping blocks, where they fill up with zeros to a power of two.
    """
    size = x.shape[-1]
    m = block(size)
    for place, start in enumerate(_starts(size, m)):
        turned = hadamard(x[..., start : start + m] * signs(key.derive(place), m).to(x))
        x = torch.cat([x[..., :start], turned, x[..., start + m :]], dim=-1)
    return x


def turned_back(x: Tensor, key: Key) -> Tensor:
    """The vectors `[..., d]` of which `rotated` makes these."""
    size = x.shape[-1]
    m = block(size)
    for place, start in reversed(list(enumerate(_starts(size, m)))):
        back = hadamard(x[..., start : start + m]) * signs(key.derive(place), m).to(x)
        x = torch.cat([x[..., :start], back, x[..., start + m :]], dim=-1)
    return x


def spread(size: int) -> float:
    """How large a coordinate of a rotated vector of length 1 is at most, but for a probability of 10^-6.

    Formula: `min(1, sqrt(2 log(2 d / 10^-6) / m))`, the union bound over sub-Gaussian coordinates.

    >>> spread(3), round(spread(1_000_000), 4)
    (1.0, 0.0104)
    """
    return min(1.0, math.sqrt(2 * math.log(2 * size / FAILURE) / block(size)))


def block(size: int) -> int:
    """The largest power of two that is not above the size."""
    return 1 << (size.bit_length() - 1)


def _starts(size: int, m: int) -> tuple[int, ...]:
    return (0,) if size == m else (0, size - m)


@lru_cache(maxsize=4)
def signs(key: Key, count: int) -> Tensor:
    """Uniform signs, float64 `[count]`; the tensor of the last call, which is not to be written to."""
    drawn = key.bits(-(-count // BITS)).unsqueeze(-1) >> torch.arange(BITS) & 1
    return 1.0 - 2.0 * drawn.reshape(-1)[:count].double()

"""Stochastic rounding of reals to whole numbers, repeated until the vector is short enough."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from headway.numerics.keys import Key, Keys

BETA = math.exp(-0.5)  # the share of draws that may be refused at most, of the paper's section 4
ATTEMPTS = 64  # after which a vector is rounded towards zero, which cannot make it longer


def stochastic_rounding(x: Tensor, uniform: Tensor) -> Tensor:
    """`floor(x)` plus 1 with the probability of the fraction of x, for uniform numbers in [0, 1): the mean is x.

    >>> stochastic_rounding(torch.tensor([0.25, -1.5, 2.0]), torch.tensor([0.2, 0.4, 0.0])).tolist()
    [1.0, -1.0, 2.0]
    """
    low = x.floor()
    return low + (uniform < x - low)


def rounded_norm(norm: float, size: int, beta: float = BETA) -> float:
    """The L2 norm to which conditional rounding limits a vector `[size]` of at most this norm.

    Formula: `min(sqrt(c^2 + d / 4 + sqrt(2 log(1 / beta)) (c + sqrt(d) / 2)), c + sqrt(d))`, c being the norm and d the
    size.  A draw of stochastic rounding is longer with a probability of at most beta.

    Reference: Kairouz, Liu, Steinke, arXiv 2102.06387, section 4, at a granularity of 1.

    >>> round(rounded_norm(3.0, 1), 2), round(rounded_norm(1000.0, 10_000), 2)
    (3.57, 1001.77)
    """
    spread = math.sqrt(2 * math.log(1 / beta)) * (norm + math.sqrt(size) / 2)
    return min(math.sqrt(norm * norm + size / 4 + spread), norm + math.sqrt(size))


def conditional_rounding(x: Tensor, key: Key | Keys, limit: float) -> Tensor:
    """Stochastic rounding of `[..., d]`, drawn again while its L2 norm is above the limit; one key per client.

    Each draw reads its own child of the key, so that many clients at once are rounded as one by one.  The condition
    makes the mean differ from x by at most `beta / (1 - beta) sqrt(d)`, and by far less for vectors of many
    coordinates, of which hardly one draw is refused.

    Reference: Kairouz, Liu, Steinke, arXiv 2102.06387, Algorithm 1 (client procedure) and section 4.
    Differs from the paper: after 64 refused draws the vector is rounded towards zero; with the limit of
    `rounded_norm` that has a probability below 1e-14.
    """
    size = x.shape[-1]
    rounded = stochastic_rounding(x, _drawn(key, 0, size, x))
    for attempt in range(1, ATTEMPTS):
        long = _too_long(rounded, limit)
        if not bool(long.any()):
            return rounded
        if isinstance(key, Key):
            rounded = stochastic_rounding(x, _drawn(key, attempt, size, x))
        else:
            rows = long.nonzero().flatten().tolist()
            rounded[rows] = stochastic_rounding(x[rows], _drawn(key.chosen(rows), attempt, size, x))
    return torch.where(_too_long(rounded, limit).unsqueeze(-1), x.trunc(), rounded)


def _drawn(key: Key | Keys, attempt: int, size: int, like: Tensor) -> Tensor:
    """The uniform numbers of one draw."""
    return key.derive("rounding", attempt).uniform(size).to(like.device)


def _too_long(rounded: Tensor, limit: float) -> Tensor:
    norm: Tensor = torch.linalg.vector_norm(rounded, dim=-1)
    return norm > limit

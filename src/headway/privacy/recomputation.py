"""The epsilon of spends, computed again without the library: losses on a grid, composed by Fourier transforms.

What the ledger's accountant says is checked by other code: another discretisation (the mean of the loss is kept exact,
where the library rounds so that a connected curve stays above), another composition, another search for epsilon.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from headway.privacy.renyi import renyi_epsilon
from headway.privacy.spends import Spend

Numbers = NDArray[np.float64]
POINTS = 1 << 18  # of the grid
TOLERANCE = 1e-3  # the difference that is taken for agreement, relative where epsilon is above 1


def recomputed_epsilon(counts: Mapping[Spend, int], delta: float) -> float | None:
    """The epsilon at a delta of spends; `None` where there is no second way: of truncated samples.

    With `L(x) = log(1 - q + q e^((2 x - 1) / (2 z^2)))` the loss of a sampled Gaussian is `L(x)` for x from the mixture
    (a client is removed), or `-L(x)` for x from N(0, z^2) (one is added); the larger epsilon of the two counts.  Of
    Skellam noise it is the same bound, since there is no other.

    Reference: Gopi, Lee and Wutschitz, arXiv 2106.02848, Algorithm 1.

    >>> round(recomputed_epsilon({Spend(1.0): 1}, 1e-5), 2)
    4.38
    """
    counts = {spend: times for spend, times in counts.items() if times}
    if not counts:
        return 0.0
    if any(spend.noise_multiplier == 0 for spend in counts):
        return math.inf
    if any(spend.skellam for spend in counts):
        return renyi_epsilon(counts, delta)
    if any(spend.most is not None for spend in counts):
        return None
    width = 1.2 * max(renyi_epsilon(counts, delta * 1e-4), 1.0) + 2.0  # beyond which less than delta / 10^4 lies
    return max(_one_direction(counts, delta, width, removed) for removed in (True, False))


def _one_direction(counts: Mapping[Spend, int], delta: float, width: float, removed: bool) -> float:
    """The epsilon if a unit is removed, or added."""
    step = 2 * width / POINTS
    losses: Numbers = (np.arange(POINTS, dtype=np.float64) - POINTS // 2) * step
    spectrum: NDArray[np.complex128] = np.ones(POINTS // 2 + 1, dtype=np.complex128)
    shift = 0.0
    for spend, times in counts.items():
        edges = np.append(losses - step / 2, losses[-1] + step / 2)
        masses = np.diff(_distribution(spend, edges, removed))
        masses /= masses.sum()
        shift += times * (_mean_loss(spend, removed) - float(masses @ losses))
        spectrum *= np.fft.rfft(np.fft.ifftshift(masses)) ** times
    composed: Numbers = np.maximum(np.fft.fftshift(np.fft.irfft(spectrum, POINTS)), 0.0)
    return _epsilon_of(np.asarray(losses + shift, dtype=np.float64), composed, delta)


def _distribution(spend: Spend, loss: Numbers, removed: bool) -> Numbers:
    """The probability that the privacy loss is at most so much."""
    z, q = spend.noise_multiplier, spend.rate
    with np.errstate(over="ignore", divide="ignore", invalid="ignore"):
        level = np.exp(loss if removed else -loss)
        # x at which L(x) is that level; below the least level there is none
        ratio = np.where(level > 1 - q, (level - (1 - q)) / q, 0.0)
        x = z * z * np.log(ratio) + 0.5
        if q == 1:
            x = z * z * (loss if removed else -loss) + 0.5
    if removed:
        return (1 - q) * _normal(x / z) + q * _normal((x - 1) / z)
    return _normal(-x / z)


def _mean_loss(spend: Spend, removed: bool) -> float:
    """The mean of the privacy loss, by a sum over a fine grid of outputs."""
    z, q = spend.noise_multiplier, spend.rate
    x = np.linspace(-14 * z, 1 + 14 * z, 400_001)
    exponent = (2 * x - 1) / (2 * z * z)
    loss = exponent if q == 1 else np.logaddexp(math.log1p(-q), math.log(q) + exponent)
    base, moved = np.exp(-((x / z) ** 2) / 2), np.exp(-(((x - 1) / z) ** 2) / 2)
    density = (1 - q) * base + q * moved if removed else base
    mean = float((density * loss).sum() / density.sum())
    return mean if removed else -mean


def _epsilon_of(losses: Numbers, masses: Numbers, delta: float) -> float:
    """The least epsilon for which `sum (1 - e^(epsilon - y)) p(y)` over larger losses y is at most delta."""
    order = slice(None, None, -1)
    above = np.cumsum(masses[order])[order]
    weighed = np.cumsum((masses * np.exp(-np.clip(losses, -50, 700)))[order])[order]
    low, high = 0.0, float(losses[-1])
    for _ in range(100):
        middle = (low + high) / 2
        place = int(np.searchsorted(losses, middle, side="right"))
        found = above[place] - math.exp(min(middle, 700)) * weighed[place] if place < len(losses) else 0.0
        low, high = (middle, high) if found > delta else (low, middle)
    return high


def _normal(x: Numbers) -> Numbers:
    from scipy.special import ndtr

    return np.asarray(ndtr(x))

"""The exact privacy of Gaussian noise without sampling, in closed form."""

from __future__ import annotations

import math


def gaussian_delta(noise_multiplier: float, epsilon: float) -> float:
    """The smallest delta of Gaussian noise of `noise_multiplier` times the sensitivity, at an epsilon.

        delta = Phi(1/(2 z) - epsilon z) - e^epsilon Phi(-1/(2 z) - epsilon z)

    T releases with multiplier z are one with z / sqrt(T).  It is exact for any epsilon, unlike
    `sqrt(2 ln(1.25 / delta)) / epsilon`, which holds below epsilon 1 only.

    Reference: Balle and Wang, arXiv 1805.06530, Theorem 8.

    >>> round(gaussian_delta(1.0, 4.377178) * 1e5, 4)
    1.0
    """
    if noise_multiplier == 0:
        return 1.0
    mean = 1 / noise_multiplier
    first = _normal(mean / 2 - epsilon / mean)
    log_second = epsilon + _log_normal(-mean / 2 - epsilon / mean)
    return max(0.0, first - math.exp(log_second)) if log_second < 0 else max(0.0, first - 1.0)


def gaussian_epsilon(noise_multiplier: float, delta: float) -> float:
    """The smallest epsilon of Gaussian noise of `noise_multiplier` times the sensitivity, at a delta.

    >>> round(gaussian_epsilon(2 / 16**0.5, 1e-6), 6), round(gaussian_epsilon(1.0, 1e-5), 6)
    (10.997151, 4.377178)
    """
    if noise_multiplier == 0:
        return math.inf
    if math.isinf(noise_multiplier) or gaussian_delta(noise_multiplier, 0.0) <= delta:
        return 0.0
    low, high = 0.0, 1.0
    while gaussian_delta(noise_multiplier, high) > delta:
        low, high = high, high * 2
        if high > 1e8:
            return math.inf
    while high - low > 1e-12 * max(1.0, high):
        middle = (low + high) / 2
        if middle in (low, high):
            break
        low, high = (middle, high) if gaussian_delta(noise_multiplier, middle) > delta else (low, middle)
    return high


def _normal(x: float) -> float:
    """The distribution function of the standard normal distribution."""
    return math.erfc(-x / math.sqrt(2)) / 2


def _log_normal(x: float) -> float:
    """Its logarithm, also far in the lower tail, where the function itself is 0 in floating point."""
    if x > -35:
        return math.log(_normal(x))
    return -x * x / 2 - math.log(-x) - math.log(2 * math.pi) / 2 + math.log1p(-1 / x**2 + 3 / x**4 - 15 / x**6)

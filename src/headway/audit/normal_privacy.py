"""The privacy of a Gaussian mechanism, from its noise, and of two normal distributions."""

from __future__ import annotations

import math

LARGEST = 1e6  # an epsilon above which nothing is promised


def gaussian_delta(epsilon: float, multiplier: float) -> float:
    """The delta at which the Gaussian mechanism is (epsilon, delta)-private.

    Formula: `delta = Phi(1/(2z) - epsilon z) - e^epsilon Phi(-1/(2z) - epsilon z)`, z being the standard deviation of
    the noise over the sensitivity.

    Reference: Balle and Wang, arXiv 1805.06530, Theorem 8.
    """
    from scipy.special import log_ndtr

    half, slope = 1 / (2 * multiplier), epsilon * multiplier
    return math.exp(log_ndtr(half - slope)) - math.exp(min(epsilon + log_ndtr(-half - slope), 700.0))


def gaussian_epsilon(multiplier: float, delta: float) -> float:
    """The smallest epsilon at which the Gaussian mechanism is (epsilon, delta)-private; infinite without noise.

    >>> round(gaussian_epsilon(1.0, 1e-5), 4)
    4.3772
    >>> gaussian_epsilon(0.0, 1e-5)
    inf
    """
    if multiplier <= 0:
        return math.inf
    if gaussian_delta(0.0, multiplier) <= delta:
        return 0.0
    low, high = 0.0, 1.0
    while gaussian_delta(high, multiplier) > delta:
        low, high = high, 2 * high
        if high > LARGEST:
            return math.inf
    for _ in range(80):
        middle = (low + high) / 2
        low, high = (middle, high) if gaussian_delta(middle, multiplier) > delta else (low, middle)
    return high

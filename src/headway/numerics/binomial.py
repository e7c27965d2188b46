"""Binomial coefficients and probabilities as logarithms, in which large ones do not overflow."""

from __future__ import annotations

import math


def log_choose(n: int, k: int) -> float:
    """The logarithm of the number of ways to choose k of n.

    >>> round(log_choose(1_000_000, 500_000), 3)
    693140.047
    """
    return math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)


def log_probability(n: int, k: int, chance: float) -> float:
    """The logarithm of the probability of k successes in n independent trials, for a chance between 0 and 1.

    >>> round(math.exp(log_probability(3, 2, 0.5)), 9)
    0.375
    """
    return log_choose(n, k) + (n - k) * math.log1p(-chance) + k * math.log(chance)

"""Renyi differential privacy: of Gaussian and Skellam noise, of Poisson samples, and its epsilon at a delta.

It is what the bound for Skellam noise is stated in.  Only for adding or removing a unit, or replacing it by nothing:
for replacement by another unit the sampled bounds do not hold.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import lru_cache

from headway.numerics.binomial import log_probability
from headway.privacy.spends import Spend

ORDERS = (*range(2, 65), *range(66, 129, 2), *range(132, 257, 4), 320, 384, 448, 512, 640, 768, 1024)


def renyi_epsilon(counts: Mapping[Spend, int], delta: float, orders: Sequence[int] = ORDERS) -> float:
    """The epsilon at a delta of composed spends; every Renyi divergence is a bound, so the epsilon is one.

        epsilon = min over a of  R(a) + log((a - 1) / a) - (log delta + log a) / (a - 1)

    orders: those that are tried; with fewer the epsilon is larger.

    Reference: Canonne, Kamath and Steinke, arXiv 2004.00010, Proposition 12.
    """
    if not counts:
        return 0.0
    best = math.inf
    for order in orders:
        total = math.fsum(times * spend_divergence(spend, order) for spend, times in counts.items())
        if math.isfinite(total):
            found = total + math.log1p(-1 / order) - (math.log(delta) + math.log(order)) / (order - 1)
            best = min(best, max(0.0, found))
    return best


@lru_cache(maxsize=4096)
def spend_divergence(spend: Spend, order: int) -> float:
    """The Renyi divergence of whole order of a spend, with the amplification by its Poisson sample.

    Of Gaussian noise alone (Mironov, Talwar and Zhang, arXiv 1908.10530, section 3.3), with `z` the multiplier:

        R(a) = log(sum_k C(a, k) (1 - q)^(a - k) q^k e^(k (k - 1) / (2 z^2))) / (a - 1)

    A sample that is cut, or of which there is Skellam noise, is passed over here: the spend counts without
    amplification then.
    """
    if spend.noise_multiplier == 0:
        return math.inf
    if spend.rate == 1 or spend.most is not None or spend.skellam:
        return plain_divergence(spend, order)
    terms = [
        log_probability(order, k, spend.rate) + k * (k - 1) / (2 * spend.noise_multiplier**2) for k in range(order + 1)
    ]
    return _log_sum(terms) / (order - 1)


def plain_divergence(spend: Spend, order: int) -> float:
    """The Renyi divergence of a spend without sampling; those of its releases add up.

    Of Skellam noise with variance m and whole-numbered sensitivities D1 (L1) and D2 (L2):

        R(a) = a D2^2 / (2 m) + min(((2 a - 1) D2^2 + 6 D1) / (4 m^2), 3 D1 / (2 m))

    Reference: Agarwal, Kairouz and Liu, arXiv 2110.04995, Theorem 3.5.
    """
    total = 0.0 if math.isinf(spend.noise_multiplier) else order / (2 * spend.noise_multiplier**2)
    for l1, l2, variance in spend.skellam:
        if variance <= 0:
            return math.inf
        rest = min(((2 * order - 1) * l2**2 + 6 * l1) / (4 * variance**2), 3 * l1 / (2 * variance))
        total += order * l2**2 / (2 * variance) + rest
    return total


def _log_sum(terms: list[float]) -> float:
    top = max(terms)
    return top if math.isinf(top) else top + math.log(math.fsum(math.exp(term - top) for term in terms))

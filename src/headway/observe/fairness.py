"""The evenness of a model's metric over clients, in five numbers."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class Fairness:
    """Statistics of one model's values at n clients x_1 .. x_n; every client counts once, whatever its size.

    mean:         m = sum x_i / n
    variance:     sum (x_i - m)^2 / n, of the population and not of a sample
    worst:        the lowest x_i; the highest where a small value is a good one
    worst_decile: the mean of the worst k, with k = n / 10 rounded down and at least one
    jain:         (sum x_i)^2 / (n sum x_i^2), between 1/n (one client has all) and 1 (all have the same)

    Jain's index is for values that are not negative, and 1 where all are zero.

    Reference: Jain, Chiu and Hawe, DEC research report TR-301 (1984), equation 2; Li et al., arXiv 1905.10497,
    section 4, for the variance and the worst decile over clients.
    """

    mean: float
    variance: float
    worst: float
    worst_decile: float
    jain: float


def fairness(values: Iterable[float], lower_is_better: bool = False) -> Fairness:
    """The fairness of clients' values; all five numbers are NaN where there are none.

    Values that are NaN (a metric that is not defined at a client) are left out; an infinite one leaves the variance
    and Jain's index undefined.

    >>> fairness([1.0, 0.0])
    Fairness(mean=0.5, variance=0.25, worst=0.0, worst_decile=0.0, jain=0.5)
    >>> fairness([1.0, 3.0], lower_is_better=True).worst_decile
    3.0
    """
    known = sorted((value for value in values if not math.isnan(value)), reverse=lower_is_better)
    if not known:
        return Fairness(*[math.nan] * 5)
    worst = known[: max(len(known) // 10, 1)]
    unit = max(map(abs, known)) or 1.0  # sums are of values of at most 1, whose squares cannot overflow
    if math.isinf(unit):
        return Fairness(sum(known) / len(known), math.nan, known[0], sum(worst) / len(worst), math.nan)
    scaled = [value / unit for value in known]
    mean, squares = statistics.fmean(scaled), math.fsum(value**2 for value in scaled)
    return Fairness(
        mean * unit,
        statistics.fmean((value - mean) ** 2 for value in scaled) * unit * unit,
        known[0],
        statistics.fmean(value / unit for value in worst) * unit,
        math.fsum(scaled) ** 2 / (len(scaled) * squares) if squares else 1.0,
    )

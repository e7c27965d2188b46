"""Poisson and Skellam numbers from a cryptographic generator."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from headway.numerics.secure_random import AT_A_TIME, SecureStream

SMALL = 10.0  # a mean below which the distribution function is tabled
SERIES = 0.1  # a relative deviation below which a series is more precise than the logarithm
FEW = 20.0  # below which the logarithm of a factorial is not taken from its series
STIRLING = (1 / 12, -1 / 360, 1 / 1260, -1 / 1680)


def skellam(stream: SecureStream, variance: float, count: int) -> Tensor:
    """`count` numbers of the symmetric Skellam distribution, int64 `[count]`: mean 0, this variance.

    Formula: `X - Y`, X and Y being Poisson with the mean `variance / 2`.  The sum of n such numbers is Skellam with n
    times the variance, so shares of noise add up to noise of the same kind.

    Reference: Agarwal, Kairouz, Liu, arXiv 2110.04995, section 3.

    >>> from headway.numerics.keys import Key
    >>> skellam(SecureStream(Key.root(0)), 4.0, 5).tolist()
    [-1, 2, -2, 1, -2]
    """
    return skellam_of_each([stream], variance, count)[0]


def skellam_of_each(streams: Sequence[SecureStream], variance: float, count: int) -> Tensor:
    """`skellam` of each of many streams, int64 `[C, count]`."""
    return poisson_of_each(streams, variance / 2, count).sub_(poisson_of_each(streams, variance / 2, count))


def poisson(stream: SecureStream, mean: float, count: int) -> Tensor:
    """`count` numbers of the Poisson distribution, int64 `[count]`, with the probabilities of float64.

    Means from 10 on by transformed rejection, smaller ones by a table of the distribution function.

    Reference: Hoermann, "The transformed rejection method for generating Poisson random variables", Insurance:
    Mathematics and Economics 12, 1993, algorithm PTRS; Loader, "Fast and accurate computation of binomial
    probabilities", 2000, for the logarithms of probabilities.
    Differs from the paper: the probability is compared as `log p(k)` by its deviance, which loses no digits at
    means of millions.
    """
    return poisson_of_each([stream], mean, count)[0]


def poisson_of_each(streams: Sequence[SecureStream], mean: float, count: int) -> Tensor:
    """`poisson` of each of many streams, int64 `[C, count]`; a stream gives what it would give by itself."""
    if mean < SMALL:
        table = _table(mean)
        found = [torch.searchsorted(table, stream.uniform(count), right=True) for stream in streams]
        return torch.stack(found) if found else torch.empty(0, count, dtype=torch.int64)
    drawn = torch.empty(len(streams), count, dtype=torch.int64)
    together = max(1, AT_A_TIME // max(count, 1))
    for first in range(0, len(streams), together):
        lanes = slice(first, first + together)
        for start in range(0, count, AT_A_TIME):
            _fill(streams[lanes], mean, drawn[lanes, start : start + AT_A_TIME])
    return drawn


def _fill(streams: Sequence[SecureStream], mean: float, room: Tensor) -> None:
    """Writes the next Poisson numbers of each stream, by rejection, into its row."""
    width, flat = room.shape[1], room.view(-1)
    left, counts = torch.arange(len(flat)), [width] * len(streams)
    while len(left):
        tried, kept = _tries(streams, mean, counts)
        flat[left[kept]] = tried[kept].to(torch.int64)
        left = left[~kept]
        counts = torch.bincount(left // width, minlength=len(streams)).tolist()


def _tries(streams: Sequence[SecureStream], mean: float, counts: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Candidates, so many of each stream, and which of them are accepted."""
    b = 0.931 + 2.53 * math.sqrt(mean)
    a = -0.059 + 0.02483 * b
    going = [(stream, count) for stream, count in zip(streams, counts, strict=True) if count]
    drawn = [(stream.uniform(count), stream.uniform(count)) for stream, count in going]
    u, v = drawn[0] if len(drawn) == 1 else map(torch.cat, zip(*drawn, strict=True))
    u = u - 0.5
    inside = 0.5 - u.abs()
    k = torch.floor((2 * a / inside + b) * u + mean + 0.43)
    kept = (inside >= 0.07) & (v <= 0.9277 - 3.6224 / (b - 2))
    unsure = torch.nonzero(~kept & (k >= 0) & ((inside >= 0.013) | (v <= inside))).squeeze(-1)
    inside, v = inside[unsure], v[unsure]
    height = torch.log(v * (1.1239 + 1.1328 / (b - 3.4)) / (a / inside.square() + b))
    kept[unsure] = height <= _log_probability(k[unsure], mean)
    return k, kept


def _log_probability(k: Tensor, mean: float) -> Tensor:
    """`log(mean^k e^-mean / k!)` of whole numbers k >= 0, float64."""
    some = k.clamp_min(1.0)
    deviation = (mean - some) / some
    series = torch.zeros_like(some)
    for power in range(13, 1, -1):  # deviation - log(1 + deviation), by its terms
        series = (series + (1 if power % 2 == 0 else -1) / power) * deviation
    series = series * deviation
    deviance = torch.where(deviation.abs() < SERIES, series, deviation - torch.log1p(deviation)) * some
    rest = torch.zeros_like(some)
    for term in reversed(STIRLING):
        rest = rest / some.square() + term
    rest = rest / some
    if len(few := torch.nonzero(some < FEW).squeeze(-1)):
        low = some[few]
        rest[few] = torch.lgamma(low + 1) - (low + 0.5) * torch.log(low) + low - 0.5 * math.log(2 * math.pi)
    found = -0.5 * torch.log(2 * math.pi * some) - rest - deviance
    return torch.where(k >= 1, found, -mean)


def _table(mean: float) -> Tensor:
    """The distribution function of a small mean, float64: `P(X <= 0), P(X <= 1), ...` up to what float64 can tell from
    1."""
    probability, total, sums = math.exp(-mean), 0.0, []
    for k in range(1, 200):
        total += probability
        sums.append(total)
        probability *= mean / k
    return torch.tensor(sums, dtype=torch.float64)

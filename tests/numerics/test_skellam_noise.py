"""Poisson and Skellam numbers have the distribution that they are named for."""

import math

import mpmath
import pytest
import torch
from scipy import stats

from headway.numerics import skellam_noise as drawn
from headway.numerics.keys import Key
from headway.numerics.secure_random import AT_A_TIME, SecureStream
from headway.numerics.skellam_noise import poisson, skellam, skellam_of_each

COUNT = 200_000


def stream(*parts):
    return SecureStream(Key.root(17).derive("skellam", *parts))


@pytest.mark.parametrize("mean", [10.0, 37.5, 1e4, 3.3e7, 5e11])
def test_logarithms_of_probabilities_keep_their_digits(mean):
    mpmath.mp.dps = 40
    points = sorted({max(0, round(mean + s * math.sqrt(mean))) for s in (-8, -3, -1, 0, 1, 5, 12)} | {0, 1, 19, 20})
    found = drawn._log_probability(torch.tensor(points).double(), mean).tolist()
    for k, ours in zip(points, found, strict=True):
        exact = k * mpmath.log(mpmath.mpf(mean)) - mpmath.mpf(mean) - mpmath.loggamma(k + 1)
        assert ours == pytest.approx(float(exact), rel=1e-12, abs=1e-11)


@pytest.mark.parametrize("mean", [0.0, 0.3, 4.0, 9.99, 10.0, 25.0, 900.0])
def test_poisson_frequencies_are_those_of_the_distribution(mean):
    """Chi-squared over cells of at least 20 expected numbers; a right generator fails one time in 10^6."""
    numbers = poisson(stream("poisson", str(mean)), mean, COUNT)
    assert numbers.dtype == torch.int64
    if mean == 0:
        assert not bool(numbers.any())
        return
    assert passes(numbers, stats.poisson(mean))


@pytest.mark.parametrize("variance", [0.5, 6.0, 19.9, 21.0, 800.0])
def test_skellam_frequencies_are_those_of_the_distribution(variance):
    numbers = skellam(stream("skellam", str(variance)), variance, COUNT)
    assert passes(numbers, stats.skellam(variance / 2, variance / 2))


def passes(numbers, distribution):
    low, high = int(numbers.min()), int(numbers.max())
    expected = [distribution.pmf(k) * len(numbers) for k in range(low, high + 1)]
    expected[0] += distribution.cdf(low - 1) * len(numbers)
    expected[-1] += distribution.sf(high) * len(numbers)
    observed = torch.bincount(numbers - low, minlength=len(expected)).tolist()
    cells, held = [], [0.0, 0]
    for wanted, found in zip(expected, observed, strict=True):
        held = [held[0] + wanted, held[1] + found]
        if held[0] >= 20:
            cells.append(held)
            held = [0.0, 0]
    cells[-1] = [cells[-1][0] + held[0], cells[-1][1] + held[1]]
    statistic = sum((found - wanted) ** 2 / wanted for wanted, found in cells)
    return stats.chi2.sf(statistic, len(cells) - 1) > 1e-6


@pytest.mark.parametrize("variance", [3.0, 1e4, 2.7e9])
def test_moments_and_tails_of_large_variances(variance):
    numbers = skellam(stream("moments", str(variance)), variance, COUNT).double()
    assert abs(float(numbers.mean())) < 6 * math.sqrt(variance / COUNT)
    assert float(numbers.var()) == pytest.approx(variance, rel=6 * math.sqrt((2 + 1 / variance) / COUNT))
    excess = float((numbers**4).mean() / numbers.var() ** 2) - 3
    assert excess == pytest.approx(1 / variance, abs=6 * math.sqrt(96 / COUNT))
    share = float((numbers.abs() > 2 * math.sqrt(variance)).double().mean())
    distribution = stats.skellam(variance / 2, variance / 2) if variance < 1e5 else stats.norm(0, math.sqrt(variance))
    exact = 2 * float(distribution.sf(math.floor(2 * math.sqrt(variance))))
    assert share == pytest.approx(exact, abs=6 * math.sqrt(exact / COUNT))


def test_shares_add_up_to_the_whole():
    """40 shares of a variance are distributed as one number of 40 times the variance."""
    shares = sum(skellam(stream("share", client), 0.5, COUNT) for client in range(40))
    assert passes(shares, stats.skellam(10.0, 10.0))


def test_a_stream_gives_the_same_numbers_again_and_others_from_another_key():
    one = skellam(stream("a"), 50.0, 1000)
    assert torch.equal(skellam(stream("a"), 50.0, 1000), one)
    assert not torch.equal(skellam(stream("b"), 50.0, 1000), one)
    both = stream("a")
    first, second = skellam(both, 50.0, 1000), skellam(both, 50.0, 1000)
    assert torch.equal(first, one)
    assert not torch.equal(second, one)
    assert abs(float(torch.corrcoef(torch.stack([first, second]).double())[0, 1])) < 6 / math.sqrt(1000)


@pytest.mark.parametrize(("variance", "count"), [(3.0, 40), (1e4, 700), (1e4, 0), (1e9, AT_A_TIME + 3)])
def test_many_streams_give_what_each_gives_by_itself(variance, count):
    keys = [Key.root(seed) for seed in range(5 if count < 1000 else 2)]
    together = skellam_of_each([SecureStream(key) for key in keys], variance, count)
    assert torch.equal(together, torch.stack([skellam(SecureStream(key), variance, count) for key in keys]))

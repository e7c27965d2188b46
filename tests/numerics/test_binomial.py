"""Logarithms of binomial coefficients and probabilities: those of whole numbers, and of numbers beyond float64."""

import math

import pytest
from scipy import stats

from headway.numerics.binomial import log_choose, log_probability


@pytest.mark.parametrize(("n", "k"), [(0, 0), (7, 0), (7, 7), (7, 3), (999, 69), (20_000, 7_000)])
def test_it_is_the_logarithm_of_the_whole_number(n, k):
    assert log_choose(n, k) == pytest.approx(math.log(math.comb(n, k)), rel=1e-12, abs=1e-9)


@pytest.mark.parametrize(("n", "k", "chance"), [(5, 2, 0.3), (1999, 700, 0.35), (100_000, 20, 1e-4)])
def test_it_is_the_probability_of_the_distribution(n, k, chance):
    assert log_probability(n, k, chance) == pytest.approx(stats.binom.logpmf(k, n, chance), rel=1e-9)

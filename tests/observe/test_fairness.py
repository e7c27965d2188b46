"""Fairness over clients against closed forms."""

import math
import statistics

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headway.observe.fairness import Fairness, fairness

VALUES = st.lists(st.floats(0, 1), min_size=1, max_size=60)


def test_one_client_that_has_all():
    """(sum x)^2 / (n sum x^2) = 1/n, and the population variance of one 1 among n is (n - 1) / n^2."""
    found = fairness([1.0] + [0.0] * 7)
    assert found == Fairness(pytest.approx(0.125), pytest.approx(7 / 64), 0.0, 0.0, pytest.approx(1 / 8))


def test_an_arithmetic_progression():
    """1 .. n: mean (n+1)/2, variance (n^2-1)/12, Jain 3(n+1) / (2(2n+1))."""
    n = 30
    found = fairness(float(i) for i in range(1, n + 1))
    assert found.mean == pytest.approx((n + 1) / 2)
    assert found.variance == pytest.approx((n**2 - 1) / 12)
    assert found.jain == pytest.approx(3 * (n + 1) / (2 * (2 * n + 1)))
    assert found.worst == 1.0
    assert found.worst_decile == pytest.approx(2.0)  # of 1, 2, 3


@pytest.mark.parametrize(("count", "decile"), [(1, 1), (9, 1), (10, 1), (19, 1), (20, 2), (100, 10)])
def test_the_worst_decile_is_a_tenth_and_at_least_one(count, decile):
    assert fairness([float(i) for i in range(count)]).worst_decile == pytest.approx(statistics.fmean(range(decile)))


def test_where_a_small_value_is_good_the_worst_are_the_highest():
    found = fairness([float(i) for i in range(20)], lower_is_better=True)
    assert (found.worst, found.worst_decile) == (19.0, pytest.approx(18.5))


def test_nothing_and_what_is_not_a_number():
    assert all(math.isnan(each) for each in vars(fairness([])).values())
    assert all(math.isnan(each) for each in vars(fairness([math.nan])).values())
    assert fairness([math.nan, 0.5]) == fairness([0.5])


def test_all_zero_is_even():
    assert fairness([0.0, 0.0]).jain == 1.0


@pytest.mark.parametrize("scale", [1e-200, 1e200])
def test_jain_does_not_depend_on_the_unit(scale):
    assert fairness([scale, 3 * scale]).jain == pytest.approx(0.8)


@given(VALUES)
def test_bounds(values):
    found = fairness(values)
    assert 1 / len(values) - 1e-9 <= found.jain <= 1 + 1e-9
    assert found.worst <= found.worst_decile + 1e-12
    assert found.worst_decile <= found.mean + 1e-9
    assert found == fairness(reversed(values))


def test_an_infinite_loss_is_the_worst_and_not_left_out():
    found = fairness([1.0, math.inf], lower_is_better=True)
    assert (found.mean, found.worst, found.worst_decile) == (math.inf, math.inf, math.inf)
    assert math.isnan(found.variance)
    assert math.isnan(found.jain)

"""A plan: the noise and what it does to the signal, and what would make a federation large enough."""

import math

import pytest

from headway.core.errors import ConfigError
from headway.privacy.noise_plan import USABLE, PrivacyPlan


def plan(**changes):
    numbers = {"population": 800, "cohort": 800, "rounds": 50, "epsilon": 4.0, "delta": 1e-5, "model_size": 40_000}
    return PrivacyPlan(**{**numbers, **changes})


def test_noise_to_signal_is_the_length_of_the_noise_over_the_longest_mean():
    made = plan(clip=0.5)
    length = made.noise_multiplier * 0.5 / 800 * math.sqrt(40_000)  # of the noise on the mean
    assert made.noise_to_signal == pytest.approx(length / 0.5)
    assert made.total_noise_to_signal == pytest.approx(length * math.sqrt(50) / (50 * 0.5))


def test_what_is_too_small_and_what_would_do():
    made = plan(population=20, cohort=20, model_size=400)
    assert made.large_enough is False
    enough = made.sufficient_population
    assert plan(population=enough, cohort=enough, model_size=400).large_enough
    assert plan(population=enough - 2, cohort=enough - 2, model_size=400).large_enough is False
    assert plan(population=20, cohort=20, model_size=made.sufficient_model_size).large_enough
    assert plan(population=20, cohort=20, model_size=400, epsilon=made.sufficient_epsilon * 1.001).large_enough
    assert made.sufficient_epsilon > made.epsilon


def test_what_is_large_enough_needs_nothing_more():
    made = plan()
    assert made.large_enough
    assert made.total_noise_to_signal <= USABLE
    assert (made.sufficient_population, made.sufficient_model_size) == (800, 40_000)
    assert made.sufficient_epsilon == pytest.approx(4.0, rel=1e-6)


def test_sampling_amplifies_unless_the_cohort_is_fixed():
    poisson, fixed = plan(cohort=40, epsilon=1.0), plan(cohort=40, epsilon=1.0, fixed=True)
    assert poisson.noise_multiplier < fixed.noise_multiplier / 2
    assert fixed.noise_multiplier == poisson.unsampled_multiplier == plan(epsilon=1.0).noise_multiplier


def test_without_a_model_nothing_is_said_of_the_signal():
    made = plan(model_size=None)
    assert made.noise_to_signal is made.large_enough is made.sufficient_population is made.sufficient_epsilon is None


def test_no_promise_below_a_hundred_would_do():
    assert plan(population=2, cohort=2, rounds=1, model_size=10_000_000).sufficient_epsilon is None


def test_what_cannot_be():
    with pytest.raises(ConfigError, match="a cohort of 801 needs at least as many clients"):
        plan(cohort=801)
    with pytest.raises(ConfigError, match=r"PrivacyPlan\.delta must be above 0 and at most 1"):
        plan(delta=0.0)

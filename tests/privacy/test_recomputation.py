"""Epsilon by two ways that share no code: they agree, on each relation and composition that the ledger can hold."""

import math

import pytest

from headway.privacy.accountant import epsilon
from headway.privacy.recomputation import TOLERANCE, recomputed_epsilon
from headway.privacy.spends import Spend

CASES = {
    "one Gaussian": ({Spend(1.0): 1}, 1e-5),
    "much noise": ({Spend(50.0, rate=0.05): 3}, 1e-5),
    "little noise": ({Spend(0.4): 1}, 1e-6),
    "many rounds": ({Spend(1.3, rate=256 / 60000): 3515}, 1e-5),
    "large samples": ({Spend(2.0, rate=0.6): 40}, 1e-7),
    "several kinds": ({Spend(1.1, rate=0.01): 20, Spend(4.0): 5, Spend(2.0, rate=0.3): 2}, 1e-5),
    "zero-out": ({Spend(0.9, rate=0.02, relation="zero_out"): 200}, 1e-5),
}


@pytest.mark.parametrize("name", CASES)
def test_it_agrees_with_the_accountant(name):
    counts, delta = CASES[name]
    one, other = epsilon(counts, delta), recomputed_epsilon(counts, delta)
    assert abs(one - other) <= TOLERANCE * max(1.0, other)


def test_half_of_the_noise_is_no_agreement():
    assert recomputed_epsilon({Spend(1.0, rate=0.1): 9}, 1e-5) < 0.6 * epsilon({Spend(0.5, rate=0.1): 9}, 1e-5)


def test_what_has_no_second_way():
    assert recomputed_epsilon({Spend(1.0, rate=0.1, most=5, population=20): 9}, 1e-5) is None
    assert recomputed_epsilon({Spend(0.0): 1}, 1e-5) == math.inf
    assert recomputed_epsilon({}, 1e-5) == 0.0

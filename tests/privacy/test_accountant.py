"""The accountant against published values, closed forms, an independent integral, and what must cost more."""

import math

import numpy as np
import pytest

from headway.privacy.accountant import CLOSED_FORM, LOSS_DISTRIBUTION, RENYI, epsilon, method_of
from headway.privacy.gaussian_epsilon import gaussian_delta, gaussian_epsilon
from headway.privacy.spends import Spend

SHARED = [
    (1.3, 256 / 60000, 3515, 1e-5, 0.864459),
    (1.1, 250 / 60000, 3600, 1e-5, 1.118498),
    (1.0, 0.1, 100, 1e-3, 4.784350),
    (1.0, 1.0, 1, 1e-5, 4.377178),
    (2.0, 1.0, 16, 1e-6, 10.997151),
]


@pytest.mark.parametrize(("z", "q", "times", "delta", "expected"), SHARED)
def test_check_values(z, q, times, delta, expected):
    assert epsilon({Spend(z, rate=q): times}, delta) == pytest.approx(expected, abs=1e-4)


def delta_by_integral(z, q, removed):
    """The smallest delta of one sampled Gaussian at an epsilon, by a sum over a fine grid of outputs."""
    x = np.linspace(-40, 40, 800_001)
    base = np.exp(-x * x / (2 * z * z)) / (z * math.sqrt(2 * math.pi))
    moved = np.exp(-((x - 1) ** 2) / (2 * z * z)) / (z * math.sqrt(2 * math.pi))
    mixed = (1 - q) * base + q * moved
    one, other = (mixed, base) if removed else (base, mixed)
    return lambda eps: float(np.maximum(one - math.exp(eps) * other, 0).sum() * (x[1] - x[0]))


@pytest.mark.parametrize(("z", "q"), [(0.8, 0.3), (1.5, 0.05)])
def test_one_sampled_release_has_the_delta_of_its_densities(z, q):
    found = epsilon({Spend(z, rate=q): 1}, 1e-4)
    assert max(delta_by_integral(z, q, removed)(found) for removed in (True, False)) == pytest.approx(1e-4, rel=1e-2)


def test_the_closed_form_is_the_gaussian_mechanism():
    """Also above epsilon 1, where the classical sqrt(2 ln(1.25 / delta)) / epsilon promises too much."""
    for z, delta in [(0.3, 1e-5), (1.0, 1e-5), (4.0, 1e-6), (60.0, 1e-9)]:
        found = gaussian_epsilon(z, delta)
        assert gaussian_delta(z, found) == pytest.approx(delta, rel=1e-6)
    classical = math.sqrt(2 * math.log(1.25 / 1e-5)) / 20.0
    assert gaussian_epsilon(classical, 1e-5) > 20.0


@pytest.mark.parametrize("z", [0.5, 1.0, 3.0])
def test_the_closed_form_agrees_with_distributions(z):
    """A sample of almost everybody, which is composed by the library, against everybody."""
    assert epsilon({Spend(z, rate=1 - 1e-9): 3}, 1e-5) == pytest.approx(epsilon({Spend(z): 3}, 1e-5), rel=1e-3)


def test_composition_depends_on_what_was_made_and_not_on_the_order():
    one, other = Spend(1.0, rate=0.1), Spend(2.0, rate=0.3)
    assert epsilon({one: 5, other: 3}, 1e-5) == epsilon({other: 3, one: 5}, 1e-5)
    assert epsilon({one: 5, other: 3}, 1e-5) > max(epsilon({one: 5}, 1e-5), epsilon({other: 3}, 1e-5))
    assert epsilon({one: 0}, 1e-5) == 0.0


def test_more_of_anything_costs_more():
    base = epsilon({Spend(1.0, rate=0.1): 10}, 1e-5)
    assert epsilon({Spend(1.0, rate=0.1): 11}, 1e-5) > base
    assert epsilon({Spend(0.9, rate=0.1): 10}, 1e-5) > base
    assert epsilon({Spend(1.0, rate=0.11): 10}, 1e-5) > base
    assert epsilon({Spend(1.0, rate=0.1): 10}, 1e-6) > base
    assert epsilon({Spend(1.0, rate=0.1, most=12, population=100): 10}, 1e-5) > base


def test_a_truncated_sample_that_is_never_cut_is_a_sample():
    assert epsilon({Spend(1.0, rate=0.1, most=100, population=100): 3}, 1e-5) == epsilon(
        {Spend(1.0, rate=0.1): 3}, 1e-5
    )


def test_without_noise_there_is_no_epsilon():
    assert epsilon({Spend(0.0, rate=0.1): 1}, 1e-5) == math.inf
    assert epsilon({Spend(math.inf, ((1.0, 1.0, 0.0),)): 1}, 1e-5) == math.inf


def test_skellam_noise_of_large_variance_is_gaussian():
    """Its bound is that of the Gaussian with a term that vanishes with the variance."""
    fine = Spend(math.inf, ((1e4, 100.0, 1e6),))  # the standard deviation is 10 times the L2 sensitivity
    assert epsilon({fine: 10}, 1e-5) == pytest.approx(epsilon({Spend(10.0): 10}, 1e-5), rel=0.2)
    assert epsilon({fine: 10}, 1e-5) >= epsilon({Spend(10.0): 10}, 1e-5)
    coarse = Spend(math.inf, ((100.0, 10.0, 100.0),))
    assert epsilon({coarse: 1}, 1e-5) > epsilon({Spend(1.0): 1}, 1e-5)


def test_draws_of_clients_hide_little_where_the_amount_of_noise_shows_how_many_were_drawn():
    """Of a cohort of known size m all others send -1, and one client 1 or, replaced, 0.  Where that client is drawn,
    one of the others is not, so that the sum is -m without it, and 2 - m or 1 - m with it; the epsilon of the sampled
    mechanism, in which nobody is there in the place of a client that is not drawn, is far exceeded."""
    rate, z, delta = 0.05, 0.786893, 1e-5

    def exceeded(at: float) -> float:
        """The delta at an epsilon, of one round: the mass of the outputs on which the ratio is above e^epsilon."""
        x = np.linspace(-8.0, 12.0, 400_001)

        def density(mean):
            return np.exp(-((x - mean) ** 2) / (2 * z * z)) / (z * math.sqrt(2 * math.pi))

        present = (1 - rate) * density(0.0) + rate * density(2.0)
        replaced = (1 - rate) * density(0.0) + rate * density(1.0)
        return float((present - math.exp(at) * replaced).clip(0).sum() * (x[1] - x[0]))

    sampled, whole = epsilon({Spend(z, rate=rate): 1}, delta), epsilon({Spend(z): 1}, delta)
    assert exceeded(2 * sampled) > delta
    assert exceeded(whole) < delta


def test_skellam_noise_is_joined_with_gaussian_noise_and_never_amplified():
    noise = ((1e4, 100.0, 1e6),)
    whole = epsilon({Spend(math.inf, noise): 100}, 1e-5)
    assert epsilon({Spend(math.inf, noise, rate=0.05): 100}, 1e-5) == whole
    assert epsilon({Spend(10.0, noise): 100}, 1e-5) > whole
    assert epsilon({Spend(math.inf, noise): 100, Spend(10.0): 100}, 1e-5) == epsilon({Spend(10.0, noise): 100}, 1e-5)


def test_a_truncated_sample_of_skellam_noise_counts_without_amplification():
    noise = ((1e4, 100.0, 1e6),)
    assert epsilon({Spend(math.inf, noise, 0.1, 5, 100): 9}, 1e-5) == epsilon({Spend(math.inf, noise): 9}, 1e-5)


def test_the_method_is_named():
    assert method_of({Spend(1.0): 3}) == CLOSED_FORM
    assert method_of({Spend(1.0): 3, Spend(1.0, rate=0.5): 1}) == LOSS_DISTRIBUTION
    assert method_of({Spend(1.0): 3, Spend(math.inf, ((1.0, 1.0, 9.0),)): 1}) == RENYI

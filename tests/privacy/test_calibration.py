"""The noise that a promise needs: published values, the promise is kept, less noise would break it."""

import pytest

from headway.core.errors import ConfigError
from headway.core.facts import PrivacyEvent
from headway.privacy.calibration import epsilon_after, noise_for, rounds_within, scaled
from headway.privacy.spends import Sampling

POISSON = Sampling("poisson", 0.05, None, 1000, 50.0)


@pytest.mark.parametrize(("epsilon", "z"), [(1.0, 2.838598), (3.0, 1.286786), (8.0, 0.786893)])
def test_check_values(epsilon, z):
    found = noise_for(epsilon, 1e-5, 200, POISSON)
    assert found == pytest.approx(z, abs=1e-4)


@pytest.mark.parametrize("sampling", [Sampling(), Sampling("poisson", 0.1, None, 30, 3.0)])
def test_the_promise_is_kept_and_less_noise_would_break_it(sampling):
    events = [PrivacyEvent("gaussian", 0.7, 1.0), PrivacyEvent("gaussian", 3.0, 1.0, ("clip bits",))]
    factor = noise_for(0.8, 1e-4, 7, sampling, events)
    assert epsilon_after(scaled(events, factor), sampling, 7, 1e-4) <= 0.8
    assert epsilon_after(scaled(events, factor * 0.9999), sampling, 7, 1e-4) > 0.8


def test_noise_of_clients_and_of_local_steps():
    skellam = PrivacyEvent("skellam", 10.0, 1.0, at="distributed", details={"l1": 1e3, "l2": 10.0, "variance": 1e4})
    factor = noise_for(2.0, 1e-5, 5, POISSON, [skellam])
    (found,) = scaled([skellam], factor)
    assert found.details["variance"] == pytest.approx(1e4 * factor**2)
    assert epsilon_after([found], POISSON, 5, 1e-5) <= 2.0
    local = PrivacyEvent(
        "example_gaussian", 1.0, 1.0, unit="example", at="client", details={"sample_rate": 0.1, "steps": 10}
    )
    factor = noise_for(1.0, 1e-4, 5, POISSON, [local], account="example")
    assert epsilon_after(scaled([local], factor), POISSON, 5, 1e-4, "example") <= 1.0


def test_no_noise_makes_up_for_rounds_that_show_that_they_were_skipped():
    few = Sampling("poisson", 0.3, None, 10, 3.0, least=3)
    with pytest.raises(ConfigError, match="no noise keeps epsilon 2 at delta 1e-05"):
        noise_for(2.0, 1e-5, 7, few)


def test_the_rounds_of_a_budget():
    event = PrivacyEvent("gaussian", 3.0, 1.0)
    allowed = rounds_within([event], Sampling(), 4.0, 1e-5, 1000)
    assert (
        epsilon_after([event], Sampling(), allowed, 1e-5) <= 4.0 < epsilon_after([event], Sampling(), allowed + 1, 1e-5)
    )
    assert rounds_within([event], Sampling(), 4.0, 1e-5, 3) == 3
    assert rounds_within([event], Sampling(), 0.01, 1e-5, 1000) == 0

"""Events become spends: releases of one cohort are joined before its sampling, accounts stay apart."""

import math
from dataclasses import replace

import pytest

import headway as hw
from headway.core.errors import ConfigError
from headway.core.facts import PrivacyEvent, SamplerFacts
from headway.privacy.spends import Cost, Sampling, Spend, account_of, costs, joined_multiplier
from headway.stages.secure_aggregation.sum_rules import RoundEnded

POISSON = Sampling("poisson", 0.1, None, 50, 5.0)
UNIFORM = Sampling("uniform", None, None, 50, 5.0)


def test_releases_of_one_cohort_are_joined_before_the_amplification():
    """Two independent samples would be cheaper than what is really released of the same one."""
    events = [PrivacyEvent("gaussian", 2.0, 1.0), PrivacyEvent("gaussian", 3.0, 1.0, ("clip bits",))]
    assert costs(events, POISSON) == [Cost("client", Spend((2.0**-2 + 3.0**-2) ** -0.5, rate=0.1))]


def test_only_independent_draws_amplify():
    event = PrivacyEvent("gaussian", 1.0, 1.0)
    assert costs([event], UNIFORM) == [Cost("client", Spend(1.0))]
    assert costs([event], Sampling("poisson", 1.0, None, 50, 50.0)) == [Cost("client", Spend(1.0))]
    truncated = Sampling("truncated poisson", 0.1, 8, 50, 4.9)
    assert costs([event], truncated) == [Cost("client", Spend(1.0, (), 0.1, 8, 50))]
    unknown = Sampling("truncated poisson", 0.1, 8, None, None)
    assert costs([event], unknown) == [Cost("client", Spend(1.0))]
    assert "amplifies nothing" in UNIFORM.summary
    assert "at most 8 of 50" in truncated.summary


def test_sampling_follows_the_sampler():
    facts = SamplerFacts("truncated poisson", 4.0, 50, 0.1, 8)
    assert Sampling.of(facts, least=2) == Sampling("truncated poisson", 0.1, 8, 50, 4.0, 2)
    assert not Sampling.of(None).amplifies


def test_accounts_stay_apart():
    events = [
        PrivacyEvent("gaussian", 1.0, 1.0),
        PrivacyEvent("gaussian", 4.0, 1.0, at="client"),
        PrivacyEvent(
            "example_gaussian", 0.7, 1.0, unit="example", at="client", details={"sample_rate": 0.02, "steps": 50}
        ),
    ]
    assert [account_of(event) for event in events] == ["client", "local", "example"]
    assert costs(events, POISSON) == [
        Cost("example", Spend(0.7, rate=0.02), 50),
        Cost("client", Spend(1.0, rate=0.1)),
        Cost("local", Spend(4.0)),  # whoever sees a message knows that its client was drawn
    ]


def test_draws_amplify_no_noise_of_which_clients_draw_a_part():
    """Its amount shows how many were drawn; see `test_accountant` for what that costs."""
    event = PrivacyEvent(
        "skellam", 5.0, 1.0, at="distributed", details={"l1": 10.0, "l2": 4.0, "variance": 400.0, "bits": 16}
    )
    noise = ((10.0, 4.0, 400.0),)
    event = replace(event, relation="zero_out")
    central = PrivacyEvent("gaussian", 2.0, 1.0, relation="zero_out")  # on updates with local noise
    for sampling in (POISSON, UNIFORM):
        assert costs([event], sampling) == [Cost("client", Spend(math.inf, noise, relation="zero_out"))]
        assert costs([central], sampling) == [Cost("client", Spend(2.0, relation="zero_out"))]


@pytest.mark.parametrize("details", [{}, {"l1": 1.0, "l2": 1.0}, {"l1": 1.0, "l2": 1.0, "variance": "much"}])
def test_an_event_without_its_details_is_refused(details):
    event = PrivacyEvent("skellam", 5.0, 1.0, at="distributed", details=details)
    with pytest.raises(ConfigError, match="in the details of its privacy event"):
        costs([event], POISSON)


def test_relations_are_not_mixed():
    events = [PrivacyEvent("gaussian", 1.0, 1.0), PrivacyEvent("gaussian", 1.0, 1.0, relation="zero_out")]
    with pytest.raises(ConfigError, match="add_remove and zero_out"):
        costs(events, POISSON)


def test_a_multiplier_of_zero_hides_nothing():
    assert joined_multiplier([2.0, 0.0]) == 0.0


def test_a_round_of_a_secure_sum_is_skipped_below_the_fewest_that_are_asked():
    """Of 7 clients none would be unmasked, though 4 would be enough to remain."""
    stage = hw.SecureSum(mode="ideal", min_cohort=8, min_survivors=4, threshold=0.65)
    stages = (hw.Clip(), hw.Quantize(16), stage, hw.Mean("expected"), hw.GaussianNoise(1.0))
    algorithm = hw.Algorithm(hw.chain(*stages), hw.LocalSGD(lr=0.1), hw.Poisson(rate=0.5))
    last = algorithm.flows(None, 20, 10)[-1]
    with pytest.raises(RoundEnded, match="at least 8"):
        stage.rules_in(last).check_cohort(7)
    stage.rules_in(last).check_cohort(8)
    sampling = Sampling.of_flow(last)
    assert sampling.lost_delta == pytest.approx(0.5 * math.comb(19, 7) * 0.5**19)


def test_rounds_that_can_be_skipped_take_a_part_of_delta():
    few, many = Sampling("poisson", 0.5, None, 8, 4.0, least=3), Sampling("poisson", 0.5, None, 800, 400.0, least=3)
    assert few.lost_delta == pytest.approx(0.5 * math.comb(7, 2) * 0.5**7)
    assert many.lost_delta < 1e-100
    assert Sampling("uniform", None, None, 8, 4.0, least=3).lost_delta == 0.0
    assert Sampling("poisson", 0.5, None, 2, 1.0, least=4).lost_delta == 0.0

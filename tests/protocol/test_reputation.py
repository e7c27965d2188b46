"""The reputation's policy: its ranges, and the chains that it is refused beside."""

import pytest

import headway as hw
from headway.core.errors import ChainRefused, ConfigError
from headway.experiment.identity import algorithm_of, described
from headway.federation.agent.job_building import algorithm_of_names
from headway.federation.relay.relay_chain import relay_refusal

SCORES, QUARANTINE = hw.Reputation(), hw.Reputation(quarantine_below=0.3)


def algorithm(*stages, reputation=SCORES, sampler=None, quorum=None):
    return hw.Algorithm(
        hw.chain(*stages), hw.LocalSGD(lr=0.1), sampler or hw.All(), quorum or hw.Quorum(), reputation=reputation
    )


@pytest.mark.parametrize(
    ("stages", "words"),
    [
        ((hw.Clip(1.0), hw.Quantize(bits=16), hw.SecureSum(), hw.Mean("clients")), "only their sum"),
        ((hw.Clip(1.0), hw.Quantize(bits=16), hw.SecureSum(buckets=3), hw.Median(1)), "the sums of 3 buckets"),
        ((hw.Clip(1.0), hw.Mean("expected"), hw.GaussianNoise(1.0)), "gaussian noise"),
        ((hw.Clip(1.0), hw.LocalGaussian(1.0), hw.Mean("clients")), "gaussian noise"),
    ],
)
def test_a_reputation_is_refused_where_single_clients_are_protected(stages, words):
    with pytest.raises(ChainRefused, match=words) as refused:
        algorithm(*stages)
    text = str(refused.value)
    assert ("Reputation" in text and "each client's update" in text) or "single clients" in text


def test_a_reputation_is_refused_with_late_updates_that_are_kept():
    with pytest.raises(ChainRefused, match="updates of one model are compared"):
        algorithm(hw.Mean(), sampler=hw.Uniform(5), quorum=hw.Quorum(count=3, late="keep"))


def test_a_quarantine_is_refused_with_replacement_and_scores_alone_are_not():
    algorithm(hw.Mean(), quorum=hw.Quorum(replace=True))
    with pytest.raises(ChainRefused, match="all drawn"):
        algorithm(hw.Mean(), reputation=QUARANTINE, quorum=hw.Quorum(replace=True))


def test_a_quarantine_is_refused_beside_a_stage_that_needs_all_clients():
    algorithm(hw.FLTrust("server"))
    with pytest.raises(ChainRefused, match="a quarantine, in which") as refused:
        algorithm(hw.FLTrust("server"), reputation=QUARANTINE)
    assert "Reputation" in str(refused.value)
    assert "leave quarantine_below out" in str(refused.value)


@pytest.mark.parametrize(
    "numbers", [{"quarantine_below": 1.5}, {"patience": 0}, {"rounds": 0}, {"most": 0.5}, {"memory": 1.0}]
)
def test_numbers_out_of_range_are_refused_by_name(numbers):
    with pytest.raises(ConfigError, match=f"Reputation.{next(iter(numbers))}"):
        hw.Reputation(**numbers)


def test_the_policy_is_explained_described_and_rebuilt():
    one = algorithm(hw.Mean(), reputation=QUARANTINE)
    assert "not drawn for 20 rounds" in str(one.explain())
    assert algorithm_of(described(one)) == one
    assert algorithm_of_names(described(one)) == one  # which an agent makes of a job
    plain = algorithm(hw.Mean(), reputation=None)
    assert "reputation" not in described(plain)
    assert "reputation" not in str(plain.explain())


def test_clients_behind_a_relay_have_no_reputation():
    assert "reputation" in (relay_refusal(algorithm(hw.Mean())) or "")
    assert relay_refusal(algorithm(hw.Mean(), reputation=None)) is None

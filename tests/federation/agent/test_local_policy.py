"""The local policy: a job that lacks what it requires is refused with all that it lacks."""

import pytest

import headway as hw
from headway.federation.agent.local_policy import LocalPolicy, PolicyRefused
from headway.federation.job_facts import NETWORK


def check(policy, algorithm):
    policy.check(algorithm, algorithm.flows(NETWORK, population=10))


def clipped(norm):
    return hw.Algorithm(hw.chain(hw.Clip(norm=norm), hw.Mean()), hw.LocalSGD(), hw.All())


def test_without_conditions_all_is_allowed():
    check(LocalPolicy(), hw.recipes.fedavg())


def test_a_bound_is_that_of_one_clients_update():
    check(LocalPolicy(clip=1.0), clipped(1.0))
    with pytest.raises(PolicyRefused, match="1 at most, found 2"):
        check(LocalPolicy(clip=1.0), clipped(2.0))
    with pytest.raises(PolicyRefused, match="found no bound"):
        check(LocalPolicy(clip=1.0), hw.recipes.fedavg())


def test_all_that_lacks_is_in_one_sentence():
    with pytest.raises(PolicyRefused, match=r"policy\.secure_sum needs .*; policy\.noise needs"):
        check(LocalPolicy(secure_sum=True, noise=1.0), hw.recipes.fedavg())


def test_without_telemetry_clients_are_not_drawn_by_their_losses():
    algorithm = hw.Algorithm(hw.chain(hw.Mean()), hw.LocalSGD(), hw.PowerOfChoice(count=2, candidates=4))
    check(LocalPolicy(), algorithm)
    with pytest.raises(PolicyRefused, match="PowerOfChoice draws clients by their training losses"):
        check(LocalPolicy(telemetry=False), algorithm)


@pytest.mark.parametrize("options", [{"clip": 0.0}, {"noise": -1.0}])
def test_numbers_out_of_range_are_refused(options):
    with pytest.raises(hw.ConfigError, match="must be above 0"):
        LocalPolicy(**options)

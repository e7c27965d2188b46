"""The algorithms that a relay may sum, and its quorum."""

import pytest
from conformance.teststages import FixedPoint, PairwiseMasks
from toys import linear_task

import headway as hw
from headway.federation.relay.relay_chain import refusal_of_names, relay_job, relay_refusal
from headway.federation.serving.server_setup import describe_job

TRAINER = hw.LocalSGD(lr=0.1, batch_size=4)


def algorithm(*stages, sampler=None, **quorum):
    return hw.Algorithm(hw.chain(*stages), TRAINER, sampler or hw.All(), hw.Quorum(**quorum))


@pytest.mark.parametrize(
    ("made", "reason"),
    [
        (algorithm(hw.Mean()), None),
        (algorithm(hw.Scaffold(), hw.Mean("clients"), deadline_s=10.0, retries=2), None),
        (algorithm(FixedPoint(), hw.Mean("clients")), None),
        (algorithm(hw.AFL()), "AFL must see the update of every client"),
        (algorithm(FixedPoint(), PairwiseMasks(), hw.Mean("clients")), None),
        (algorithm(hw.Mean(), count=2), "quorum.count"),
        (algorithm(hw.Mean(), cap=2), "quorum.cap"),
        (hw.recipes.recipe("fedbuff", trainer=TRAINER), 'quorum.late is "keep"'),
    ],
    ids=str,
)
def test_a_relay_sums_what_a_server_would_only_sum(made, reason):
    found = relay_refusal(made)
    assert found is None if reason is None else reason in found


def described(made):
    return describe_job("job", "test", made, linear_task(), 5, seed=3)


def test_an_algorithm_that_is_not_known_here_is_refused():
    names = described(algorithm(hw.Mean())).algorithm
    assert refusal_of_names(names) is None
    assert "cannot tell" in refusal_of_names({**names, "chain": [{"name": "Nothing"}]})


def test_the_rounds_of_a_relay_end_before_those_of_its_server():
    job = relay_job(described(algorithm(hw.Mean(), deadline_s=10.0, retries=2)), linear_task())
    assert job.algorithm.quorum == hw.Quorum(deadline_s=8.0, retries=2)
    with pytest.raises(hw.ConfigError, match="a relay cannot take part in this job: AFL must"):
        relay_job(described(algorithm(hw.AFL())), linear_task())

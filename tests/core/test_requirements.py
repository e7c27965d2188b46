"""What a stage requires of the flow by name."""

import pytest

from headway.core.errors import ChainRefused
from headway.core.flow import EngineFacts, Flow, PrivacyEvent, SamplerFacts, TrainerFacts, VectorSpec
from headway.core.requirements import REQUIREMENTS

BROKEN = {
    "memory": Flow(engine=EngineFacts("Forgetful", memory=False)),
    "synchronous": Flow(asynchronous=True),
    "simulated": Flow(engine=EngineFacts("Network", deployed=True)),
    "whole_population": Flow(sampler=SamplerFacts("uniform", 2.0, 8)),
    "cohort_size": Flow(engine=EngineFacts("Local"), sampler=SamplerFacts("own")),
    "linear_steps": Flow(trainer=TrainerFacts("Adaptive", linear=False, optimizer="Adam")),
    "real": Flow(number="ring"),
    "ring": Flow(),
    "bounded_integers": Flow(number="ring"),
    "large_cohort": Flow(sampler=SamplerFacts("all", 4.0, 4), min_cohort=5),
    "additive": Flow(additive=False),
    "dense": Flow(dense=False),
    "bound": Flow(),
    "behind_sum": Flow(),
    "enough_shares": Flow(survivors=7, fewest=6),
    "quantised": Flow(),
    "integer_norm": Flow(number="ring"),
    "whole_delta": Flow(specs={"delta": VectorSpec(0.5)}),
    "own_scales": Flow(vectors=("delta", "control")),
    "same_weights": Flow().set("Weigher", weight_bound=7.0),
    "finite_bound": Flow(bound=float("inf")),
    "limited_terms": Flow(weighted=True),
    "separated": Flow(bands=3, sampler=SamplerFacts("uniform", 2.0, 8)),
    "fixed_units": Flow().set("AdaptiveClip", rescaled=True),
    "sum": Flow().set("Median", reduced=True),
    "each_update": Flow(server_sees="sum"),
    "never_excluded": Flow(excludes=True),
    "immediate": Flow(engine=EngineFacts("Network", deployed=True)),
    "unprotected": Flow(events=(PrivacyEvent("gaussian", 1.0, 1.0),)),
    "single_updates": Flow(server_sees="bucket sums", buckets=4),
    "repeatable": Flow(number="ring"),
    "one_sum": Flow(server_sees="bucket sums", buckets=4),
    "enough_buckets": Flow(server_sees="bucket sums", buckets=4, min_updates=5),
    "known_count": Flow(asynchronous=True),
    "sum_of_one_round": Flow(asynchronous=True, server_sees="sum"),
    "private_weights": Flow(server_sees="sum").set("Weigher", weight_leaks="label entropy"),
    "own_weights": Flow().set("Weigher", weight_bound=None),
    "equal_weights": Flow().set("Weigher", weight_bound=None),
    "any_weights": Flow().set("FedDyn", equal=True),
    "limited_weights": Flow().set("Weigher", weight_bound=None),
    "one_vector": Flow().carry("Scaffold", "control"),
    "not_rebased": Flow().set("Rebase", rebased=True),
}
HOLDS = {
    "ring": Flow(number="ring"),
    "behind_sum": Flow(weighted=True),
    "quantised": Flow(specs={"delta": VectorSpec(None, "integer")}),
    "integer_norm": Flow(number="ring", integer_norm=9.0),
    "bound": Flow(bound=1.0),
    "finite_bound": Flow(bound=1.0),
    "bounded_integers": Flow(largest=7),
}


def test_every_requirement_has_a_flow_that_breaks_it():
    assert BROKEN.keys() == REQUIREMENTS.keys()


@pytest.mark.parametrize("name", REQUIREMENTS)
def test_a_requirement_that_does_not_hold_refuses_in_four_parts(name):
    flow = BROKEN[name]
    with pytest.raises(ChainRefused) as refused:
        flow.require("Some", **{name: True})
    error, rule = refused.value, REQUIREMENTS[name]
    assert error.needed == f"{rule.needed} (Some depends on it)"
    assert error.found
    assert "{" not in str(error)
    assert "None" not in str(error)
    assert error.caused_by == flow.set_by.get(rule.fact, "Some")
    assert error.do_this.endswith("leave Some out")


@pytest.mark.parametrize("name", REQUIREMENTS)
def test_a_requirement_that_holds_or_is_not_meant_leaves_the_flow_alone(name):
    flow = HOLDS.get(name, Flow())
    assert flow.require("Some", **{name: True}) is flow
    assert BROKEN[name].require("Some", **{name: False}) is BROKEN[name]


def test_a_reason_and_a_fix_are_said():
    with pytest.raises(ChainRefused) as refused:
        BROKEN["synchronous"].require("Some", memory=True, synchronous="old ones mislead", fix="use FedProx")
    assert refused.value.needed == "synchronous rounds: old ones mislead (Some depends on it)"
    assert refused.value.do_this == 'use Quorum(late="drop"), or use FedProx'


def test_the_first_that_does_not_hold_is_said():
    with pytest.raises(ChainRefused, match="real numbers"):
        Flow(number="ring", asynchronous=True).require("Some", memory=True, real=True, synchronous=True)

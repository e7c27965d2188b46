"""Guarantees are lost unless a stage restates them, and every fact knows who set it."""

from dataclasses import dataclass
from typing import ClassVar

import pytest
from conformance.teststages import FixedPoint

from headway.core.chain import chain
from headway.core.errors import ChainRefused
from headway.core.flow import Flow, SamplerFacts, TrainerFacts
from headway.core.stage import Aggregator, Place, Stage
from headway.stages import ECGR, Clip, FedProx, Mean, Scaffold, ServerSGD, Weigh


@dataclass(frozen=True)
class Silent(Stage):
    """Changes the update and vouches for nothing."""

    place: ClassVar[Place] = Place.NOISE

    def send(self, update, memory, ctx):
        return update, memory


@dataclass(frozen=True)
class SilentRule(Aggregator):
    """Vouches for nothing about its aggregate."""


def facts(flow: Flow) -> tuple:
    return flow.bound, flow.additive, flow.dense


def after(*stages: Stage, start: Flow | None = None) -> list[Flow]:
    return list(chain(*stages).trace(start or Flow()))


def test_a_stage_that_says_nothing_loses_every_guarantee_and_is_named() -> None:
    clipped, changed, _ = after(Clip(2.0), Silent(), Mean())
    assert facts(clipped) == (2.0, True, True)
    assert facts(changed) == (None, False, False)
    assert {changed.set_by[name] for name in ("bound", "additive", "dense")} == {"Silent"}


def test_an_aggregator_that_says_nothing_loses_the_bound() -> None:
    flows = after(Clip(2.0), SilentRule())
    assert [flow.bound for flow in flows] == [2.0, None]
    assert flows[-1].set_by["bound"] == "SilentRule"


def test_what_was_never_promised_is_not_lost() -> None:
    flow = Flow(additive=False, dense=False)
    assert flow.without_guarantees(Silent()) is flow


@pytest.mark.parametrize("stage", [Scaffold(), ECGR(), Weigh("uniform"), Clip(), FixedPoint(), FedProx()])
def test_the_stages_that_send_dense_summable_vectors_say_so(stage) -> None:
    assert facts(after(stage, Mean())[0])[1:] == (True, True)


@pytest.mark.parametrize(("stage", "bound"), [(Weigh("uniform"), 1.0), (ECGR(), None), (Scaffold(), None)])
def test_a_bound_outlives_only_the_stages_that_keep_it(stage, bound) -> None:
    assert stage.connect(Flow(bound=1.0)).without_guarantees(stage).bound == bound


def test_restating_lasts_for_one_stage_only() -> None:
    _, changed, _ = after(Weigh("uniform"), Silent(), Mean())
    assert facts(changed) == (None, False, False)


def test_the_bound_of_an_expected_mean_is_the_clients_share() -> None:
    start = Flow(sampler=SamplerFacts("fixed", expected=8.0, population=80))
    assert after(Clip(2.0), Mean("expected"), ServerSGD(), start=start)[-1].bound == 0.25
    assert after(Clip(2.0), Mean("examples"), start=start)[-1].bound is None
    assert after(Clip(2.0), Mean("expected"))[-1].bound == 2.0


def test_setting_keeping_and_carrying_are_remembered() -> None:
    flow = Flow().set("A", bound=1.0).carry("B", "control").keep("C", "bound").need("D", "steps")
    assert (flow.bound, flow.vectors, flow.needs) == (1.0, ("delta", "control"), {"steps"})
    assert flow.set_by == {"bound": "C", "vectors": "B", "needs": "D"}
    assert flow.warn("mind").warn("it").warnings == ("mind", "it")


def test_needs_are_checked_against_the_trainer_once_it_is_known() -> None:
    assert Flow().need("ECGR", "steps").needs == {"steps"}
    offered = Flow(trainer=TrainerFacts("LocalSGD", frozenset({"steps"})))
    assert offered.need("ECGR", "steps").needs == {"steps"}
    with pytest.raises(ChainRefused, match="FedRep, which does not"):
        Flow(trainer=TrainerFacts("FedRep")).need("ECGR", "steps")

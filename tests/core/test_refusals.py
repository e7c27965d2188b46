"""Every refusal says what was needed, what was found, who caused it and what to do."""

import re
from dataclasses import dataclass
from typing import ClassVar

import pytest
import torch
from conformance.teststages import FixedPoint, Median, NoisyRelease, PairwiseMasks

from headway.core.algorithm import Algorithm
from headway.core.chain import Chain, chain
from headway.core.errors import ChainRefused, ConfigError
from headway.core.flow import EngineFacts, Flow, TrainerFacts
from headway.core.stage import Place, Stage
from headway.protocol.messages import Exchange, Message
from headway.protocol.quorum import Quorum
from headway.samplers import All, Fixed, Oort, Poisson
from headway.stages import ECGR, Clip, FedNova, FedProx, Mean, Scaffold, ServerAdam, ServerSGD, Weigh
from headway.training.local_sgd import LocalSGD


@dataclass(frozen=True)
class EarlyRing(Stage):
    """Integers before the clip."""

    place: ClassVar[Place] = Place.SPARSIFY

    def connect(self, flow: Flow) -> Flow:
        return flow.set(self, number="ring")


@dataclass(frozen=True)
class OtherCombiner(Stage):
    place: ClassVar[Place] = Place.COMBINE

    def combine(self, gram, ctx):
        return gram[..., 0]


@dataclass(frozen=True)
class Forgetful(Stage):
    place: ClassVar[Place] = Place.NOISE

    def send(self, update, memory, ctx):
        return update, memory


@dataclass(frozen=True)
class ForgetfulRing(Forgetful):
    def connect(self, flow: Flow) -> Flow:
        return flow.set(self, number="ring")


def with_flow(*stages: Stage, **facts):
    return lambda: chain(*stages).trace(Flow(**facts))


NO_OFFERS = TrainerFacts("OwnLoop")
NO_MEMORY = EngineFacts("stateless", memory=False)
REFUSED = {
    "no aggregator": (lambda: chain(FedProx()), "the chain"),
    "nothing": (lambda: chain(), "the chain"),
    "two aggregators": (lambda: chain(Mean(), Median()), "Median"),
    "not a stage": (lambda: chain(Mean(), 3), "int"),  # type: ignore[arg-type]
    "two combiners": (lambda: chain(ECGR(), OtherCombiner(), Mean()), "OtherCombiner"),
    "twice": (lambda: chain(FedProx(0.1), FedProx(0.2), Mean()), "FedProx"),
    "clip before combination": (lambda: chain(Clip(), ECGR(), Mean()), "ECGR"),
    "client stage after the border": (lambda: chain(Mean(), Clip()), "Clip"),
    "optimizer before the border": (lambda: chain(ServerSGD(), Mean()), "Mean"),
    "mask before quantiser": (lambda: chain(PairwiseMasks(), FixedPoint(), Mean()), "FixedPoint"),
    "clip of integers": (lambda: chain(EarlyRing(), Clip(), Mean()), "EarlyRing"),
    "mean of clients after weights": (lambda: chain(Weigh("uniform"), Mean("clients")), "Weigh"),
    "unlimited weights": (lambda: chain(Weigh("examples"), Mean("expected")), "Weigh"),
    "median of a sum": (lambda: chain(FixedPoint(), PairwiseMasks(), Median()), "PairwiseMasks"),
    "mask over reals": (lambda: chain(Clip(), PairwiseMasks(), Mean()), "PairwiseMasks"),
    "mask after lost sums": (lambda: chain(ForgetfulRing(), PairwiseMasks(), Mean()), "ForgetfulRing"),
    "noise after a lost bound": (lambda: chain(Clip(), Forgetful(), Mean("expected"), NoisyRelease()), "Forgetful"),
    "no steps": (with_flow(ECGR(), Mean(), trainer=NO_OFFERS), "OwnLoop"),
    "no initial gradient": (with_flow(Scaffold("I"), Mean(), trainer=NO_OFFERS), "OwnLoop"),
    "no memory": (
        with_flow(Scaffold(), Mean(), engine=NO_MEMORY, set_by={"engine": "stateless"}),
        "stateless",
    ),
    "asynchronous": (
        with_flow(Scaffold(), Mean(), asynchronous=True, set_by={"asynchronous": "Quorum"}),
        "Quorum",
    ),
    "secure sum of late updates": (
        with_flow(FixedPoint(), PairwiseMasks(), Mean(), asynchronous=True, set_by={"asynchronous": "Quorum"}),
        "Quorum",
    ),
    "median of a buffer of no size": (
        with_flow(Median(), asynchronous=True, set_by={"asynchronous": "Quorum", "buffer": "Quorum"}),
        "Quorum",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_every_refusal_has_four_parts_and_names_the_cause(case) -> None:
    build, cause = REFUSED[case]
    with pytest.raises(ChainRefused) as refusal:
        build()
    parts = (refusal.value.needed, refusal.value.found, refusal.value.caused_by, refusal.value.do_this)
    assert all(part.strip() for part in parts)
    assert all(part in str(refusal.value) for part in parts)
    assert refusal.value.caused_by == cause


ACCEPTED = [
    (Mean(),),
    (FedProx(), Scaffold(), ECGR(), Weigh("uniform"), Clip(), FixedPoint(), PairwiseMasks(), Mean(), ServerAdam()),
    (Scaffold("I"), Mean("clients")),
    (Weigh("capped", 9), Clip(), Mean("expected"), NoisyRelease(), ServerAdam()),
    (ECGR(), Clip(), Median(), ServerSGD()),
]


@pytest.mark.parametrize("stages", ACCEPTED)
def test_what_composes_is_accepted(stages) -> None:
    assert chain(*stages).stages == stages


def test_a_median_of_a_buffer_whose_size_is_said_is_accepted() -> None:
    with_flow(Median(), asynchronous=True, buffer=5)()


def test_a_buffer_and_its_size_are_those_of_the_quorum() -> None:
    algorithm = Algorithm(chain(Mean()), LocalSGD(), All(), Quorum(count=4, late="keep"))
    assert (algorithm.flows()[0].asynchronous, algorithm.flows()[0].buffer) == (True, 4)
    assert Algorithm(chain(Mean()), LocalSGD(), All(), Quorum(count=4)).flows()[0].buffer is None


def test_an_adaptive_server_is_warned_of_late_updates() -> None:
    algorithm = Algorithm(chain(Mean(), ServerAdam()), LocalSGD(), All(), Quorum(count=4, late="keep"))
    assert any("takes late updates for fresh ones" in warning for warning in algorithm.explain().warnings)


@pytest.mark.parametrize("stages", [s for s in ACCEPTED if all(x.__module__.startswith("headway") for x in s)])
def test_a_chain_is_rebuilt_from_names_and_numbers(stages) -> None:
    built = chain(*stages)
    assert Chain.from_config(built.to_config()) == built


def test_a_control_variate_under_adam_is_warned_of() -> None:
    flows = chain(Scaffold(), Mean("clients"), ServerAdam()).trace(Flow())
    assert "no theory" in flows[-1].warnings[0]
    assert not chain(Scaffold(), Mean("clients"), ServerSGD()).trace(Flow())[-1].warnings


BAD_NUMBERS = [
    (FedProx, {"mu": -1.0}),
    (FedProx, {"mu": float("nan")}),
    (Scaffold, {"option": "III"}),
    (ECGR, {"select": 0.0}),
    (ECGR, {"select": 1.1}),
    (ECGR, {"beta": -0.1}),
    (ECGR, {"beta": 1.1}),
    (ECGR, {"rule": "largest"}),
    (Clip, {"norm": 0.0}),
    (Clip, {"norm": float("nan")}),
    (Weigh, {"by": "luck"}),
    (Weigh, {"by": "capped"}),
    (Weigh, {"by": "capped", "cap": 0}),
    (Weigh, {"by": "uniform", "cap": 3}),
    (Mean, {"over": "everything"}),
    (ServerSGD, {"lr": 0.0}),
    (ServerSGD, {"momentum": 1.0}),
    (ServerAdam, {"lr": -1.0}),
    (ServerAdam, {"beta1": 1.0}),
    (ServerAdam, {"beta2": -0.1}),
    (ServerAdam, {"tau": 0.0}),
]


@pytest.mark.parametrize(("stage", "numbers"), BAD_NUMBERS)
def test_a_number_out_of_range_is_refused_by_the_stages_name(stage, numbers) -> None:
    with pytest.raises(ConfigError, match=stage.__name__):
        stage(**numbers)


@pytest.mark.parametrize("order", [1, -1])
def test_what_scales_the_delta_and_what_sets_the_weight_stand_in_either_order(order) -> None:
    pair = (FedNova(), Weigh(by="uniform"))[::order]
    assert chain(*pair, Mean()).stages == (*pair, Mean())
    with pytest.raises(ChainRefused, match=r"Clip \(a clip\) before FedNova \(a scaling of the delta\)"):
        chain(Clip(), FedNova(), Mean())


@dataclass(frozen=True)
class Trimmed(Median):
    """A rule that needs three updates."""

    def connect(self, flow: Flow) -> Flow:
        return super().connect(flow).set(self, min_updates=3)


class Whole:
    """A trainer that can neither stop early nor apply rules for local steps."""

    facts = TrainerFacts("Whole")


IN_FEDERATIONS = {
    "late updates without topping up": (
        lambda: Algorithm(chain(Mean()), LocalSGD(), Poisson(rate=0.5), Quorum(count=2, late="keep")),
        "late",
    ),
    "part of the work of a trainer that does it whole": (
        lambda: Algorithm(chain(Mean()), Whole(), All(), Quorum(deadline_s=9.0, work="partial")),
        "partial",
    ),
    "a rule for steps that the trainer leaves out": (
        lambda: Algorithm(chain(FedProx(mu=0.1), Mean()), Whole(), All()),
        "Whole",
    ),
    "a median of too few": (lambda: Algorithm(chain(Trimmed()), LocalSGD(), Fixed(clients=("a", "b"))), "sampler"),
    "losses of clients that only a sum is seen of": (
        lambda: Algorithm(chain(Clip(), FixedPoint(), PairwiseMasks(), Mean()), LocalSGD(), Oort(count=2)),
        "PairwiseMasks",
    ),
    "losses of clients that noise is promised to hide": (
        lambda: Algorithm(chain(Clip(), Mean("expected"), NoisyRelease()), LocalSGD(), Oort(count=2)),
        "NoisyRelease",
    ),
    "a quorum larger than the cohort": (
        lambda: Algorithm(chain(Mean()), LocalSGD(), Fixed(clients=("a",)), Quorum(count=2)).flows(
            EngineFacts("clock", clock=True)
        ),
        "Quorum",
    ),
    "a deadline without a clock": (
        lambda: Algorithm(chain(Mean()), LocalSGD(), All(), Quorum(deadline_s=9.0)).flows(EngineFacts("plain")),
        "Quorum",
    ),
}


@pytest.mark.parametrize("case", IN_FEDERATIONS)
def test_a_chain_is_refused_by_trainer_sampler_quorum_and_engine(case) -> None:
    made, cause = IN_FEDERATIONS[case]
    with pytest.raises(ChainRefused) as refused:
        made()
    assert re.search(cause, refused.value.caused_by), refused.value.caused_by
    assert refused.value.needed
    assert refused.value.found
    assert refused.value.do_this


def test_an_exchange_that_no_stage_answers_is_refused() -> None:
    algorithm = Algorithm(chain(Mean()), LocalSGD(), All())
    with pytest.raises(ConfigError, match="no stage of the chain answers the exchange 'keys'"):
        algorithm.answer(Exchange(Message(torch.empty(0)), name="keys"), {}, None)

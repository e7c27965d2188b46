"""Whole rounds: the chain's folds, protocols, codecs, whole-cohort rules and replay, on the tiny engine."""

import copy
import random

import pytest
import torch
from conformance.teststages import FixedPoint, Median, NoisyRelease, PairwiseMasks
from conformance.tiny import Listed, Loop, engine

import headway as hw
from headway.core.algorithm import Algorithm, State
from headway.core.chain import chain
from headway.core.context import ServerContext
from headway.core.errors import ChainRefused, ConfigError
from headway.core.flow import EngineFacts
from headway.core.layout import Layout
from headway.core.update import Update
from headway.numerics.keys import Key
from headway.protocol.effects import EffectHandler, drive
from headway.protocol.messages import Answer
from headway.protocol.quorum import Quorum
from headway.protocol.reports import ClientReport
from headway.protocol.sums import ExactTotal
from headway.stages import ECGR, Clip, Mean, Scaffold, ServerAdam, ServerSGD, Weigh

SECURE = (FixedPoint(), PairwiseMasks())


def server_context(tiny) -> ServerContext:
    """The server's context, as a round makes it."""
    w, population = tiny.start().params, len(tiny.clients)
    return ServerContext(0, Key.root(0), tiny.layout, tiny.flows[-1], w, population=population, asked_params=w)


def same_state(a: State, b: State) -> bool:
    mine, theirs = a.tensors(), b.tensors()
    equal = mine.keys() == theirs.keys() and all(torch.equal(mine[name], theirs[name]) for name in mine)
    return equal and a.round == b.round


@pytest.mark.parametrize("lost", [frozenset(), frozenset({"c001"}), frozenset({"c000", "c003"})])
@pytest.mark.parametrize("over", ["examples", "clients"])
@pytest.mark.parametrize("before", [(), (Scaffold(), ECGR(), Weigh(by="capped", cap=5))])
def test_the_secure_sum_is_the_plain_mean(lost, over, before) -> None:
    if before and over == "clients":
        before = before[:-1]
    secure = engine(*before, *SECURE, Mean(over), lost=lost)
    plain = engine(*before, Mean(over), lost=lost)
    assert torch.allclose(secure.run(3).params, plain.run(3).params, rtol=0, atol=1e-9)
    assert [getattr(ask.request, "name", "train") for ask in secure.asked] == ["advertise", "train", "unmask"] * 3
    assert [ask.number for ask in secure.asked] == [0, 1, 2] * 3


def test_a_masked_update_says_nothing_and_the_weight_travels_inside() -> None:
    secure, coded = engine(*SECURE, Mean()), engine(FixedPoint(), Mean())
    secure.run(1), coded.run(1)
    for client, update in secure.sent.items():
        assert float(update.weight) == 0
        near = (update.delta - coded.sent[client].delta).abs() < 2**55
        assert not near.any()


@pytest.mark.parametrize("stages", [(Mean(),), (*SECURE, Mean()), (Scaffold(), Mean("clients"), ServerAdam())])
def test_replaying_completed_answers_gives_the_identical_state(stages) -> None:
    tiny = engine(*stages, lost=frozenset({"c002"}))
    start = tiny.run(1)
    snapshots, answers = [], []

    def send(ask):
        snapshots.append(copy.deepcopy(tiny))
        answers.append(tiny.send(ask))
        return answers[-1]

    whole = drive(tiny.generator(start), EffectHandler(send))
    snapshots.append(tiny)
    for completed, snapshot in enumerate(snapshots):
        before = len(snapshot.asked)
        again = snapshot.round(start, completed=answers[:completed])
        assert same_state(again, whole)
        assert len(snapshot.asked) - before == len(answers) - completed


@pytest.fixture
def calls(monkeypatch):
    """The calls of `lift`, `send` and `decode`, in order."""
    seen: list[str] = []
    for cls, hook in ((Mean, "lift"), (FixedPoint, "send"), (FixedPoint, "decode")):
        original = getattr(cls, hook)

        def noted(self, *given, original=original, hook=hook):
            seen.append(hook)
            return original(self, *given)

        monkeypatch.setattr(cls, hook, noted)
    return seen


def test_where_only_the_sum_is_seen_clients_lift_before_the_first_codec_and_one_decode_is_made(calls) -> None:
    engine(*SECURE, Mean()).run(1)
    assert calls == ["lift", "send"] * 4 + ["decode"]


def test_where_each_update_is_seen_the_server_decodes_and_then_lifts_every_one(calls) -> None:
    engine(FixedPoint(), Mean()).run(1)
    assert calls == ["send", "decode", "lift"] * 4


def test_a_codec_alone_changes_the_result_by_its_resolution_only() -> None:
    coded, plain = engine(FixedPoint(bits=30), Mean()).run(2), engine(Mean()).run(2)
    assert torch.allclose(coded.params, plain.params, rtol=0, atol=2**-27)
    assert not torch.equal(coded.params, plain.params)


@pytest.mark.parametrize("stages", [(Mean(),), (Median(),), (ECGR(), Mean("clients"), ServerAdam()), (*SECURE, Mean())])
def test_the_order_of_arrival_changes_no_bit(stages) -> None:
    shuffled = engine(*stages, arrival=lambda cohort: random.Random(5).sample(cohort, len(cohort)))
    assert same_state(shuffled.run(3), engine(*stages).run(3))


def test_a_whole_cohort_rule_only_writes_reduce() -> None:
    tiny = engine(Median())
    start = tiny.start()
    after = tiny.round(start)
    deltas = torch.stack([tiny.sent[client].delta for client in tiny.clients])
    ordered = deltas.sort(dim=0).values
    assert torch.allclose(after.params - start.params, (ordered[1] + ordered[2]) / 2, atol=1e-15)


def test_a_whole_cohort_rule_reduces_every_vector_and_says_over_how_many_clients() -> None:
    total = ExactTotal()
    for i in range(3):
        update = Update.of(torch.full((2,), float(i)), weight=i, control=torch.full((2,), -float(i * i)))
        total.add_row(f"c{i}", update)
    tiny = engine(Median())
    aggregate, _ = tiny.algorithm.chain.aggregate(total, {}, server_context(tiny), tiny.flows)
    assert aggregate.vectors["delta"].tolist() == [1.0, 1.0]
    assert aggregate.vectors["control"].tolist() == [-1.0, -1.0]
    assert (float(aggregate.sums["clients"]), float(aggregate.weight)) == (3.0, 3.0)


def noisy(multiplier: float, seed: int = 0):
    return engine(Clip(0.5), Mean("expected"), NoisyRelease(multiplier), seed=seed)


def test_noise_is_the_multiplier_times_the_bound_that_the_flow_carries() -> None:
    clear, one, two = (noisy(m).run(1).params for m in (0.0, 1.0, 2.0))
    assert torch.allclose(two - clear, 2 * (one - clear), rtol=1e-12)
    event = noisy(2.0).flows[-1].events[0]
    assert (event.noise_multiplier, event.sensitivity) == (2.0, 0.5 / 4)
    halved = engine(Clip(0.25), Mean("expected"), NoisyRelease(1.0)).run(1).params
    half_clear = engine(Clip(0.25), Mean("expected"), NoisyRelease(0.0)).run(1).params
    assert torch.allclose(2 * (halved - half_clear), one - clear, rtol=1e-12)


def test_noise_repeats_with_its_key_and_differs_between_keys_and_rounds() -> None:
    first, again, other = noisy(1.0).run(1), noisy(1.0).run(1), noisy(1.0, seed=1).run(1)
    assert torch.equal(first.params, again.params)
    assert not torch.equal(first.params, other.params)
    noise = [noisy(1.0).round(State(r, first.params)).params for r in (0, 1)]
    assert not torch.equal(*noise)


def test_noise_is_added_before_the_server_optimizer_reads_the_aggregate(monkeypatch) -> None:
    seen = []
    original = ServerSGD.receive

    def noted(self, update, state, ctx):
        seen.append(update.delta)
        return original(self, update, state, ctx)

    monkeypatch.setattr(ServerSGD, "receive", noted)
    for multiplier in (0.0, 1.0):
        engine(Clip(0.5), Mean("expected"), NoisyRelease(multiplier), ServerSGD()).run(1)
    assert not torch.equal(*seen)


@pytest.mark.parametrize(
    ("stages", "cause"),
    [
        ((Mean("expected"), NoisyRelease()), "NoisyRelease"),
        ((Clip(), Mean("examples"), NoisyRelease()), "Mean"),
        ((Clip(), Median(), NoisyRelease()), "Median"),
    ],
)
def test_noise_without_a_bound_is_refused(stages, cause) -> None:
    with pytest.raises(ChainRefused) as refusal:
        chain(*stages)
    assert "bound" in refusal.value.needed
    assert refusal.value.caused_by == cause


def test_a_protocol_refuses_reals_and_a_whole_cohort_rule_refuses_a_sum() -> None:
    with pytest.raises(ChainRefused, match="needed: integers"):
        chain(PairwiseMasks(), Mean())
    with pytest.raises(ChainRefused) as refusal:
        chain(*SECURE, Median())
    assert refusal.value.caused_by == "PairwiseMasks"


@pytest.mark.parametrize(
    ("stages", "protected"),
    [
        ((Clip(), Mean("expected")), False),
        ((*SECURE, Mean()), True),
        ((Clip(), Mean("expected"), NoisyRelease()), True),
    ],
)
def test_an_algorithm_knows_whether_single_clients_are_protected(stages, protected) -> None:
    assert engine(*stages).algorithm.protected is protected


def test_an_engine_without_memory_refuses_scaffold() -> None:
    algorithm = engine(Scaffold(), Mean("clients")).algorithm
    with pytest.raises(ChainRefused) as refusal:
        algorithm.flows(engine=EngineFacts("stateless", memory=False))
    assert (refusal.value.caused_by, "memory" in refusal.value.needed) == ("stateless", True)


def test_scaffold_refuses_buffered_asynchrony() -> None:
    with pytest.raises(ChainRefused) as refusal:
        Algorithm(chain(Scaffold(), Mean("clients")), Loop(), Listed(), Quorum(2, late="keep"))
    assert refusal.value.caused_by == 'Quorum(late="keep")'


def test_a_quorum_needs_an_engine_with_a_clock() -> None:
    algorithm = Algorithm(chain(Mean()), Loop(), Listed(), Quorum(count=2))
    with pytest.raises(ChainRefused) as refusal:
        algorithm.flows(EngineFacts("local"))
    assert "Quorum(count=2" in refusal.value.caused_by
    assert algorithm.flows(EngineFacts("virtual", clock=True))


@pytest.mark.parametrize("wrong", [{"count": 0}, {"deadline_s": 0.0}, {"deadline_s": float("nan")}])
def test_a_quorum_of_nobody_or_no_time_is_refused(wrong) -> None:
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        Quorum(**wrong)


def test_averaged_buffers_move_by_the_mean_and_the_server_optimizer_leaves_them_alone() -> None:
    tiny = engine(Mean(), ServerSGD(lr=0.5))
    state = tiny.algorithm.initial_state(torch.zeros(3, dtype=torch.float64), torch.tensor([1.0, 2.0]))
    total = ExactTotal()
    for weight, change in ((1.0, 4.0), (3.0, 8.0)):
        update = Update.of(torch.ones(3), weight, buffers=torch.full((2,), change))
        total.add(tiny.algorithm.chain.lift(update, server_context(tiny), tiny.flows))
    after = tiny.round(state, completed=[Answer(total)])
    assert after.buffers.tolist() == [8.0, 9.0]
    assert after.params.tolist() == [0.5, 0.5, 0.5]


def test_a_state_goes_through_flat_names_and_back() -> None:
    state = engine(Scaffold(), Mean("clients"), ServerAdam()).run(2)
    state = State(state.round, state.params, state.stages, torch.ones(2))
    assert same_state(State.from_tensors(state.round, state.tensors()), state)
    assert State.from_tensors(2, state.tensors()).stages.keys() == {"Scaffold", "ServerAdam"}


def test_only_counted_clients_are_counted() -> None:
    reports = [ClientReport("a", "counted"), ClientReport("b", "rejected"), ClientReport("c", "dropped")]
    assert Answer(reports=reports).counted == ("a",)


@pytest.mark.parametrize("stages", [(Scaffold(), Mean("clients"), ServerAdam()), (*SECURE, Mean()), (Median(),)])
def test_a_round_in_which_nobody_answers_only_advances(stages) -> None:
    tiny = engine(*stages, lost=frozenset(f"c{i:03d}" for i in range(4)))
    start = tiny.start()
    after = tiny.round(start)
    assert after.round == 1
    assert same_state(State(0, after.params, after.stages), start)
    nobody = drive(tiny.generator(start, cohort=()), EffectHandler(tiny.send))
    assert same_state(nobody, after)


def test_the_first_answers_are_no_sample_that_amplifies_privacy() -> None:
    """Who answers first is not drawn independently: the accounting of Poisson sampling would promise too much."""
    noisy, quorum = hw.chain(hw.Clip(1.0), hw.Mean("expected"), hw.GaussianNoise(1.0)), hw.Quorum(count=2)
    with pytest.raises(hw.ChainRefused, match="the cohort as the sampler drew it"):
        hw.Algorithm(noisy, hw.LocalSGD(lr=0.1), hw.Poisson(rate=0.5), quorum)
    hw.Algorithm(noisy, hw.LocalSGD(lr=0.1), hw.Uniform(count=4), quorum)
    hw.Algorithm(hw.chain(hw.Mean("clients")), hw.LocalSGD(lr=0.1), hw.Poisson(rate=0.5), quorum)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("lr", [1.0, 0.5])
def test_the_server_s_step_changes_nothing_but_the_model(dtype, lr):
    """Without a copy where none is needed: the sum, and the model of before, are as they were."""
    algorithm = hw.Algorithm(hw.chain(hw.Mean(), hw.ServerSGD(lr=lr)), hw.LocalSGD(lr=0.1), hw.All())
    before, summed = algorithm.initial_state(torch.ones(3, dtype=dtype)), torch.tensor([2.0, -4.0, 0.0]).double()
    total = ExactTotal()
    total.rounded, total.count = {"delta": summed}, 2
    total.weight.add(2.0)
    own = {"key": Key.root(0), "layout": Layout.of({"w": before.params}), "flows": algorithm.flows(), "population": 2}
    after = drive(algorithm.round(before, ("a", "b"), **own), lambda effect: Answer(total=total))
    assert after.params.tolist() == [1.0 + lr, 1.0 - 2 * lr, 1.0]
    assert after.params.dtype == dtype
    assert before.params.tolist() == [1.0] * 3
    assert summed.tolist() == [2.0, -4.0, 0.0]

"""What every registered stage must hold, whatever its idea."""

import copy
import json
import math
from dataclasses import replace

import pytest
import torch
from conformance.cases import (
    CLIENT_HOOKS,
    EVERY,
    EXAMPLES,
    LANES,
    LAYOUT,
    REGISTERED,
    SERVER_HOOKS,
    SIZE,
    around,
    case,
    combine_context,
    flow_at,
    one_client,
    pairs,
    same_bits,
    step_context,
    tensors_in,
)
from conformance.teststages import FixedPoint, PairwiseMasks
from conformance.tiny import Loop, engine, quadratics

from headway.core.chain import Chain, chain
from headway.core.context import slice_tensors
from headway.core.errors import ChainRefused
from headway.core.stage import Aggregator, Place, stages
from headway.core.update import Update
from headway.numerics.keys import Key
from headway.protocol.effects import EffectHandler, drive
from headway.protocol.sums import ExactTotal
from headway.stages import (
    ECGR,
    Clip,
    FedProx,
    LossValidation,
    MajorityVote,
    Mean,
    RandomK,
    Rebase,
    SecureSum,
    ServerSGD,
    Skellam,
    Staleness,
    Weigh,
    WeighByQuality,
)

ALL_HOOKS = CLIENT_HOOKS | SERVER_HOOKS
CODECS = [stage for stage in EVERY if stage.has("decode")]


def of(*kinds, having=lambda stage: True):
    return pytest.mark.parametrize("stage", [s for s in kinds if having(s)], ids=repr)


def test_every_registered_stage_has_example_settings() -> None:
    assert set(EXAMPLES) == {name for name in stages.names() if stages.get(name).__module__.startswith("headway.")}
    assert all(type(stage).__name__ == name for name, examples in EXAMPLES.items() for stage in examples)


@pytest.mark.parametrize(("stage", "hook"), pairs(CLIENT_HOOKS))
def test_many_lanes_at_once_are_the_same_as_one_by_one(stage, hook) -> None:
    together = CLIENT_HOOKS[hook](stage, case(stage))
    for lane in range(LANES):
        alone = tensors_in(CLIENT_HOOKS[hook](stage, one_client(case(stage), lane)))
        batched = tensors_in(together)
        assert alone.keys() == batched.keys()
        for name in alone:
            torch.testing.assert_close(batched[name][lane], alone[name], rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize(("stage", "hook"), pairs(ALL_HOOKS))
def test_hooks_leave_their_inputs_unchanged(stage, hook) -> None:
    given = case(stage)
    before = copy.deepcopy(given)
    ALL_HOOKS[hook](stage, given)
    assert same_bits(given, before)


@pytest.mark.parametrize(("stage", "hook"), pairs(ALL_HOOKS))
def test_the_same_key_gives_the_same_result(stage, hook) -> None:
    given = case(stage)
    once = ALL_HOOKS[hook](stage, given)
    torch.rand(7)
    assert same_bits(ALL_HOOKS[hook](stage, given), once)


AT_SERVER = [pair for pair in pairs(SERVER_HOOKS) if pair[1] in ("receive", "finish")]


def test_each_sum_shaped_stage_without_noise_acts_by_columns() -> None:
    acting = {type(stage) for stage, _ in AT_SERVER if not (isinstance(stage, Aggregator) and stage.whole_cohort)}
    assert {kind.__name__ for kind in acting if not kind.by_columns} == {"AdaptiveClip", "MatrixNoise"}


def in_columns(tensors, start, stop):
    return slice_tensors(tensors, start, stop, SIZE)


@pytest.mark.parametrize("width", [1, 2, 4])
@pytest.mark.parametrize(("stage", "hook"), [p for p in AT_SERVER if p[0].by_columns])
def test_the_servers_hooks_give_the_same_bits_a_few_columns_at_a_time(stage, hook, width) -> None:
    given = case(stage)
    if hook == "finish":
        given.total.rounded, given.total.vectors = dict(given.total.value().vectors), {}
    whole = tensors_in(SERVER_HOOKS[hook](stage, given))
    parts = []
    for start in range(0, SIZE, width):
        stop = min(start + width, SIZE)
        aggregate = replace(given.aggregate, vectors=in_columns(given.aggregate.vectors, start, stop))
        own = {"state": in_columns(given.state, start, stop), "server": given.server.sliced(start, stop)}
        total = given.total.columns(start, stop, SIZE) if hook == "finish" else given.total
        part = replace(given, aggregate=aggregate, total=total, **own)
        parts.append(tensors_in(SERVER_HOOKS[hook](stage, part)))
    for name, expected in whole.items():
        joined = torch.cat([part[name] for part in parts]) if expected.shape == (SIZE,) else parts[-1][name]
        assert same_bits(joined, expected), name


@of(ECGR(rule="random"))
def test_another_key_gives_another_draw(stage) -> None:
    given = case(stage)
    ctx = combine_context(given.ctx)
    other = replace(ctx, key=tuple(Key.root(99).derive(i) for i in range(LANES)))
    assert not torch.equal(stage.combine(given.gram, ctx), stage.combine(given.gram, other))


@of(*REGISTERED)
def test_a_stage_is_rebuilt_from_its_name_and_numbers(stage) -> None:
    described = stages.describe(stage)
    assert stages.build(described) == stage
    rebuilt = stages.build(json.loads(json.dumps(described)))
    assert rebuilt == stage
    assert repr(rebuilt) == repr(stage)
    assert hash(rebuilt) == hash(stage)
    whole = chain(*around(stage))
    assert Chain.from_config(json.loads(json.dumps(whole.to_config()))) == whole


HOSTILE = {
    "nan": torch.tensor([1.0, math.nan, -2.0]),
    "all nan": torch.full((3,), math.nan),
    "infinite": torch.tensor([math.inf, 1.0, 0.0]),
    "infinities": torch.tensor([-math.inf, math.inf, math.nan]),
    "zero": torch.zeros(3),
    "tiny": torch.full((3,), 1e-45),
    "huge float32": torch.tensor([1e30, -1e30, 1e30]),
    "largest float32": torch.tensor([3.4e38, 3.4e38, -1.0]),
    "huge float64": torch.tensor([1e200, -1e200, 1.0], dtype=torch.float64),
    "largest float64": torch.tensor([1.7e308, 1.7e308, -1.7e308], dtype=torch.float64),
}


def bounds(stage) -> bool:
    """Whether a stage sends what a bound holds for: not with noise of its own, on which there is none."""
    if stage == Clip(0.5, others=0.1):
        return False  # whose bound is that of the vectors that are announced
    return stage.has("send") and flow_at(stage).number == "real" and stage.place is not Place.NOISE


@pytest.mark.parametrize("kind", HOSTILE)
# 1.5e-6 / (2 * 3.4e38) is a float32 subnormal, which would round up
@of(
    *EVERY,
    Clip(1.5e-6),
    having=lambda s: bounds(s) and flow_at(s, before=False).bound is not None,
)
def test_a_claimed_bound_holds_for_hostile_updates(stage, kind) -> None:
    hostile = HOSTILE[kind]
    bound = flow_at(stage, before=False, size=6).bound
    lanes = torch.stack([hostile, torch.tensor([3.0, 4.0, 12.0]).to(hostile), hostile])
    ctx = case(stage).ctx
    ctx = replace(ctx, examples=torch.tensor([1, 1, 1]), key=ctx.key[:3])
    sent, _ = stage.send(Update.of(lanes, beside=lanes.flip(0)), {}, ctx)
    if stage.has("decode"):
        sent = stage.decode(sent, case(stage).server)
    norms = sent.squared_norm().sqrt()
    assert bool((norms <= bound * (1 + 1e-6 if hostile.dtype == torch.float32 else 1 + 1e-12)).all())
    if not hostile.isfinite().all():
        assert not norms[[0, 2]].any()
    if not stage.has("decode"):
        assert float(norms[1]) == pytest.approx(min(bound, 13 * math.sqrt(2)), rel=1e-6)


@of(*EVERY, having=lambda s: isinstance(s, Aggregator) and not s.whole_cohort)
def test_some_coordinates_are_lifted_as_they_are_among_all(stage) -> None:
    """So a batch's updates may be lifted and summed a few coordinates at a time."""
    given = case(stage)
    whole = stage.lift(given.update, given.ctx)
    for part in (slice(0, 2), slice(2, None)):
        columns = {name: vector[..., part] for name, vector in given.update.vectors.items()}
        lifted = stage.lift(replace(given.update, vectors=columns), given.ctx)
        for name, vector in lifted.vectors.items():
            assert torch.equal(vector, whole.vectors[name][..., part])
        assert torch.equal(lifted.weight, whole.weight)


@pytest.mark.parametrize("examples", [0, 1, 10**9])
@of(*REGISTERED, having=lambda s: flow_at(s, before=False).weight_bound is not None)
def test_a_claimed_weight_bound_holds(stage, examples) -> None:
    given = one_client(case(stage), 0)
    ctx = replace(given.ctx, examples=torch.tensor(examples))
    sent, _ = stage.send(given.update, given.memory, ctx)
    assert 0 <= float(sent.weight) <= flow_at(stage, before=False).weight_bound


NEUTRAL = {
    "FedProx(0)": (FedProx(0.0), Mean()),
    "ECGR(beta=1)": (ECGR(beta=1.0), Mean()),
    "ECGR(select=1)": (ECGR(select=1.0, beta=0.0), Mean()),
    "Clip(huge)": (Clip(1e30), Mean()),
    "Clip(inf)": (Clip(math.inf), Mean()),
    "Weigh(examples)": (Weigh("examples"), Mean()),
    "WeighByQuality(floor=1)": (WeighByQuality(floor=1.0), Mean()),
    "WeighByQuality(entropy, floor=1)": (WeighByQuality("entropy", floor=1.0), Mean()),
    "ServerSGD()": (Mean(), ServerSGD()),
    "all": (FedProx(0.0), ECGR(beta=1.0), Weigh(), Clip(1e30), Mean(), ServerSGD()),
}


@pytest.mark.parametrize("name", NEUTRAL)
@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_neutral_settings_are_fedavg_to_the_bit(name, momentum) -> None:
    loop = Loop(momentum=momentum)
    assert torch.equal(engine(*NEUTRAL[name], loop=loop).run(4).params, engine(Mean(), loop=loop).run(4).params)


def test_ecgr_on_one_local_step_is_fedavg_to_the_bit() -> None:
    loop = Loop(steps=1)
    assert torch.equal(engine(ECGR(), Mean(), loop=loop).run(4).params, engine(Mean(), loop=loop).run(4).params)


@of(*EVERY, having=lambda s: not isinstance(s, (MajorityVote, SecureSum, Skellam)))  # which so few do not suffice for
@pytest.mark.parametrize(("clients", "size"), [(1, 1), (1, 3), (3, 1)])
def test_one_parameter_and_one_client_are_enough(stage, clients, size) -> None:
    if (fewest := flow_at(stage, before=False).min_updates) > clients:
        with pytest.raises(ChainRefused, match=f"at least {fewest} updates"):
            engine(*around(stage), problems=quadratics(clients, size))
        return
    if isinstance(stage, LossValidation) and clients == 1:
        return  # which is the root, whose update is left out
    tiny = engine(*around(stage), problems=quadratics(clients, size))
    after = tiny.run(3)
    assert after.params.shape == (size,)
    assert bool(torch.isfinite(after.params).all())
    assert not torch.equal(after.params, tiny.start().params)


def after_an_empty_round(stage):
    tiny = engine(*around(stage))
    start = tiny.run(1)
    return start, drive(tiny.generator(start, cohort=()), EffectHandler(tiny.send))


@of(*EVERY, having=lambda s: not s.has("release"))
def test_an_empty_cohort_only_advances_the_round(stage) -> None:
    start, after = after_an_empty_round(stage)
    assert after.round == start.round + 1
    assert same_bits(replace(after, round=0), replace(start, round=0))


@of(*EVERY, having=lambda s: s.has("release"))
def test_an_empty_cohort_is_hidden_by_noise(stage) -> None:
    start, after = after_an_empty_round(stage)
    assert after.round == start.round + 1
    assert bool((after.params != start.params).all())


@of(*REGISTERED, having=lambda s: s.has("step"))
@pytest.mark.parametrize("lanes", [True, False], ids=["lanes", "one client"])
def test_a_step_on_each_tensor_is_the_step_on_the_whole_vector(stage, lanes) -> None:
    given = case(stage) if lanes else one_client(case(stage), 1)
    parts, before = [], step_context(given.ctx)
    for entry in LAYOUT.entries:
        cut = slice(entry.offset, entry.offset + entry.numel)
        memory = slice_tensors(given.memory, cut.start, cut.stop, SIZE)
        ctx = before.sliced(cut.start, cut.stop)
        parts.append(stage.step(given.grad[..., cut], given.w[..., cut], memory, ctx))
    whole = stage.step(given.grad, given.w, given.memory, before)
    assert torch.equal(torch.cat(parts, dim=-1), whole)


@of(*CODECS, having=lambda s: flow_at(s, before=False).additive)
def test_where_encoded_updates_add_merging_and_decoding_commute(stage) -> None:
    given = case(stage)
    encoded, _ = stage.send(given.update, given.memory, given.ctx)
    first, second = ExactTotal(), ExactTotal()
    for lane in range(LANES):
        first.add(encoded.lane(lane))
        second.add(stage.decode(encoded.lane(lane), given.server))
    for name, vector in stage.decode(first.value(), given.server).vectors.items():
        torch.testing.assert_close(vector, second.value().vectors[name], rtol=1e-12, atol=1e-12)
        if not isinstance(stage, RandomK):  # which leaves some coordinates out
            torch.testing.assert_close(vector, given.update.vectors[name].sum(0), rtol=0, atol=1e-9)


@of(*EVERY)
def test_the_vectors_that_a_stage_sends_are_those_that_it_announces(stage) -> None:
    tiny = engine(*around(stage))
    tiny.run(1)
    assert all(set(update.vectors) == set(tiny.flows[-1].lengths(SIZE)) for update in tiny.sent.values())


@of(*EVERY, having=lambda s: s.has("init"))
def test_state_and_memory_are_named_vectors_or_scalars(stage) -> None:
    w = torch.ones(SIZE, dtype=torch.float64)
    lanes = stage.remember(w.expand(LANES, SIZE))
    assert all(kept.shape[-1] in (SIZE, 1) for kept in [*stage.init(w).values(), *lanes.values()])
    assert {name: kept.shape[:-1] for name, kept in lanes.items()} == dict.fromkeys(stage.remember(w), (LANES,))


def secured(stage) -> bool:
    """Whether updates may be added before the server sees them: not if each is shortened by its age there."""
    after = flow_at(stage, before=False)
    return after.weight_leaks is None and not isinstance(stage, (Rebase, Staleness))


@of(*(s for s in REGISTERED if s.place <= Place.CLIP and secured(s)))
def test_every_client_stage_composes_with_a_secure_sum(stage) -> None:
    mean = around(stage)[-1]
    secure = engine(stage, FixedPoint(), PairwiseMasks(), mean)
    plain = engine(stage, mean)
    torch.testing.assert_close(secure.run(2).params, plain.run(2).params, rtol=0, atol=1e-9)

"""Integers on one scale: their sums are exact, the mean of rounding is the update, the bound is restated."""

import math
from dataclasses import dataclass, replace
from typing import ClassVar

import pytest
import torch
from conformance.cases import case
from conformance.teststages import PairwiseMasks
from conformance.tiny import engine
from toys import blobs, linear_task

import headway as hw
from headway.core.flow import Flow, VectorSpec
from headway.core.update import Update
from headway.numerics.hadamard import spread
from headway.numerics.keys import Key
from headway.numerics.rounding import rounded_norm
from headway.server.guard import Promise
from headway.stages import Clip, Mean, Quantize, Scaffold, Weigh

KEY = Key.root(5)


def flow_of(*stages, size=3):
    """The facts that reach Quantize, and that leave it."""
    flows = hw.chain(*stages).trace(Flow(size=size))
    place = next(i for i, stage in enumerate(stages) if isinstance(stage, Quantize))
    return flows[place - 1], flows[place]


def sent(stage, update, flow, key=KEY):
    ctx = replace(case(stage).ctx, key=key, flow=flow)
    return stage.send(update, {}, ctx)[0]


def read(stage, update, flow, **facts):
    return stage.decode(update, replace(case(stage).server, flow=flow, **facts))


@pytest.mark.parametrize("bits", [2, 4, 8, 16, 32])
def test_an_update_comes_back_to_within_a_step(bits):
    stage = Quantize(bits)
    before, _ = flow_of(Clip(2.0), stage, Mean())
    update = Update.of(torch.tensor([0.5, -1.25, 0.0]), 3.0)
    codes = sent(stage, update, before)
    assert codes.delta.dtype == torch.int64
    assert bool(((codes.delta >= 0) & (codes.delta < 2**bits)).all())
    back = read(stage, codes, before).delta
    step = 2.0 / (2 ** (bits - 1) - 1)
    assert bool(((back - update.delta).abs() < step).all())
    assert float(back[2]) == 0.0  # a zero is exact


def test_the_mean_of_many_draws_is_the_update():
    """Closed form: variance g^2 f (1 - f) per coordinate, f being the fraction; six standard errors of 20,000 draws."""
    stage, draws = Quantize(5), 20_000
    before, _ = flow_of(Clip(2.0), stage, Mean())
    x = torch.tensor([0.5, -1.25, 0.031]).double()
    codes = sent(stage, Update.of(x.expand(draws, 3)), before, KEY.for_each("draw", names=range(draws)))
    back, step = read(stage, codes, before).delta, 2.0 / 15
    fraction = x / step - (x / step).floor()
    error = (fraction * (1 - fraction) / draws).sqrt() * step
    assert bool(((back.mean(0) - x).abs() <= 6 * error).all())
    assert torch.allclose(back.var(0), fraction * (1 - fraction) * step**2, rtol=0.05)


def test_the_bound_is_restated_as_rounding_leaves_it():
    size, bits = 1000, 6
    _, after = flow_of(Clip(2.0), Quantize(bits), Mean(), size=size)
    step = 2.0 / 31
    assert after.bound == pytest.approx(step * rounded_norm(31, size))
    spread = math.sqrt(2 * 0.5) * step * (2.0 + step * math.sqrt(size) / 2)
    assert after.bound == pytest.approx(math.sqrt(4 + step**2 * size / 4 + spread))
    _, fine = flow_of(Clip(2.0), Quantize(32), Mean(), size=size)
    assert fine.bound == pytest.approx(2.0, rel=1e-6)


@pytest.mark.parametrize("weighing", [(), (Weigh("capped", 7),), (Weigh("uniform"),)], ids=repr)
def test_sums_of_integers_are_sums_of_what_was_rounded(weighing):
    """Behind a mask: weights are multiplied in first, and the sum of codes decodes to the sum of the decoded."""
    stage = Quantize(10)
    over = "examples" if weighing else "clients"
    before, after = flow_of(*weighing, Clip(2.0), stage, PairwiseMasks(), Mean(over))
    heaviest = 7.0 if weighing and weighing[0].by == "capped" else 1.0
    assert (before.weighted, before.lifted) == (True, heaviest)
    assert (after.number, after.additive, after.largest) == ("ring", True, 511)
    lanes = torch.tensor([[2.0, 0.0, 0.0], [-1.0, 1.0, 0.1], [0.0, 0.0, -2.0]]).double() * heaviest
    codes = sent(stage, Update.of(lanes), before, KEY.for_each("c", names=range(3)))
    assert int(codes.delta.abs().max()) == 511
    together = read(stage, Update.of(codes.delta.sum(0)), before).delta
    assert torch.allclose(together, read(stage, codes, before).delta.sum(0), rtol=1e-12, atol=0)
    assert bool(((together - lanes.sum(0)).abs() < 3 * 2.0 * heaviest / 511).all())


def test_a_masked_sum_is_the_plain_quantised_sum():
    problems = None
    masked = engine(Clip(0.5), Quantize(20), PairwiseMasks(), Mean("clients"), problems=problems).run(3)
    plain = engine(Clip(0.5), Quantize(20), Mean("clients"), problems=problems).run(3)
    assert torch.allclose(masked.params, plain.params, rtol=0, atol=3 * 0.5 / 2**19)


def test_the_norm_of_a_decoded_update_is_checked():
    links = hw.chain(Clip(1.0), Quantize(4), Mean())
    promise = Promise.of(links, links.trace(Flow(size=3)), 3)
    assert promise.bits == {"delta": 4, "buffers": 4}
    with pytest.raises(hw.core.errors.UpdateRejected, match="do not fit in 4 bits"):
        promise.check(Update.of(torch.tensor([16, 0, 0])), "c", 1)
    assert promise.bound == pytest.approx(rounded_norm(7, 3) / 7)


def test_a_chain_of_a_run_restates_the_bound_for_its_model():
    algorithm = hw.Algorithm(hw.chain(Clip(1.0), Quantize(8), Mean()), hw.LocalSGD(lr=0.1, batch_size=4), hw.All())
    run = hw.Run(algorithm, blobs((6, 9, 4)), linear_task(), rounds=2)
    assert [len(report.clients) for report in run] == [3, 3]
    size = run.federation.flat_module.layout.size
    assert run.federation.flows[1].bound == pytest.approx(rounded_norm(127, size) / 127)
    run.close()


@pytest.mark.parametrize(
    ("stages", "sentence"),
    [
        ((Quantize(), Mean()), r"a finite bound .* found: none; .* put Clip\(norm\) before it"),
        ((Clip(math.inf), Quantize(), Mean()), "found: an infinite one"),
        ((Clip(), Quantize(), PairwiseMasks(), Mean()), "weights with an upper limit"),
        ((Quantize(), Clip(), Mean()), "put Clip before Quantize"),
        ((Clip(), PairwiseMasks(), Mean("clients")), "FixedPoint"),
    ],
)
def test_what_cannot_be_quantised_is_refused(stages, sentence):
    with pytest.raises(hw.ChainRefused, match=sentence):
        hw.chain(*stages)


@pytest.mark.parametrize("size", [3, 1000])
def test_a_rotated_update_comes_back_to_within_the_finer_step(size):
    stage = Quantize(12, rotate=True)
    before, after = flow_of(Clip(2.0), stage, Mean(), size=size)
    x = KEY.derive("x").uniform(2 * size).reshape(2, size) - 0.5
    x = 2.0 * x / torch.linalg.vector_norm(x, dim=-1, keepdim=True)
    keys = KEY.for_each("c", names="ab")
    back = read(stage, sent(stage, Update.of(x), before, keys), before, age=torch.zeros(2).long()).delta
    step = stage.scale(2.0, size).unit
    assert step == pytest.approx(2.0 * spread(size) / 2047)
    error = torch.linalg.vector_norm(back - x, dim=-1)
    assert bool((error <= step * math.sqrt(size)).all())
    assert bool((error >= 0.1 * step).all())
    assert bool((torch.linalg.vector_norm(back, dim=-1) <= after.bound).all())


def test_sums_of_rotated_integers_turn_back_as_one():
    stage = Quantize(16, rotate=True)
    before, _ = flow_of(Clip(2.0), stage, PairwiseMasks(), Mean("clients"), size=300)
    x = (KEY.derive("y").uniform(4 * 300).reshape(4, 300) - 0.5) / 10
    codes = sent(stage, Update.of(x), before, KEY.for_each("c", names=range(4)))
    together = read(stage, Update.of(codes.delta.sum(0)), before, age=torch.tensor(0)).delta
    assert bool(((together - x.sum(0)).abs() < 6 * stage.scale(2.0, 300).unit).all())


def test_a_late_update_turns_back_with_the_signs_of_its_own_round():
    stage = Quantize(16, rotate=True)
    before, _ = flow_of(Clip(2.0), stage, Mean(), size=300)
    x = (KEY.derive("z").uniform(2 * 300).reshape(2, 300) - 0.5) / 10
    keys = KEY.for_each("c", names="ab")
    ctx = replace(case(stage).ctx, key=keys, flow=before, round=torch.tensor([[3.0], [5.0]]))
    codes, _ = stage.send(Update.of(x), {}, ctx)
    server = replace(case(stage).server, flow=before, round=6)
    back = stage.decode(codes, replace(server, age=torch.tensor([3, 1]))).delta
    assert bool(((back - x).abs() < 6 * stage.scale(2.0, 300).unit).all())
    alone = stage.decode(codes.lane(1), replace(server, age=torch.tensor(1))).delta
    assert torch.equal(alone, back[1])
    wrong = stage.decode(codes, replace(server, age=torch.tensor([0, 0]))).delta
    assert float((wrong - x).norm()) > 0.5 * float(x.norm())


def test_several_vectors_are_taken_as_one_in_the_order_of_their_names():
    stage = Quantize(16, rotate=True)
    before, _ = flow_of(Clip(2.0), stage, Mean(), size=40)
    delta, control = torch.linspace(-0.1, 0.2, 40).double(), torch.linspace(0.3, 0.0, 40).double()
    codes = sent(stage, Update.of(delta, control=control), before)
    swapped = replace(codes, vectors=dict(reversed(list(codes.vectors.items()))))
    for arrived in (codes, swapped):
        back = read(stage, arrived, before, age=torch.tensor(3), round=6)
        assert bool(((back.delta - delta).abs() < 6 * stage.scale(2.0, 80).unit).all())
        assert bool(((back.vectors["control"] - control).abs() < 6 * stage.scale(2.0, 80).unit).all())


@pytest.mark.parametrize("rotate", [False, True])
def test_the_stated_unit_is_that_of_the_integers(rotate):
    stage = Quantize(10, rotate)
    _, after = flow_of(Clip(2.0), stage, PairwiseMasks(), Mean("clients"), size=500)
    scale = stage.scale(2.0, 500)
    assert after.integer_norm == scale.longest
    assert after.bound == scale.longest * scale.unit
    assert scale.longest == pytest.approx(rounded_norm(511 / (spread(500) if rotate else 1.0), 500))


def test_each_vector_that_is_clipped_on_its_own_has_a_scale_of_its_own():
    stage = Quantize(12)
    stages = (Scaffold(), Clip(2.0, others=0.01), stage, PairwiseMasks(), Mean("clients"))
    before, after = flow_of(*stages, size=30)
    assert before.bound == pytest.approx(math.hypot(2.0, 0.01))
    assert {name: before.bounds[name] for name in ("delta", "control")} == {"delta": 2.0, "control": 0.01}
    delta, control = torch.linspace(-0.3, 0.2, 30).double(), torch.linspace(0.001, -0.001, 30).double()
    codes = sent(stage, Update.of(delta, control=control), before)
    back = read(stage, codes, before)
    assert bool(((back.delta - delta).abs() < 2.0 / 2047).all())
    assert bool(((back.vectors["control"] - control).abs() < 0.01 / 2047).all())
    longest = rounded_norm(2047, 30)
    assert after.bound == pytest.approx(math.hypot(2.0, 0.01) * longest / 2047)
    assert after.integer_norm == pytest.approx(math.hypot(longest, longest))
    assert not after.bounds


def test_a_control_change_on_the_scale_of_the_delta_is_refused():
    with pytest.raises(hw.ChainRefused, match=r"control under one bound .* caused by: Scaffold; .*others=") as refused:
        hw.chain(Scaffold(), Clip(1.0), Quantize(), Mean("clients"))
    assert "Quantize depends on it" in refused.value.needed


def test_vectors_of_one_number_may_share_the_scale():
    hw.chain(hw.FedNova(), Clip(1.0), Quantize(), Mean("clients"))


def test_integers_are_not_quantised_again():
    @dataclass(frozen=True)
    class Places(hw.Stage):
        place: ClassVar[hw.Place] = hw.Place.SPARSIFY

        def connect(self, flow):
            return flow.carry(self, "places", spec=VectorSpec(3, "integer", bits=8))

    for stages in ((Places(), Clip(), Mean()), (Clip(), Quantize(), hw.LocalGaussian(1.0), Mean("clients"))):
        with pytest.raises(hw.ChainRefused, match=r"needed: real numbers.* found: integers"):
            hw.chain(*stages)

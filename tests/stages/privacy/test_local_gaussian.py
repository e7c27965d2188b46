"""Local Gaussian noise: how much, of whose randomness, what leaves without it, and with what it stands."""

import math
from dataclasses import replace

import pytest
import torch
from conformance.cases import LANES, case, one_client
from conformance.teststages import FixedPoint, Median
from conformance.tiny import engine, quadratics
from scipy import stats

import headway as hw
from headway.core.context import ClientContext
from headway.core.flow import Flow, SamplerFacts
from headway.core.layout import Layout
from headway.core.update import Update
from headway.numerics.keys import Key

SIZE = 50_000
FLOW = Flow(sampler=SamplerFacts("all", 4.0, 4))


def client(size, key, norm=2.0, system=None):
    zero, w = torch.zeros(()), torch.zeros(size)
    numbers = dict.fromkeys(("steps", "effective_lr", "free_effective_lr", "lr_sum", "examples"), zero)
    layout = Layout.of({"w": w})
    return ClientContext(0, key, layout, Flow(bound=norm), w, movement=w, system=system, **numbers)


@pytest.mark.parametrize("discrete", [False, True])
def test_the_noise_is_gaussian_with_the_multiplier_times_the_clip_norm(discrete):
    value = torch.linspace(-1, 1, SIZE)
    stage = hw.LocalGaussian(3.0, discrete)
    update, _ = stage.send(Update.of(value, 9.0, control=value), {}, client(SIZE, Key.root(1)))
    drawn = torch.cat([update.delta - value, update.vectors["control"] - value]).double() / 6.0
    assert stats.kstest(drawn.numpy(), "norm").pvalue > 1e-3
    assert abs(float(drawn.std()) - 1) < 4 / math.sqrt(4 * SIZE)
    assert update.delta.dtype == torch.float32


def test_the_number_of_examples_does_not_leave():
    update, _ = hw.LocalGaussian(1.0).send(Update.of(torch.zeros(3), 9.0), {}, client(3, Key.root(1)))
    assert float(update.weight) == 1.0
    tiny = engine(hw.Clip(1.0), hw.LocalGaussian(1.0), hw.Mean(), problems=quadratics(4, 3))
    tiny.run(1)
    assert {float(update.weight) for update in tiny.sent.values()} == {1.0}


def test_clients_rounds_and_system_keys_draw_their_own_noise():
    stage, zero = hw.LocalGaussian(1.0), Update.of(torch.zeros(2000), 1.0)
    keys = [Key.root(1).derive("c", round).owned(name) for round in (0, 1) for name in ("a", "b")]
    drawn = [stage.send(zero, {}, client(2000, key))[0].delta for key in keys]
    drawn += [stage.send(zero, {}, client(2000, keys[0], system=Key.system()))[0].delta for _ in range(2)]
    correlations = torch.corrcoef(torch.stack(drawn)) - torch.eye(len(drawn))
    assert float(correlations.abs().max()) < 8 / math.sqrt(2000)
    assert torch.equal(drawn[0], stage.send(zero, {}, client(2000, keys[0]))[0].delta)


def test_a_systems_key_is_each_lanes_own():
    stage = hw.LocalGaussian(1.0)
    given = case(stage)
    keys = Key.system().for_each("lane", names=range(LANES))
    together = stage.send(given.update, {}, replace(given.ctx, system=keys))[0]
    for lane in range(LANES):
        alone = one_client(given, lane)
        one = stage.send(alone.update, {}, replace(alone.ctx, system=keys[lane]))[0]
        assert torch.equal(one.delta, together.delta[lane])


def trace(*links, flow=FLOW):
    return hw.chain(*links).trace(flow)[-1]


def test_its_event_is_the_clients():
    (event,) = trace(hw.Clip(2.0), hw.LocalGaussian(3.0), hw.Mean()).events
    assert (event.at, event.relation, event.noise_multiplier, event.sensitivity) == ("client", "zero_out", 3.0, 2.0)


def test_with_central_noise_there_are_two_events_and_the_bound_is_that_of_the_data():
    local, central = trace(hw.Clip(2.0), hw.LocalGaussian(3.0), hw.Mean("expected"), hw.GaussianNoise(0.5)).events
    assert (local.at, central.at) == ("client", "server")
    assert (central.sensitivity, central.relation) == (0.5, "zero_out")
    assert trace(hw.Clip(2.0), hw.LocalGaussian(3.0), hw.Mean("expected")).bound is None


@pytest.mark.parametrize(
    "links",
    [
        (hw.LocalGaussian(1.0), hw.Mean()),
        (hw.Clip(math.inf), hw.LocalGaussian(1.0), hw.Mean()),
        (hw.Weigh("examples"), hw.Clip(1.0), hw.LocalGaussian(1.0), hw.Mean()),
        (hw.Weigh("capped", 5), hw.Clip(1.0), hw.LocalGaussian(1.0), hw.Mean()),
        (hw.Clip(1.0), FixedPoint(), hw.LocalGaussian(1.0), hw.Mean()),
        (hw.Clip(1.0), hw.LocalGaussian(1.0), hw.Mean(), hw.GaussianNoise(1.0)),
    ],
    ids=repr,
)
def test_what_would_leave_without_noise_is_refused(links):
    with pytest.raises(hw.ChainRefused):
        hw.chain(*links)


def test_a_robust_rule_is_allowed_with_a_warning_and_central_noise_after_it_is_refused():
    assert any("Median" in warning for warning in trace(hw.Clip(1.0), hw.LocalGaussian(1.0), Median()).warnings)
    assert not trace(hw.Clip(1.0), Median()).warnings
    with pytest.raises(hw.ChainRefused, match="a rule over the whole cohort") as refused:
        hw.chain(hw.Clip(1.0), Median(), hw.GaussianNoise(1.0))
    assert refused.value.caused_by == "Median"


def test_late_updates_are_allowed():
    hw.Algorithm(
        hw.chain(hw.Clip(1.0), hw.LocalGaussian(1.0), hw.Mean("clients")),
        hw.LocalSGD(lr=0.1),
        hw.Uniform(4),
        hw.Quorum(count=2, late="keep"),
    )

"""Gaussian noise on the aggregate: how much, how it is distributed, when it is drawn, and what it needs."""

import math
from dataclasses import replace

import pytest
import torch
from conformance.tiny import engine, quadratics
from scipy import stats

import headway as hw
from headway.core.context import ServerContext
from headway.core.flow import Flow, SamplerFacts
from headway.core.layout import Layout
from headway.core.update import Update
from headway.numerics.keys import Key
from headway.protocol.effects import EffectHandler, Persist, Reserve, drive

SIZE = 60_000
EXPECTED = SamplerFacts("poisson", 4.0, 8, 0.5)


def chain(noise, norm=2.0, **options):
    links = hw.chain(hw.Clip(norm), hw.Mean("expected"), noise)
    return links.trace(Flow(sampler=EXPECTED, **options))


def server(flow, size=SIZE, round=0, system=None):
    w = torch.zeros(size, dtype=torch.float64)
    key = Key.root(3).derive("server", round).derive("GaussianNoise")
    return ServerContext(round, key, Layout.of({"w": w}), flow, w, population=8, asked_params=w, system=system)


def released(noise, delta, round=0, system=None, **vectors):
    flow = chain(noise)[1]
    return noise.release(Update.of(delta, 17.0, **vectors), server(flow, delta.numel(), round, system))


BOTH = pytest.mark.parametrize("noise", [hw.GaussianNoise(1.5), hw.GaussianNoise(1.5, discrete=True)], ids=repr)


@BOTH
def test_the_noise_is_gaussian_with_the_multiplier_times_the_bound(noise):
    value = torch.linspace(-3, 3, SIZE, dtype=torch.float64)
    drawn = (released(noise, value).delta - value) / (1.5 * 2.0 / 4.0)
    assert stats.kstest(drawn.numpy(), "norm").pvalue > 1e-3
    assert abs(float(drawn.std()) - 1) < 4 / math.sqrt(2 * SIZE)


@BOTH
def test_every_vector_is_noised_with_numbers_of_its_own(noise):
    zero = torch.zeros(SIZE, dtype=torch.float64)
    update = released(noise, zero, control=zero.clone(), buffers=zero[:100])
    drawn = torch.cat(list(update.vectors.values())).numpy() / 0.75
    assert stats.kstest(drawn, "norm").pvalue > 1e-3
    assert abs(float(torch.corrcoef(torch.stack([update.delta, update.vectors["control"]]))[0, 1])) < 0.02


@BOTH
def test_rounds_and_system_keys_draw_anew_and_one_key_draws_the_same(noise):
    zero = torch.zeros(1000, dtype=torch.float64)
    first, again = released(noise, zero).delta, released(noise, zero).delta
    assert torch.equal(first, again)
    others = [released(noise, zero, round=1), released(noise, zero, system=Key.system())]
    others.append(released(noise, zero, system=Key.system()))
    for other in others:
        assert int((other.delta == first).sum()) < 3  # two draws may fall on the same step of the grid
        assert abs(float(torch.corrcoef(torch.stack([other.delta, first]))[0, 1])) < 8 / math.sqrt(1000)
    assert int((others[1].delta == others[2].delta).sum()) < 3


@BOTH
def test_what_can_be_released_does_not_depend_on_the_value(noise):
    """Every release is a multiple of one power of two, and small enough to be one exactly, of a million clients."""
    for value in (0.0, 0.1, math.pi, -1e6 / 3):
        delta = released(noise, torch.full((1000,), value, dtype=torch.float64)).delta
        step = 2.0 ** (-1 - (23 if noise.discrete else 32))  # 0.75 is at least 2^-1
        multiples = delta / step
        assert torch.equal(multiples, multiples.round())
        assert bool((multiples.abs() < 2.0**53).all())


def test_rounding_is_paid_for():
    """Two neighbours differ by at most the bound and a step in each number, and the noise is for that."""
    size, noise = 10_000, hw.GaussianNoise(1.5, discrete=True)
    zero = torch.zeros(size, dtype=torch.float64)
    step = 2.0**-24
    flow = chain(noise)[1]
    from headway.stages.privacy.noise_grid import NoiseGrid

    grid = NoiseGrid(1.5, flow.bound, size, True)
    assert grid.step == step
    apart = torch.full((size,), flow.bound / math.sqrt(size), dtype=torch.float64)
    worst = 0.0
    for shift in (0.0, step / 2.01, step / 3):
        rounded = [torch.round((zero + shift + part) / step) * step for part in (zero, apart)]
        worst = max(worst, float((rounded[1] - rounded[0]).norm()))
    assert worst > flow.bound  # so that it matters
    assert worst <= grid.std / 1.5


def test_the_weight_and_the_counts_of_clients_are_not_released():
    update = released(hw.GaussianNoise(1.0), torch.zeros(3, dtype=torch.float64))
    assert float(update.weight) == 4.0
    assert {name: float(number) for name, number in update.sums.items()} == {"clients": 4.0}


def test_the_event_has_the_bound_after_the_mean():
    (event,) = chain(hw.GaussianNoise(1.1), norm=3.0)[-1].events
    assert (event.mechanism, event.noise_multiplier, event.sensitivity) == ("gaussian", 1.1, 0.75)
    assert (event.covers, event.unit, event.at, event.relation) == (("delta",), "client", "server", "add_remove")


@pytest.mark.parametrize("multiplier", [0.0, -1.0, math.nan, math.inf])
def test_no_noise_is_refused(multiplier):
    with pytest.raises(hw.ConfigError, match="multiplier"):
        hw.GaussianNoise(multiplier)


@pytest.mark.parametrize(
    "links",
    [
        (hw.Mean("expected"),),
        (hw.Clip(1.0), hw.Mean("examples")),
        (hw.Clip(1.0), hw.Mean("clients")),
        (hw.Clip(math.inf), hw.Mean("expected")),
        (hw.Clip(1.0), hw.Weigh("examples"), hw.Mean("expected")),
    ],
    ids=repr,
)
def test_without_a_bound_it_is_refused(links):
    with pytest.raises(hw.ChainRefused):
        hw.chain(*links, hw.GaussianNoise(1.0))


def test_capped_weights_keep_the_bound():
    links = hw.chain(hw.Weigh("capped", 5), hw.Clip(1.0), hw.Mean("expected"), hw.GaussianNoise(1.0))
    assert links.trace(Flow(sampler=EXPECTED))[-1].events[0].sensitivity == 0.25


def test_a_release_that_was_kept_is_used_again():
    tiny = engine(hw.Clip(1.0), hw.Mean("expected"), hw.GaussianNoise(0.7), problems=quadratics(3, 4))
    start, done, kept = tiny.start(), [], []

    def completed(effect, answer):
        done.append(answer)
        kept.append(effect)

    def generator():
        rest = {"layout": tiny.layout, "flows": tiny.flows, "population": 3, "system": Key.system()}
        return tiny.algorithm.round(start, tuple(tiny.clients), key=Key.root(0), **rest)

    first = drive(generator(), EffectHandler(tiny.send, completed=completed))
    assert [type(effect) for effect in kept][-2:] == [Reserve, Persist]
    again = drive(generator(), EffectHandler(tiny.send), done)
    assert torch.equal(first.params, again.params)
    other = drive(generator(), EffectHandler(tiny.send), done[:-1])
    assert not torch.equal(first.params, other.params)  # was not kept, so it is drawn again


def test_a_number_too_large_for_the_grid_is_refused():
    from headway.stages.privacy.noise_grid import NoiseGrid

    with pytest.raises(hw.ConfigError, match="discrete"):
        NoiseGrid(1e6, 1.0, 10**9, True)
    with pytest.raises(hw.ConfigError, match="clip norm"):
        NoiseGrid(1.0, 1e-300, 1)


def test_more_clients_than_expected_do_not_raise_the_effect_of_one():
    """Averaged statistics too are divided by the expected cohort behind a clip."""
    from headway.protocol.sums import ExactTotal

    mean, flows = hw.Mean("expected"), chain(hw.GaussianNoise(1.0))
    ctx = replace(server(flows[0], 1), flow=flows[0])

    def mean_of(signs):
        total = ExactTotal()
        for sign in signs:
            one = torch.tensor([float(sign) * 2.0], dtype=torch.float64)
            total.add(mean.lift(Update.of(one * 0, 1.0, buffers=one), ctx))
        return mean.finish(total, ctx).vectors["buffers"]

    many = [1.0] * 6
    assert abs(float(mean_of([*many, -1.0]) - mean_of(many))) <= flows[1].bound * (1 + 1e-12)

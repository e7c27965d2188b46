"""Adaptive clipping: the sign, the split of the noise, the C that clips and that noise is of, secure sums, bounds."""

import math

import pytest
import torch
from conformance.teststages import FixedPoint, PairwiseMasks
from conformance.tiny import Loop, engine, quadratics

import headway as hw
from headway.core.context import ClientContext
from headway.core.flow import Flow, SamplerFacts
from headway.core.layout import Layout
from headway.core.update import Update
from headway.numerics.keys import Key
from headway.protocol.effects import EffectHandler, drive


def sent(stage, delta, norm, **vectors):
    zero = torch.zeros(())
    w = torch.zeros(delta.shape[-1], dtype=delta.dtype)
    numbers = dict.fromkeys(("steps", "effective_lr", "free_effective_lr", "lr_sum", "examples"), zero)
    received = {"norm": torch.tensor([norm], dtype=torch.float64)}
    layout = Layout.of({"w": w})
    ctx = ClientContext(0, Key.root(0), layout, Flow(), w, received, movement=delta, **numbers)
    return stage.send(Update.of(delta, 1.0, **vectors), {}, ctx)[0]


def norms_of(tiny, rounds):
    state, found = tiny.start(), []
    for _ in range(rounds):
        state = tiny.round(state)
        found.append(float(state.stages["AdaptiveClip"]["norm"]))
    return found, state


@pytest.mark.parametrize(("start", "rises"), [(1e-3, True), (1e3, False)])
def test_the_norm_rises_where_updates_are_clipped_and_falls_where_none_is(start, rises):
    found, _ = norms_of(engine(hw.AdaptiveClip(start, lr=0.2), hw.Mean("clients")), 3)
    expected = [start * math.exp((0.5 if rises else -0.5) * 0.2 * (t + 1)) for t in range(3)]
    assert found == pytest.approx(expected, rel=1e-12)


def test_the_norm_ends_at_the_quantile():
    """Clients whose updates keep their lengths, 1 to 9: a target of 0.7 lies between those of the sixth and seventh."""
    from conformance.tiny import Quadratic

    eye = torch.eye(2, dtype=torch.float64)
    far = [Quadratic(1e-9 * eye, torch.tensor([1e9 * (k + 1), 0.0]).double()) for k in range(9)]
    tiny = engine(hw.AdaptiveClip(0.01, 0.7, 0.3), hw.Mean("clients"), hw.ServerSGD(1e-9), problems=far)
    _, state = norms_of(tiny, 120)
    lengths = sorted(float(k + 1) * 0.25 for k in range(9))  # 5 steps of 0.05
    assert lengths[5] * 0.99 <= float(state.stages["AdaptiveClip"]["norm"]) <= lengths[6] * 1.01


def test_the_release_is_that_of_a_clip_at_the_same_norm():
    adaptive = engine(hw.AdaptiveClip(0.3, lr=0.0), hw.Mean("clients")).run(3).params
    plain = engine(hw.Clip(0.3), hw.Mean("clients")).run(3).params
    torch.testing.assert_close(adaptive, plain, rtol=1e-13, atol=1e-14)


def test_what_travels_has_the_norm_1_at_most_and_the_bit_in_it():
    stage = hw.AdaptiveClip(bit_share=0.6)
    for delta, bit in (([3.0, 4.0], -0.6), ([0.3, 0.4], 0.6), ([1.2, 1.6], 0.6), ([0.0, 0.0], 0.6)):
        update = sent(stage, torch.tensor(delta, dtype=torch.float64), 2.0)
        assert float(update.vectors["clip_bit"]) == bit
        assert float(update.squared_norm()) <= 1 + 1e-12
        length = 0.8 * min(1.0, math.hypot(*delta) / 2.0)
        assert float(update.delta.norm()) == pytest.approx(length, rel=1e-12)
    broken = sent(stage, torch.tensor([math.nan, 1.0]), 2.0)
    assert not any(bool(vector.any()) for vector in broken.vectors.values())


def test_control_and_statistics_are_clipped_jointly_with_the_delta():
    delta = torch.full((4,), 1.0, dtype=torch.float64)
    update = sent(hw.AdaptiveClip(), delta, 1.0, control=10 * delta, buffers=5 * delta[:2])
    assert float(update.squared_norm()) == pytest.approx(1.0, rel=1e-12)


@pytest.mark.parametrize("share", [0.1, 0.5])
def test_the_noise_is_split_as_in_the_paper(share):
    """z_delta = (z^-2 - (2 sigma_b)^-2)^(-1/2), on the sums of the deltas over C and of the bits."""
    z, clients, size, rounds = 1.3, 4, 200, 60
    sigma_b = z / (2 * share)
    z_delta = (z**-2 - (2 * sigma_b) ** -2) ** -0.5
    links = (hw.AdaptiveClip(0.5, 0.5, 0.1, share), hw.Mean("expected"))
    problems = quadratics(clients, size)
    noisy, plain = (
        engine(*links, *more, problems=problems, loop=Loop(steps=1, lr=1e-9)) for more in ((hw.GaussianNoise(z),), ())
    )
    state, deltas, bits = noisy.start(), [], []
    for _ in range(rounds):
        without, norm = plain.round(state), float(state.stages["AdaptiveClip"]["norm"])
        after = noisy.round(state)
        deltas.append((after.params - without.params) * clients / norm)
        moved = [float(torch.log(s.stages["AdaptiveClip"]["norm"])) for s in (after, without)]
        bits.append(-(moved[0] - moved[1]) / 0.1 * clients)
        state = after
    drawn = torch.cat(deltas)
    assert float(drawn.std()) == pytest.approx(z_delta, rel=4 / math.sqrt(2 * len(drawn)))
    assert float(torch.tensor(bits).square().mean().sqrt()) == pytest.approx(sigma_b, rel=4 / math.sqrt(2 * rounds))


def test_it_is_one_event_of_the_whole_multiplier():
    links = hw.chain(hw.AdaptiveClip(), hw.Mean("expected"), hw.GaussianNoise(1.1))
    (event,) = links.trace(Flow(sampler=SamplerFacts("poisson", 5.0, 10, 0.5)))[-1].events
    assert (event.noise_multiplier, event.sensitivity, event.covers) == (1.1, 0.2, ("delta", "clip_bit"))


def test_the_bit_travels_behind_a_secure_sum():
    links = (hw.AdaptiveClip(0.4),), (hw.Mean("expected"), hw.GaussianNoise(0.5), hw.ServerAdam())
    secure = engine(*links[0], FixedPoint(), PairwiseMasks(), *links[1])
    plain = engine(*links[0], *links[1])
    found, state = norms_of(secure, 3)
    assert found == pytest.approx(norms_of(plain, 3)[0], rel=1e-9)
    torch.testing.assert_close(state.params, plain.run(3).params, rtol=0, atol=1e-9)
    assert set(secure.sent["c000"].vectors) == {"delta", "clip_bit", "weight"}


def test_a_resumed_round_moves_the_norm_as_the_kept_release_did():
    tiny = engine(hw.AdaptiveClip(), hw.Mean("expected"), hw.GaussianNoise(1.0))
    start, done = tiny.run(1), []

    def generator():
        rest = {"layout": tiny.layout, "flows": tiny.flows, "population": 4, "system": Key.system()}
        return tiny.algorithm.round(start, tuple(tiny.clients), key=Key.root(0), **rest)

    first = drive(generator(), EffectHandler(tiny.send, completed=lambda effect, answer: done.append(answer)))
    again = drive(generator(), EffectHandler(tiny.send), done)
    assert torch.equal(first.stages["AdaptiveClip"]["norm"], again.stages["AdaptiveClip"]["norm"])


def test_late_updates_are_refused():
    with pytest.raises(hw.ChainRefused, match="older norm"):
        hw.Algorithm(
            hw.chain(hw.AdaptiveClip(), hw.Mean("clients")),
            hw.LocalSGD(lr=0.1),
            hw.Uniform(4),
            hw.Quorum(count=2, late="keep"),
        )

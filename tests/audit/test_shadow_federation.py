"""A shadow round shows what a real round would show, and leaves nothing behind."""

import pytest
import torch
from conformance.teststages import FixedPoint, NoisyRelease, PairwiseMasks
from toys import blobs, linear_task

import headway as hw
from headway.audit.shadow_federation import ShadowFederation


def algorithm(*stages, **trainer):
    return hw.Algorithm(hw.chain(*stages), hw.LocalSGD(lr=0.1, batch_size=4, **trainer), hw.All())


def shadow(*stages, seed=3, **trainer):
    return ShadowFederation(algorithm(*stages, **trainer), blobs(), linear_task(), seed)


def test_a_round_ends_with_the_model_of_a_real_round():
    real = hw.Run(algorithm(hw.Mean()), blobs(), linear_task(), rounds=1, seed=3)
    list(real)
    view = (federation := shadow(hw.Mean())).round(federation.data.clients)
    assert torch.equal(view.after.params, real.state.params)
    real.close()


def test_the_server_sees_each_update_or_only_the_sum():
    plain, masked = shadow(hw.Mean()), shadow(FixedPoint(), PairwiseMasks(), hw.Mean())
    one, other = plain.round(plain.data.clients), masked.round(masked.data.clients)
    assert (plain.sees_each, masked.sees_each) == (True, False)
    assert set(one.updates) == set(plain.data.clients)
    assert other.updates == {}
    assert torch.allclose(one.aggregate.delta, other.aggregate.delta, atol=1e-6)


def test_noise_lies_between_the_aggregate_and_the_release():
    federation = shadow(hw.Clip(1.0), hw.Mean(over="expected"), NoisyRelease(multiplier=2.0))
    view = federation.round(federation.data.clients)
    noise = view.released.delta - view.aggregate.delta
    assert float(noise.norm()) > 0
    assert torch.allclose(view.after.params - view.before.params, view.released.delta.float(), atol=1e-6)


def test_updates_are_shown_as_the_server_reads_them():
    federation = shadow(hw.Clip(0.01), hw.Mean())
    norms = [float(update.delta.norm()) for update in federation.round(federation.data.clients).updates.values()]
    assert norms == pytest.approx([0.01] * 3, rel=1e-4)


def test_one_step_is_shorter_and_a_round_repeats():
    federation = shadow(hw.Mean(), epochs=5)
    whole, again = (federation.round(federation.data.clients) for _ in range(2))
    step = federation.round(federation.data.clients, steps=1)
    assert torch.equal(whole.after.params, again.after.params)
    for client in federation.data.clients:
        assert step.updates[client].delta.norm() < whole.updates[client].delta.norm()


def test_who_gives_no_update_is_named():
    federation = shadow(hw.Mean(), stragglers=1.0, straggler_policy="drop", epochs=2)
    view = federation.round(federation.data.clients)
    assert set(view.declined) == set(federation.data.clients)
    assert view.aggregate is None

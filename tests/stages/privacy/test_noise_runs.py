"""Chains with noise in whole runs: on every engine the same, and the same after a stop as without."""

import pytest
import torch
from toys import blobs, linear_task

import headway as hw
from headway.engines.wire_engine import WireEngine

TRAINER = hw.LocalSGD(lr=0.1, batch_size=4)
SIZES = (7, 12, 5, 9, 8, 6)
ALGORITHMS = {
    "central": hw.Algorithm(
        hw.chain(hw.Clip(1.0), hw.Mean("expected"), hw.GaussianNoise(0.5), hw.ServerAdam()), TRAINER, hw.Poisson(0.7)
    ),
    "discrete": hw.Algorithm(
        hw.chain(hw.Clip(1.0), hw.Mean("expected"), hw.GaussianNoise(0.5, discrete=True)), TRAINER, hw.All()
    ),
    "adaptive": hw.Algorithm(
        hw.chain(hw.ECGR(), hw.AdaptiveClip(0.3), hw.Mean("expected"), hw.GaussianNoise(0.5)), TRAINER, hw.All()
    ),
    "local": hw.Algorithm(
        hw.chain(hw.Scaffold(), hw.Clip(1.0), hw.LocalGaussian(0.3), hw.Mean("clients")), TRAINER, hw.All()
    ),
    "matrix": hw.Algorithm(
        hw.chain(hw.Clip(1.0), hw.Mean("expected"), hw.MatrixNoise(0.5, 8, bands=2)), TRAINER, hw.Spaced(3, 2)
    ),
    "tree": hw.Algorithm(
        hw.chain(hw.Clip(1.0), hw.Mean("expected"), hw.MatrixNoise(0.5, 8, "tree")), TRAINER, hw.Uniform(3)
    ),
}
ENGINES = {
    "lanes": lambda: hw.LocalEngine(lanes=3),
    "clock": lambda: hw.ClockEngine(hw.LocalEngine(lanes=1), hw.DeviceFleet()),
    "wire": WireEngine,
}


def run_of(name, engine=None, **options):
    made = engine or hw.LocalEngine(lanes=1)
    return hw.Run(ALGORITHMS[name], blobs(SIZES), linear_task(), rounds=5, engine=made, checkpoint_every=2, **options)


def params_after(run, rounds=5):
    """The model after so many rounds, and where the run is left then."""
    for report in run:
        if report.round == rounds:
            break
    params = run.state.params.clone()
    run.close()
    return params


@pytest.mark.parametrize("name", ALGORITHMS)
@pytest.mark.parametrize("engine", ENGINES)
def test_every_engine_draws_the_same_noise(name, engine):
    one, other = params_after(run_of(name), 2), params_after(run_of(name, ENGINES[engine]()), 2)
    torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", ["central", "adaptive", "matrix", "tree"])
@pytest.mark.parametrize("stop", [2, 3])
def test_a_run_that_was_stopped_ends_with_the_same_bits(name, stop, tmp_path):
    params_after(run_of(name, folder=tmp_path / "run"), stop)
    again = params_after(run_of(name, folder=tmp_path / "run", resume=True))
    assert torch.equal(params_after(run_of(name)), again)


def test_the_adaptive_norm_moves_behind_a_secure_sum_as_it_does_without():
    def norm_after(*codecs):
        links = hw.chain(hw.AdaptiveClip(0.3), *codecs, hw.Mean("expected"), hw.GaussianNoise(0.5))
        run = hw.Run(hw.Algorithm(links, TRAINER, hw.All()), blobs(SIZES), linear_task(), rounds=3)
        list(run)
        run.close()
        return run.state.params, run.state.stages["AdaptiveClip"]["norm"]

    plain, secure = norm_after(), norm_after(hw.Quantize(20), hw.SecureSum(mode="ideal"))
    torch.testing.assert_close(secure[1], plain[1], rtol=1e-4, atol=0)
    torch.testing.assert_close(secure[0], plain[0], rtol=0, atol=1e-4)

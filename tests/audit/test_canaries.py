"""Canaries show the noise that there is: the ledger's, or less where noise or clip are not what they say."""

import itertools
import math
from dataclasses import dataclass, replace

import pytest
import torch
from conformance.teststages import FixedPoint, NoisyRelease, PairwiseMasks
from toys import blobs

import headway as hw
from headway.audit.canaries import HOSTILE, CanaryEstimate, CanaryRounds
from headway.audit.canary_attack import canary_outcome, canary_row, promises
from headway.audit.canary_trainer import direction
from headway.core.facts import PrivacyEvent
from headway.experiment.runfile import load_runfile
from headway.experiment.runfile_text import examples
from headway.numerics.keys import Key
from headway.stages.privacy.noise_grid import NoiseGrid

DELTA, TIME = 1e-5, 600.0


@dataclass(frozen=True)
class HalvedNoise(NoisyRelease):
    """Half of the noise that its event says."""

    def release(self, update, ctx):
        return NoisyRelease(self.multiplier / 2).release(update, ctx)


@dataclass(frozen=True)
class NoNoise(NoisyRelease):
    """None of the noise that its event says."""

    def release(self, update, ctx):
        return update


@dataclass(frozen=True)
class SameNoise(NoisyRelease):
    """The same noise in every round."""

    def release(self, update, ctx):
        return super().release(update, replace(ctx, key=Key.root(5)))


CALLS = itertools.count()


@dataclass(frozen=True)
class UnrepeatableNoise(NoisyRelease):
    """Noise that no round gives a second time."""

    def release(self, update, ctx):
        return super().release(update, replace(ctx, key=Key.root(next(CALLS))))


@dataclass(frozen=True)
class LooseClip(hw.Clip):
    """A clip that promises its norm and lets three times as much pass."""

    def send(self, update, memory, ctx):
        return hw.Clip(3 * self.norm).send(update, memory, ctx)


def parts(*stages, features=40, clients=8, seed=0):
    data = blobs(sizes=(6,) * clients, features=features, classes=5)
    task = hw.Task(model=lambda: torch.nn.Linear(features, 5), metrics=())
    return hw.Algorithm(hw.chain(*stages), hw.LocalSGD(batch_size=4), hw.All()), data, task, seed


def outcome(*stages, place="server", seconds=TIME, **options):
    return canary_outcome(parts(*stages, **options), place, DELTA, 1, seconds)


def private(noise, clip=None):
    return clip or hw.Clip(0.5), hw.Mean(over="expected"), noise


@pytest.mark.parametrize("multiplier", [0.7, 1.5])
def test_honest_noise_shows_the_ledgers_epsilon(multiplier):
    found = outcome(*private(NoisyRelease(multiplier)))
    assert found.estimate.multiplier == pytest.approx(multiplier, rel=0.1)
    assert found.low < found.release < found.high
    assert found.ratio <= 1.25
    assert found.verdict == "failed"


def test_halved_noise_is_found():
    found = outcome(*private(HalvedNoise(1.0)))
    assert found.ratio > 1.8
    assert found.verdict == "succeeded"
    assert "the noise is weaker" in canary_row(found).reason


def test_a_clip_that_does_not_clip_is_found_where_the_server_cannot_check_it():
    found = outcome(LooseClip(0.5), FixedPoint(), PairwiseMasks(), hw.Mean(over="expected"), NoisyRelease(1.0))
    assert found.ratio > 2
    assert found.verdict == "succeeded"
    refused = outcome(*private(NoisyRelease(1.0), LooseClip(0.5)))
    assert refused.verdict == "not judged"
    assert "promises 0.5" in canary_row(refused).reason


def test_noise_that_repeats_is_found():
    found = outcome(*private(SameNoise(1.0)))
    assert found.ratio == pytest.approx(1, abs=0.1)
    assert found.verdict == "succeeded"
    assert "like that of the next" in canary_row(found).reason


def test_without_noise_epsilon_is_unbounded():
    found = outcome(*private(NoNoise(1.0)))
    assert found.shown > 50 * found.release
    assert found.verdict == "succeeded"


def test_the_noise_is_measured_behind_a_protocol_too():
    found = outcome(hw.Clip(0.5), FixedPoint(), PairwiseMasks(), hw.Mean(over="expected"), NoisyRelease(1.0))
    assert found.estimate.multiplier == pytest.approx(1.0, rel=0.1)


def shipped(name):
    """Chains of every kind of noise for clients, with their samplers."""
    mean, clip = hw.Mean(over="expected"), hw.Clip(0.5)
    masked = hw.Quantize(bits=16), hw.SecureSum(min_cohort=5, min_survivors=5, mode="ideal")
    return {
        "gaussian": (clip, mean, hw.GaussianNoise(1.0)),
        "discrete": (clip, mean, hw.GaussianNoise(1.0, discrete=True)),
        "adaptive": (hw.AdaptiveClip(), mean, hw.GaussianNoise(1.0)),
        "local": (clip, hw.LocalGaussian(1.0), mean),
        "secure": (clip, *masked, mean, hw.GaussianNoise(1.0)),
        "skellam": (clip, masked[0], hw.Skellam(1.0, survivors=5), masked[1], mean),
        "matrix": (clip, mean, hw.MatrixNoise(1.0, rounds=4, bands=2)),
    }[name]


@pytest.mark.parametrize("name", ["gaussian", "discrete", "adaptive", "local", "secure", "skellam", "matrix"])
def test_every_shipped_noise_is_at_most_what_the_ledger_counts(name):
    algorithm, data, task, seed = parts(hw.Mean())
    sampler = hw.Spaced(count=4, separation=2) if name == "matrix" else hw.All()
    algorithm = hw.Algorithm(hw.chain(*shipped(name)), algorithm.trainer, sampler)
    found = canary_outcome((algorithm, data, task, seed), "client" if name == "local" else "server", DELTA, 4, TIME)
    assert found.verdict == "failed", canary_row(found).reason
    assert found.ratio <= 1.25
    assert name == "matrix" or found.ratio > 0.8


@pytest.mark.parametrize("name", ["gaussian", "adaptive", "local", "secure"])
def test_half_of_a_shipped_noise_is_found(name, monkeypatch):
    whole = NoiseGrid.std.fget
    monkeypatch.setattr(NoiseGrid, "std", property(lambda grid: whole(grid) / 2))
    algorithm, data, task, seed = parts(*shipped(name))
    found = canary_outcome((algorithm, data, task, seed), "client" if name == "local" else "server", DELTA, 4, TIME)
    assert found.verdict == "succeeded"
    assert found.ratio > 1.8


@pytest.mark.parametrize("name", sorted(examples()))
def test_packaged_examples_promise_what_canaries_show(name):
    runfile = load_runfile(name)
    if not promises(runfile.algorithm.flows()[-1].events, "server"):
        assert name != "private-hospitals"
        return
    experiment = runfile.build()
    found = canary_outcome((experiment.algorithm, experiment.data, experiment.task, 0), "server", DELTA, 10, TIME)
    assert found.verdict == "failed"
    assert found.ratio <= 1.25


def test_noise_of_its_own_in_each_call_takes_more_canaries_and_gives_the_same():
    """What a simulation draws again cancels; the estimate does not depend on it."""
    found = CanaryRounds(*parts(*private(UnrepeatableNoise(0.5)))).estimate(TIME, precision=0.1)
    assert len(found.cosines) > 40
    assert found.error > 0.05
    assert found.multiplier == pytest.approx(0.5, rel=0.2)


def test_too_few_canaries_are_not_judged():
    found = outcome(*private(UnrepeatableNoise(3.0)), seconds=0.0)  # one round
    assert found.verdict == "not judged"
    assert "too few" in canary_row(found).reason


def test_an_estimate_repeats_and_another_seed_gives_another():
    one, two = (outcome(*private(NoisyRelease(1.0)), seed=1).estimate for _ in range(2))
    assert torch.equal(one.cosines, two.cosines)
    assert not torch.equal(one.cosines[:8], outcome(*private(NoisyRelease(1.0)), seed=2).estimate.cosines[:8])


def test_canaries_are_long_and_few_in_small_models():
    data = blobs(sizes=(6,) * 8)
    task = hw.Task(model=lambda: torch.nn.Linear(4, 3), metrics=())
    algorithm = hw.Algorithm(hw.chain(*private(NoisyRelease(1.0))), hw.LocalSGD(), hw.All())
    canaries = CanaryRounds(algorithm, data, task, 0)
    assert canaries.length == HOSTILE * 0.5
    assert canaries.share == 1 / 8  # of 15 parameters, one canary in a round on average
    assert canaries.estimate(TIME, precision=0.1).multiplier == pytest.approx(1.0, rel=0.25)


def test_directions_are_on_the_sphere():
    one, other = (direction(Key.root(seed), 500) for seed in (0, 1))
    assert float(one.norm()) == pytest.approx(1.0)
    assert abs(float(one @ other)) < 0.2
    assert torch.equal(one, direction(Key.root(0), 500))


def test_figures_of_no_canaries_and_of_canaries_that_left_nothing():
    empty = torch.empty(0, dtype=torch.float64)
    none = CanaryEstimate(empty, empty, empty, 100, 1)
    assert none.epsilon(DELTA) == 0.0
    assert none.interval(DELTA) == (0.0, math.inf)
    away = CanaryEstimate(empty, empty, -torch.ones(10, dtype=torch.float64), 100, 1)
    assert away.epsilon(DELTA) == 0.0
    assert away.error == math.inf


def test_promises_for_clients_alone_are_compared():
    event = PrivacyEvent
    events = [event("gaussian", 1.0, 1.0), event("gaussian", 2.0, 1.0, at="client")]
    events += [event("example_gaussian", 1.0, 1.0, unit="example", at="client"), event("gaussian", 3.0, 1.0, ("bits",))]
    assert [each.noise_multiplier for each in promises(events, "server")] == [1.0]
    assert [each.noise_multiplier for each in promises(events, "client")] == [2.0]

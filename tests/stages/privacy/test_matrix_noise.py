"""Correlated noise: its covariance, its sensitivity, what it refuses, and that a resumed run goes on with its noise."""

import math
from dataclasses import replace

import pytest
import torch
from conformance.tiny import Listed, Loop, Tiny, quadratics

import headway as hw
from headway.core.algorithm import State
from headway.core.flow import Flow, SamplerFacts
from headway.numerics.keys import Key
from headway.protocol.client_history import ClientHistory
from headway.protocol.effects import EffectHandler, drive
from headway.protocol.reports import ClientReport
from headway.stages.privacy.factorisation import BandedToeplitz, BinaryTree

SIZE = 300
SPACED = SamplerFacts("spaced", 4.0, 40, separation=5)


class Apart(Listed):
    """A sampler that promises to keep the rounds of a client apart."""

    def facts(self, population):
        return replace(super().facts(population), separation=5)


def noisy_engine(noise):
    """An engine whose clients do not move, so that what is released is noise alone."""
    links = (hw.Clip(2.0), hw.Mean("expected"), noise)
    return Tiny(hw.Algorithm(hw.chain(*links), Loop(1, 0.0), Apart()), quadratics(4, SIZE))


def releases(tiny, rounds):
    state, found = tiny.start(), []
    for _ in range(rounds):
        after = tiny.round(state)
        found.append(after.params - state.params)
        state = after
    return torch.stack(found), state


@pytest.mark.parametrize(
    ("noise", "matrix"),
    [
        (hw.MatrixNoise(1.5, 9, bands=4), BandedToeplitz(9, 4)),
        (hw.MatrixNoise(1.5, 9, bands=1), BandedToeplitz(9, 1)),
        (hw.MatrixNoise(1.5, 9, "tree"), BinaryTree(9)),
    ],
    ids=repr,
)
def test_the_noise_has_the_covariance_of_the_factorisation(noise, matrix):
    tiny = noisy_engine(noise)
    drawn, _ = releases(tiny, 9)
    std = 1.5 * (2.0 / 4) * matrix.sensitivity(5)
    unit = torch.eye(9, dtype=torch.float64)
    kept, rows = torch.zeros(matrix.rows, 9, dtype=torch.float64), []
    for t in range(9):
        row, kept = matrix.step(kept, unit[t], t)
        rows.append(row)
    factor = torch.stack(rows)
    size = drawn.shape[1]
    found, expected = drawn @ drawn.T / size / std**2, factor @ factor.T
    spread = torch.sqrt((expected.diag()[:, None] * expected.diag() + expected**2) / size)
    assert bool(((found - expected).abs() < 5 * spread).all())


def test_the_event_is_one_of_all_rounds():
    (event,) = (
        hw.chain(hw.Clip(2.0), hw.Mean("expected"), hw.MatrixNoise(1.5, 23, bands=4))
        .trace(Flow(sampler=SPACED))[-1]
        .events
    )
    assert (event.mechanism, event.noise_multiplier, event.sensitivity) == ("matrix", 1.5, 0.5)
    sensitivity = BandedToeplitz(23, 4).sensitivity(5)
    assert dict(event.details) == {
        "rounds": 23,
        "separation": 5,
        "bands": 4,
        "participations": 5,
        "kind": "banded",
        "matrix_sensitivity": sensitivity,
    }


@pytest.mark.parametrize(
    ("sampler", "noise"),
    [
        (hw.Uniform(4), hw.MatrixNoise(1.0, 10, bands=2)),
        (hw.All(), hw.MatrixNoise(1.0, 10, bands=3)),
        (hw.RoundRobin(4), hw.MatrixNoise(1.0, 10, bands=2)),
        (hw.Spaced(4, 3), hw.MatrixNoise(1.0, 10, bands=4)),
    ],
    ids=repr,
)
def test_a_sampler_that_does_not_keep_rounds_apart_is_refused(sampler, noise):
    with pytest.raises(hw.ChainRefused, match="Spaced") as refused:
        hw.Algorithm(hw.chain(hw.Clip(1.0), hw.Mean("expected"), noise), hw.LocalSGD(lr=0.1), sampler)
    assert refused.value.caused_by == type(sampler).__name__


@pytest.mark.parametrize(
    ("sampler", "noise"),
    [
        (hw.Spaced(4, 4), hw.MatrixNoise(1.0, 10, bands=4)),
        (hw.Uniform(4), hw.MatrixNoise(1.0, 10, bands=1)),
        (hw.All(), hw.MatrixNoise(1.0, 10, "tree")),
    ],
    ids=repr,
)
def test_a_sampler_that_does_is_allowed(sampler, noise):
    hw.Algorithm(hw.chain(hw.Clip(1.0), hw.Mean("expected"), noise), hw.LocalSGD(lr=0.1), sampler)


def test_units_that_change_and_rules_over_the_cohort_are_refused():
    noise = hw.MatrixNoise(1.0, 10, bands=1)
    with pytest.raises(hw.ChainRefused, match="AdaptiveClip"):
        hw.chain(hw.AdaptiveClip(), hw.Mean("expected"), noise)
    with pytest.raises(hw.ChainRefused, match="bound"):
        hw.chain(hw.Clip(1.0), hw.Mean("examples"), noise)
    for wrong in ({"rounds": 0}, {"kind": "tree"}, {"bands": None}, {"bands": 0}):
        with pytest.raises(hw.ConfigError):
            hw.MatrixNoise(**{"multiplier": 1.0, "rounds": 10, "bands": 2} | wrong)


def test_a_round_beyond_is_refused_before_anybody_trains():
    tiny = noisy_engine(hw.MatrixNoise(1.0, 3, bands=2))
    _, state = releases(tiny, 3)
    asked = len(tiny.asked)
    with pytest.raises(hw.ConfigError, match="rounds = 3"):
        tiny.round(state)
    assert len(tiny.asked) == asked


@pytest.mark.parametrize("noise", [hw.MatrixNoise(1.0, 9, bands=4), hw.MatrixNoise(1.0, 9, "tree")], ids=repr)
def test_a_resumed_run_goes_on_with_the_noise_of_the_kept_release(noise):
    """From a checkpoint, and in the middle of a round with other random numbers, as after a crash in deployment."""
    tiny = noisy_engine(noise)

    def run(state, answers, completed=()):
        rest = {"layout": tiny.layout, "flows": tiny.flows, "population": 4, "system": Key.system()}
        effects = tiny.algorithm.round(state, tuple(tiny.clients), key=Key.root(0), **rest)
        handler = EffectHandler(tiny.send, completed=lambda effect, answer: answers.append(answer))
        return drive(effects, handler, completed)

    state, answers = tiny.start(), []
    for _ in range(5):
        start, answers = state, []
        state = run(start, answers)
    again = run(State.from_tensors(start.round, start.tensors()), [], answers)
    assert torch.equal(again.params, state.params)
    assert again.stages["MatrixNoise"].keys() == state.stages["MatrixNoise"].keys()
    for name, tensor in state.stages["MatrixNoise"].items():
        assert torch.equal(again.stages["MatrixNoise"][name], tensor)
    assert not any("/" in name or "fresh" in name for name in state.stages["MatrixNoise"])


def test_a_round_without_a_release_keeps_its_row():
    """A round that was skipped draws its noise later, so that what cancels is what was drawn."""
    tiny = noisy_engine(hw.MatrixNoise(1.0, 9, bands=4))
    _, state = releases(tiny, 2)
    skipped = tiny.round(replace(state, round=4))
    assert float(skipped.stages["MatrixNoise"]["next"]) == 5
    kept, matrix = skipped.stages["MatrixNoise"]["kept delta"], BandedToeplitz(9, 4)
    z = matrix.coefficients[0] * kept[0] + sum(c * kept[j] for j, c in enumerate(matrix.coefficients[1:3], 1))
    z = z + matrix.coefficients[3] * state.stages["MatrixNoise"]["kept delta"][0]
    assert abs(float(z.std()) - 1) < 5 / math.sqrt(2 * len(z))


def test_spaced_cohorts_never_share_a_client_within_the_separation():
    people = tuple(f"c{i:02d}" for i in range(20))
    sampler = hw.Spaced(count=4, separation=5)
    history = ClientHistory.of(sampler.facts(20), people, torch.ones(20, dtype=torch.int64))
    last, sizes = {}, []
    for round in range(40):
        away = {people[(7 * round + j) % 20] for j in range(5)} if round % 3 == 0 else set()
        there = tuple(name for name in people if name not in away)
        cohort = sampler.draw(there, round, Key.root(1).derive(round), history)
        lost = cohort[:1] if round % 4 == 0 else ()
        reports = [ClientReport(name, "dropped" if name in lost else "counted") for name in cohort]
        history.record_round(round, there, cohort, reports)
        for name in set(cohort) - set(lost):
            assert round - last.get(name, -5) >= 5
            last[name] = round
        sizes.append(len(cohort))
    assert max(sizes) == 4
    assert len(last) == 20

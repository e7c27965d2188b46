"""Canary examples show the noise of DPSGD's steps, and too little of it."""

import pytest
import torch
from toys import blobs

import headway as hw
from headway.audit import example_canaries
from headway.audit.example_canaries import ExampleCanaries, example_row

DELTA = 1e-5


def parts(**trainer):
    task = hw.Task(model=lambda: torch.nn.Sequential(torch.nn.Linear(30, 10), torch.nn.ReLU(), torch.nn.Linear(10, 5)))
    data = blobs(sizes=(12, 9), features=30, classes=5)
    return hw.Algorithm(hw.chain(hw.Mean()), hw.DPSGD(**trainer), hw.All()), data, task, 0


def row(**trainer):
    return example_row(*parts(**trainer), rounds=3, delta=DELTA)


@pytest.mark.parametrize("options", [{"sample_rate": 0.2}, {"batch_size": 4, "momentum": 0.9}, {"clip_norm": 0.01}])
def test_honest_steps_show_the_ledgers_epsilon(options):
    found = row(lr=0.1, noise_multiplier=1.3, **options)
    assert found.verdict == "failed"
    assert found.figures["multiplier"] == pytest.approx(1.3, rel=0.1)
    assert found.figures["epsilon_run"] == pytest.approx(found.figures["epsilon_run_ledger"], rel=0.2)


def test_halved_noise_is_found(monkeypatch):
    trainer = hw.DPSGD(lr=0.1, noise_multiplier=1.0)
    algorithm, data, task, seed = parts(lr=0.1, noise_multiplier=2.0)
    canaries = ExampleCanaries(trainer, data, task, seed)
    monkeypatch.setattr(example_canaries, "ExampleCanaries", lambda *_: canaries)
    found = example_row(algorithm, data, task, seed, 3, DELTA)
    assert found.verdict == "succeeded"
    assert found.figures["ratio"] > 1.8


def test_a_hostile_example_moves_no_more_than_the_clip_allows():
    trainer = hw.DPSGD(lr=0.1, noise_multiplier=1.0, clip_norm=1.0)
    found = ExampleCanaries(trainer, *parts()[1:]).estimate()
    assert found.shift == pytest.approx(0.1, rel=1e-3)  # the learning rate times the clip norm, whatever the example
    assert found.repeats

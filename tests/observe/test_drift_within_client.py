"""Drift within a client: closed forms, and what a run reports of it."""

from dataclasses import replace

import pytest
import torch
from conformance.teststages import NoisyRelease
from torch import nn
from toys import blobs, linear_task

import headway as hw
from headway.observe.drift import within_client
from headway.observe.journal import Journal

TRAINER = hw.LocalSGD(lr=0.1, batch_size=4, epochs=2, momentum=0.5)
NAMES = {"path_efficiency", "step_variance", "relative_step_variance"}


def of(steps) -> dict[str, float]:
    steps = torch.tensor(steps, dtype=torch.float64)
    return within_client(steps.square().sum(1), steps.sum(0))


def test_a_straight_path_loses_nothing():
    assert of([[3.0, 4.0]] * 5) == {"path_efficiency": 1.0, "step_variance": 0.0, "relative_step_variance": 0.0}
    assert of([[3.0, 4.0]]) == {"path_efficiency": 1.0, "step_variance": 0.0, "relative_step_variance": 0.0}


def test_back_and_forth_comes_to_nothing():
    found = of([[3.0, 4.0], [-3.0, -4.0]] * 3)
    assert found == {"path_efficiency": 0.0, "step_variance": 150.0, "relative_step_variance": 1.0}


def test_a_right_angle():
    found = of([[1.0, 0.0], [0.0, 1.0]])
    assert found == pytest.approx(
        {"path_efficiency": 0.5**0.5, "step_variance": 1.0, "relative_step_variance": 0.5}, rel=1e-12
    )


def test_steps_of_one_direction_vary_in_length_only():
    found = of([[1.0], [2.0], [3.0]])
    assert found == pytest.approx({"path_efficiency": 1.0, "step_variance": 2.0, "relative_step_variance": 1 / 7})


def test_the_definition_on_random_steps():
    steps = torch.randn(40, 300, generator=torch.Generator().manual_seed(0)).double() + 0.1
    found = within_client(steps.square().sum(1), steps.sum(0))
    assert found["step_variance"] == pytest.approx(float((steps - steps.mean(0)).square().sum()), rel=1e-10)
    assert found["path_efficiency"] == pytest.approx(float(steps.sum(0).norm() / steps.norm(dim=1).sum()), rel=1e-10)


def test_who_never_moves_has_no_path():
    assert of([[0.0, 0.0]] * 3) == {}


def test_nearly_equal_steps_are_not_more_than_straight():
    """Rounding of the norms must not give a negative variance or an efficiency above one."""
    for seed in range(50):
        step = torch.randn(1000, generator=torch.Generator().manual_seed(seed))
        lengths = torch.stack([torch.linalg.vector_norm(step)] * 20)
        found = within_client(lengths.double() ** 2, step * 20)
        assert 1 - 1e-6 < found["path_efficiency"] <= 1.0
        assert 0 <= found["relative_step_variance"] < 2e-6


class TestInARun:
    def clients(self, recipe="fedavg", engine=None, trainer=TRAINER, task=None):
        run = hw.Run(
            hw.recipes.recipe(recipe, trainer=trainer),
            blobs(),
            task or linear_task(dtype="float64"),
            rounds=3,
            engine=engine,
        )
        reports = list(run)
        return reports, run.state.params

    @pytest.mark.parametrize("shared", [None, ("weight",)])
    def test_the_lengths_of_steps_are_those_of_the_displacements(self, shared):
        """ECGR keeps the steps, so both ways of measuring meet; a personal bias is no part of them."""
        for nesterov in (False, True):
            trainer = replace(TRAINER, nesterov=nesterov, weight_decay=0.1, clip_gradient=0.5)
            task = linear_task(dtype="float64", shared=shared)
            plain, _ = self.clients("fedprox", trainer=trainer, task=task)
            kept, _ = self.clients("fedprox+ecgr", trainer=trainer, task=task)
            for one, other in zip(plain[0].clients, kept[0].clients, strict=True):
                for name in NAMES:
                    assert one.metrics[name] == pytest.approx(other.metrics[name], rel=1e-9), name

    def test_every_way_of_keeping_steps_measures_the_same(self):
        full, _ = self.clients("fedavg+ecgr")
        for kept, memory, rel in (("half", "1 GB", 1e-2), ("replay", 800, 1e-9)):
            trainer = replace(TRAINER, steps_kept=kept, steps_memory=memory)
            other, _ = self.clients("fedavg+ecgr", trainer=trainer)
            for one, another in zip(full[0].clients, other[0].clients, strict=True):
                for name in NAMES:
                    assert another.metrics[name] == pytest.approx(one.metrics[name], rel=rel), (kept, name)

    @pytest.mark.parametrize("recipe", ["fedavg", "scaffold+ecgr", "fedadam"])
    def test_measuring_changes_no_bit(self, recipe):
        task = hw.Task(lambda: nn.Sequential(nn.Linear(4, 8), nn.Dropout(0.3), nn.Linear(8, 3)))
        measured, on = self.clients(recipe, task=task)
        silent, off = self.clients(recipe, engine=hw.LocalEngine(drift=False), task=task)
        assert torch.equal(on, off)
        assert measured[0].drift.keys() >= NAMES
        assert not silent[0].drift
        assert not any(NAMES & client.metrics.keys() for client in silent[0].clients)

    def test_means_over_the_cohort_are_reported_and_journalled(self, tmp_path):
        run = hw.Run(hw.recipes.fedavg(trainer=TRAINER), blobs(), linear_task(), rounds=2, folder=tmp_path / "run")
        reports = list(run)
        run.close()
        journal = Journal(tmp_path / "run" / "journal.sqlite")
        for name in NAMES:
            values = [client.metrics[name] for client in reports[1].clients]
            assert reports[1].drift[name] == pytest.approx(sum(values) / 3)
            assert journal.series("drift", name) == [(r.round, r.drift[name]) for r in reports]
            assert journal.series("client:client-1", name)[1] == (2, values[1])
        journal.close()

    def test_one_full_batch_step_is_straight(self):
        reports, _ = self.clients(trainer=hw.LocalSGD(lr=0.1, batch_size=None))
        assert [c.metrics["path_efficiency"] for c in reports[0].clients] == pytest.approx([1.0] * 3)
        assert reports[0].drift["step_variance"] == 0.0

    def test_a_protected_chain_is_neither_measured_nor_raises_alarms(self):
        noisy = hw.chain(hw.Clip(norm=1.0), hw.Mean(over="expected"), NoisyRelease(0.1))
        for report in hw.rounds(hw.Algorithm(noisy, TRAINER, hw.All()), blobs(), linear_task(), rounds=3):
            assert not report.drift
            assert not report.alarms
            assert all(not client.metrics for client in report.clients)

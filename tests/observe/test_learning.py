"""A run that learns nothing says why: outputs, learning rate, a constant answer; one that learns says nothing."""

import re

import pytest
import torch
from torch import nn
from toys import blobs

import headway as hw
from headway.observe import learning
from headway.observe.journal import Journal
from headway.observe.learning import Learning


def net(last=None) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 3), *([] if last is None else [last]))


def zeros() -> nn.Module:
    made = net()
    for parameter in made.parameters():
        nn.init.zeros_(parameter)
    return made


def run(model=net, rounds=8, data=None, **options):
    trainer = hw.LocalSGD(**{"lr": 0.1, "batch_size": 8, **options})
    task = hw.Task(model=model, metrics=("accuracy",))
    made = hw.Run(hw.recipes.fedavg(trainer=trainer), data or blobs((40, 60, 30), test=20), task, rounds=rounds)
    reports = list(made)
    return made, [note for report in reports for note in report.notes], reports


LAST = {
    "softmax": (lambda: net(nn.Softmax(1)), r"outputs sum to one, as after a softmax, and cross_entropy takes logits"),
    "relu": (lambda: net(nn.ReLU()), r"never below 0 and often exactly 0, as after a ReLU"),
}


@pytest.mark.parametrize("name", LAST)
def test_outputs_that_are_no_logits_are_said_before_training(name) -> None:
    model, says = LAST[name]
    made, _, _ = run(model, rounds=1)
    (notice,) = [notice for notice in made.notices if "logits" in notice]
    assert re.search(says, notice)


@pytest.mark.parametrize("model", [net, zeros, lambda: net(nn.LogSoftmax(1))])
def test_outputs_that_may_be_logits_are_not_warned_of(model) -> None:
    made, _, _ = run(model, rounds=1)
    assert not [notice for notice in made.notices if "logits" in notice]


def test_a_sigmoid_under_binary_cross_entropy_is_said() -> None:
    task = hw.Task(model=lambda: nn.Sequential(nn.Linear(4, 1), nn.Sigmoid()), loss="binary_cross_entropy")
    made = hw.Run(hw.recipes.fedavg(), blobs(classes=2), task, rounds=1)
    assert any("as after a sigmoid" in notice for notice in made.notices)


def test_a_learning_rate_that_is_far_too_small_is_said_once() -> None:
    _, notes, _ = run(lr=1e-8)
    (note,) = [note for note in notes if "of its length" in note]
    assert "in 5 rounds the model moved by" in note
    assert "the learning rate (1e-08) is too small" in note


def test_a_rate_of_zero_is_said_once_and_the_rates_are_in_reports_and_journal(tmp_path) -> None:
    schedule = hw.Schedule(kind="linear", horizon=2)
    algorithm = hw.recipes.fedavg(trainer=hw.LocalSGD(lr=0.1, batch_size=8, schedule=schedule))
    made = hw.Run(algorithm, blobs(), hw.Task(model=net), rounds=5, folder=tmp_path / "run")
    reports = list(made)
    made.close()
    notes = [note for report in reports for note in report.notes]
    assert [note for note in notes if "no parameter moved" in note] == [
        "no parameter moved in this round: every update is zero, since the learning rate is 0."
    ]
    rates = [0.1, 0.05, 0.0, 0.0, 0.0]
    assert [report.lr for report in reports] == pytest.approx(rates)
    journal = Journal(tmp_path / "run" / "journal.sqlite")
    assert [lr for _, lr in journal.series("training", "lr")] == pytest.approx(rates)
    journal.close()


def test_an_accuracy_at_the_constant_answer_is_said_with_the_answer() -> None:
    generator = torch.Generator().manual_seed(1)
    clients = {}
    for index in range(3):
        y = (torch.arange(60) % 3 > 0).long() * 2  # class 2 is the commonest
        clients[f"c{index}"] = (torch.randn(60, 4, generator=generator), y, torch.randn(30, 4), y[:30])
    data = hw.FederatedData.from_clients(clients)
    _, notes, _ = run(zeros, data=data, lr=0.01)
    (note,) = [note for note in notes if "constant answer" in note]
    assert "accuracy has not left that of a constant answer, always class 2 (0.6667), in 5 evaluations" in note


def test_a_loss_far_above_that_before_training_is_said_once() -> None:
    learning = Learning()
    losses = [1.0, 9.0, 9.0, 1.5, 9.0, 9.0, 9.0, 9.0, 9.0]
    said = [learning.trained(loss, 1.1) for loss in losses]
    assert [bool(each) for each in said] == [False] * 6 + [True, False, False]
    assert "(9) has been far above that before training (1.1) for 3 rounds" in said[6][0]
    assert "algorithm.trainer.lr" in said[6][0]
    assert not any(Learning().trained(loss, start) for loss in (None, 9.0) for start in (None, 1.0))


def test_a_run_that_learns_says_nothing() -> None:
    made, notes, _ = run()
    assert notes == []
    assert made.notices == []


SCALES = [(0, 1e6, True), (2, 1e4, True), (1, 10.0, False), (1, 1e-9, False)]


@pytest.mark.parametrize(("column", "factor", "warned"), SCALES)
def test_a_feature_far_larger_than_the_others_is_named_before_training(column, factor, warned) -> None:
    data = blobs((40, 60, 30))
    data.store.inputs[:, column] *= factor
    made = hw.Run(hw.recipes.fedavg(), data, hw.Task(model=net), rounds=1)
    named = [notice for notice in made.notices if f"feature {column} (up to" in notice and "far larger" in notice]
    assert bool(named) == warned
    assert bool(made.notices) == warned


def test_the_length_of_a_step_is_that_of_all_blocks(monkeypatch):
    before, after = torch.linspace(-1, 1, 100), torch.linspace(2, -3, 100)
    whole = float(torch.linalg.vector_norm(after.double() - before.double()))
    assert learning._distance(after, before) == whole
    monkeypatch.setattr(learning, "BLOCK", 7)
    assert learning._distance(after, before) == pytest.approx(whole, rel=1e-14)

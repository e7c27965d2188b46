"""The metrics of the best constant answer, beside which a run's own are read."""

import dataclasses

import numpy as np
import pytest
import torch
from mk import toml

import headway as hw
from headway.client.constant_metrics import constant_metrics

X = torch.zeros(10, 2)


def task(loss, *metrics):
    return hw.Task(model=lambda: torch.nn.Linear(2, 3), loss=loss, metrics=metrics)


def test_classes():
    """6 of 8 training examples are of class 2: log p of the test examples of classes 2 and 0 is log 0.75, log 0.25."""
    y = torch.tensor([2, 2, 2, 2, 2, 2, 0, 0])
    data = hw.data.FederatedData.from_clients({"a": (X[:8], y)}, central=(X[:4], torch.tensor([2, 2, 0, 1])))
    found = constant_metrics(task("cross_entropy", "accuracy", "balanced_accuracy"), data)
    assert found.answer == "always class 2"
    assert found.central["accuracy"] == 0.5
    assert found.central["balanced_accuracy"] == pytest.approx(1 / 3)
    assert found.central["loss"] == pytest.approx((-2 * np.log(0.75) - np.log(0.25) - np.log(1e-6)) / 4, rel=1e-6)


def test_a_number():
    y = torch.tensor([1.0, 3.0, 5.0, 7.0])
    data = hw.data.FederatedData.from_clients({"a": (X[:4], y)}, central=(X[:2], torch.tensor([4.0, 6.0])))
    found = constant_metrics(task("mean_squared_error", "mean_absolute_error"), data)
    assert found.answer == "always the mean of the target"
    assert found.central == {"mean_absolute_error": 1.0, "loss": 2.0}


def test_the_mean_over_clients_is_weighted_by_test_examples():
    for count in (3, 2000):  # one client after another, and all at once
        clients = {str(i): (X[:3], torch.tensor([1, 1, 1])) for i in range(count)} | {
            "odd": (X[:2], torch.tensor([0, 0]))
        }
        plain = hw.data.FederatedData.from_clients(clients)
        train = {client: index[:1] for client, index in plain.train.items()}
        data = dataclasses.replace(
            plain, train=train, test={client: index[1:] for client, index in plain.train.items()}
        )
        found = constant_metrics(task("cross_entropy", "accuracy"), data)
        assert found.clients["accuracy"] == pytest.approx(2 * count / (2 * count + 1))


def test_labels_masks_and_losses_of_ones_own():
    labels = torch.tensor([[1, 0], [1, 0], [1, 1], [0, 0]])
    data = hw.data.FederatedData.from_clients({"a": (X[:4], labels)}, central=(X[:4], labels))
    found = constant_metrics(task("binary_cross_entropy", "accuracy"), data)
    assert found.central["accuracy"] == 0.75
    masks = torch.zeros(4, 3, 3, dtype=torch.long)
    masks[:, 0] = 1
    data = hw.data.FederatedData.from_clients({"a": (X[:4], masks)}, central=(X[:4], masks))
    assert constant_metrics(task("cross_entropy"), data).central["loss"] == pytest.approx(0.6365, abs=1e-4)
    own = task(lambda outputs, targets: outputs.sum(1))
    assert constant_metrics(own, data).answer == ""


def test_it_stands_in_the_table_and_on_the_page(headway, tmp_path):
    r = np.random.default_rng(0)
    np.savez("d.npz", x=r.normal(size=(60, 3)).astype("f4"), y=np.repeat([0, 1, 1], 20), client=np.arange(60) % 3)
    toml("a.toml", 'source = "d.npz"', task='metrics = ["accuracy"]', rounds=1)
    assert "(always class 1)" in headway("run", "a.toml", "--out", "one")[1]
    assert headway("report", "one")[0] == 0
    page = (tmp_path / "one" / "report.html").read_text()
    assert "constant answer" in page
    assert "(always class 1)" in page

"""Whatever a model, loss or metric writes into, nothing reaches the stored examples."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import TensorDataset

import headway as hw


class Halve(nn.Module):
    def forward(self, x):
        return x.div_(2)


class Quietly(nn.Module):
    """Past torch's count of writes."""

    def forward(self, x):
        x.data.mul_(0.5)
        return x


class OnlyInEvaluation(nn.Module):
    def forward(self, x):
        return x / 2 if self.training else x.div_(2)


def by_numpy(outputs, targets):
    array = targets.numpy()
    array[:] = 0
    outputs.zero_()
    return 0.0


def writing_loss(outputs, targets):
    targets.clamp_(max=1)
    return nn.functional.cross_entropy(outputs, targets, reduction="none")


def held():
    generator = torch.Generator().manual_seed(0)
    x, y = torch.randn(80, 6, generator=generator) * 50, torch.arange(80) % 3
    clients = {f"c{i}": (x[20 * i : 20 * i + 20], y[20 * i : 20 * i + 20]) for i in range(2)}
    clients["c2"] = (x[40:50], y[40:50], x[50:60], y[50:60])
    return hw.FederatedData.from_clients(clients, central=(x[60:], y[60:]))


ENGINES = {
    "local": lambda: hw.LocalEngine(),
    "lanes": lambda: hw.LocalEngine(lanes=2, drift=False),
    "full lanes": lambda: hw.LocalEngine(lanes=2, low_rank=False),
    "workers": lambda: hw.ProcessEngine(2),
}


def losses(model, engine, batch_size=None, **options):
    data = held()
    before = data.fingerprint()
    trainer = hw.LocalSGD(lr=1e-12, batch_size=batch_size, epochs=2)
    algorithm = hw.Algorithm(hw.chain(hw.Mean()), trainer, hw.All())
    task = hw.Task(model=lambda: nn.Sequential(model(), nn.Linear(6, 3)), **options)
    found = [
        (r.train_loss, r.central["loss"], r.metrics["loss"])
        for r in hw.rounds(algorithm, data, task, rounds=3, engine=engine)
    ]
    assert data.fingerprint() == before
    return np.array(found)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("model", [Halve, Quietly, OnlyInEvaluation])
@pytest.mark.parametrize("batch_size", [None, 8])
def test_a_model_that_writes_into_its_inputs_learns_as_one_that_does_not(model, engine, batch_size):
    class Plain(nn.Module):
        def forward(self, x):
            return x / 2

    found, wanted = losses(model, ENGINES[engine](), batch_size), losses(Plain, ENGINES[engine](), batch_size)
    assert np.allclose(found, wanted, rtol=1e-6)
    assert np.ptp(found, axis=0).max() < 1e-5


@pytest.mark.parametrize("engine", ENGINES)
def test_a_metric_that_writes_changes_neither_the_data_nor_the_other_figures(engine):
    plain = losses(nn.Identity, ENGINES[engine]())
    found = losses(nn.Identity, ENGINES[engine](), metrics=(by_numpy, "accuracy"))
    assert np.allclose(found, plain, rtol=1e-6)


@pytest.mark.parametrize("engine", ENGINES)
def test_a_loss_that_writes_into_the_targets_leaves_them(engine):
    found = losses(nn.Identity, ENGINES[engine](), loss=writing_loss)
    assert np.ptp(found, axis=0).max() < 1e-5


def test_the_tensors_of_a_users_data_set_stay_as_they_are():
    x, y = torch.randn(40, 6), torch.arange(40) % 3
    kept = x.clone()
    data = hw.data.from_torch(TensorDataset(x, y), partition={"kind": "iid"}, clients=2)
    task = hw.Task(model=lambda: nn.Sequential(Halve(), nn.Linear(6, 3)))
    list(hw.rounds(hw.recipes.fedavg(trainer=hw.LocalSGD(batch_size=None)), data, task, rounds=2))
    assert torch.equal(x, kept)


def test_the_model_that_is_given_back_is_the_users_own():
    task = hw.Task(model=lambda: nn.Sequential(Halve(), nn.Linear(6, 3)))
    run = hw.Run(hw.recipes.fedavg(), held(), task, rounds=1)
    model, x = run.model(), torch.ones(2, 6)
    model(x)
    assert float(x.max()) == 0.5


class Seldom(nn.Module):
    """Writes only where it meets a value that the few examples of the trial do not have."""

    def forward(self, x):
        return x.div_(255) if float(x.max()) > 900 else x / 1


@pytest.mark.parametrize("where", ["training", "central"])
@pytest.mark.parametrize("workers", [0, 2])
def test_a_write_that_the_trial_did_not_show_stops_the_run(where, workers):
    x, y = torch.randn(60, 6), torch.arange(60) % 3
    x[{"training": 30, "central": 59}[where], 0] = 1000
    clients = {f"c{i}": (x[10 * i : 10 * i + 10], y[:10], x[40 + i : 41 + i], y[:1]) for i in range(4)}
    data = hw.FederatedData.from_clients(clients, central=(x[50:], y[50:]))
    task = hw.Task(model=lambda: nn.Sequential(Seldom(), nn.Linear(6, 3)))
    algorithm = hw.Algorithm(hw.chain(hw.Mean()), hw.LocalSGD(batch_size=None), hw.All())
    engine = hw.ProcessEngine(workers) if workers else None
    with pytest.raises(hw.ConfigError, match="has written into the stored examples"):
        list(hw.rounds(algorithm, data, task, rounds=2, engine=engine))

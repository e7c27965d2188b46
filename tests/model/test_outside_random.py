"""Random numbers outside torch follow from the keys of run and client, and leave the user's generators alone."""

import random
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from torch import nn
from toys import blobs

import headway as hw

TRAINER = hw.LocalSGD(lr=0.1, batch_size=4)


class ByNumpy(nn.Linear):
    def forward(self, x):
        return super().forward(x + torch.from_numpy(np.random.normal(size=x.shape)).float() if self.training else x)


class ByPython(nn.Linear):
    def forward(self, x):
        return super().forward(x * random.uniform(0.5, 1.5) if self.training else x)


class Held(nn.Linear):
    """Draws from a generator of its own."""

    def __init__(self, *sizes):
        super().__init__(*sizes)
        self.rng, self.python = np.random.default_rng(), random.Random()

    def forward(self, x):
        return super().forward(x + float(self.rng.normal()) + self.python.random() if self.training else x)


def by_weights():
    model = nn.Linear(4, 3)
    with torch.no_grad():
        model.weight.copy_(torch.from_numpy(np.random.normal(size=(3, 4))) * random.random())
    return model


def noisy_loss(outputs, targets):
    return nn.functional.cross_entropy(outputs, targets, reduction="none") * (1 + np.random.random())


def bootstrapped(outputs, targets):
    chosen = np.random.choice(len(targets), len(targets))
    return float((outputs.argmax(1) == targets)[chosen].double().mean())


@dataclass(frozen=True)
class Shuffling(hw.Trainer):
    """A local loop of one's own that shuffles with NumPy."""

    @property
    def facts(self):
        return TRAINER.facts

    def drops(self, client_key):
        return False

    def train(self, work):
        order = torch.from_numpy(np.random.permutation(len(work.examples)))
        return TRAINER.train(replace(work, examples=work.examples.take(order[: len(order) // 2 + 1])))


TASKS = {
    "numpy": hw.Task(lambda: ByNumpy(4, 3)),
    "python": hw.Task(lambda: ByPython(4, 3)),
    "held": hw.Task(lambda: Held(4, 3)),
    "weights": hw.Task(by_weights),
    "loss": hw.Task(lambda: nn.Linear(4, 3), loss=noisy_loss),
    "metric": hw.Task(lambda: nn.Linear(4, 3), metrics=(bootstrapped,)),
}


def trained(task, disturb, engine=None, trainer=TRAINER, seed=0):
    np.random.seed(disturb)
    random.seed(disturb)
    before = np.random.get_state()[1].copy(), random.getstate()
    run = hw.Run(
        hw.Algorithm(hw.chain(hw.Mean()), trainer, hw.All()), blobs(), task, rounds=2, seed=seed, engine=engine
    )
    reports = list(run)
    run.close()
    assert np.array_equal(np.random.get_state()[1], before[0])
    assert random.getstate() == before[1]
    return run.state.params, dict(reports[-1].metrics)


@pytest.mark.parametrize("name", TASKS)
def test_one_seed_gives_one_result_whatever_was_drawn_before(name):
    (one, scores), (two, again) = trained(TASKS[name], 1), trained(TASKS[name], 2)
    assert torch.equal(one, two)
    assert scores == again
    assert not torch.equal(trained(TASKS[name], 1, seed=1)[0], one)


@pytest.mark.parametrize("name", ["numpy", "python", "held", "loss"])
@pytest.mark.parametrize("workers", [1, 2])
def test_workers_make_no_difference(name, workers):
    assert torch.equal(trained(TASKS[name], 1)[0], trained(TASKS[name], 2, hw.ProcessEngine(workers))[0])


@pytest.mark.parametrize("name", ["numpy", "python", "held"])
def test_such_models_train_one_client_at_a_time(name):
    alone = trained(TASKS[name], 1)
    engine = hw.LocalEngine(lanes=3)
    assert torch.equal(trained(TASKS[name], 2, engine)[0], alone[0])
    assert engine.sequential_reason is not None


def test_a_trainer_of_ones_own_is_seeded_too():
    task = hw.Task(lambda: nn.Linear(4, 3))
    one, two = (trained(task, disturb, trainer=Shuffling())[0] for disturb in (1, 2))
    assert torch.equal(one, two)

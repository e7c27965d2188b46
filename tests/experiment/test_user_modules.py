"""Losses, metrics and trainers of one's own, named as `module:name` in a run file."""

import sys

import pytest
import torch

from headway.core.errors import HeadwayError
from headway.experiment.runfile import load_runfile
from headway.observe.run_folder import read_tensors
from headway.training.trainer import trainers

OWN = '''
from dataclasses import dataclass

import torch
import torch.nn.functional as F

import headway as hw
from headway.core.flow import TrainerFacts
from headway.training.trainer import Trained


def focal(outputs, targets, gamma=2.0):
    """Focal loss, one number per example."""
    losses = F.cross_entropy(outputs, targets, reduction="none")
    return (1 - torch.exp(-losses)) ** gamma * losses


class Smooth:
    """Cross-entropy with smoothed labels."""

    def __call__(self, outputs, targets):
        return F.cross_entropy(outputs, targets, reduction="none", label_smoothing=0.1)


def mean_loss(outputs, targets):
    return F.cross_entropy(outputs, targets)


def one_argument(outputs):
    return outputs


def f1(outputs, targets):
    """The F1 score of class 1."""
    guess = outputs.argmax(1)
    both = int(((guess == 1) & (targets == 1)).sum())
    return 2 * both / max(int((guess == 1).sum() + (targets == 1).sum()), 1)


def fails(outputs, targets):
    raise ValueError("no such thing")


@dataclass(frozen=True)
class WholeBatch(hw.Trainer):
    """Steps of SGD on all of the client's examples."""

    lr: float = 0.1
    steps: int = 3
    facts = TrainerFacts("WholeBatch", applies=frozenset({"gradient"}))

    def drops(self, client_key):
        return False

    def train(self, work):
        model, start, rules = work.flat_module, work.flat_module.shared.clone(), hw.step_rules(work)
        optimizer = torch.optim.SGD(model.parameters, lr=self.lr)
        for _ in range(self.steps):
            optimizer.zero_grad()
            loss = model.task.criterion.mean(model.module(work.examples.inputs), work.examples.targets)
            loss.backward()
            rules.apply()
            optimizer.step()
        return Trained(model.shared - start, self.steps, self.steps * self.lr, self.steps * self.lr, loss.item())


class Loose(hw.Trainer):
    """No frozen dataclass."""

    extra: int = 1
'''
RUN = """
[run]
name = "own"
rounds = 2
checkpoint_every = 1

[data]
source = "hospitals"

[model]
name = "logistic"

[task]
loss = "{module}:focal"
metrics = ["accuracy", "{module}:f1"]

[algorithm.trainer]
kind = "{module}:WholeBatch"
steps = 2
"""


@pytest.fixture
def own(tmp_path, monkeypatch):
    """The name of a module of one's own beside run.toml; another one for each test, as if in a process of its own."""
    name = f"own_{abs(hash(tmp_path.name)) % 10**9}"
    (tmp_path / f"{name}.py").write_text(OWN)
    (tmp_path / "run.toml").write_text(RUN.format(module=name))
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.chdir(tmp_path)
    with trainers.classes.restored():
        yield name


def test_a_run_with_all_three_is_trained_resumed_and_known_by_their_code(headway, own, tmp_path):
    code, out, err = headway("run", "run.toml", "--out", "whole")
    assert code == 0, err
    assert "f1" in out
    code, _, err = headway("run", "run.toml", "--out", "parts", "--rounds", "1")
    assert code == 0, err
    code, out, err = headway("resume", "parts", "--rounds", "2")
    assert code == 0, err
    assert "has changed" not in out
    whole, _ = read_tensors(tmp_path / "whole" / "checkpoints" / "round-000002.safetensors")
    parts, notes = read_tensors(tmp_path / "parts" / "checkpoints" / "round-000002.safetensors")
    assert all(torch.equal(parts[name], whole[name]) for name in whole)
    assert own in (tmp_path / "parts" / "run.json").read_text()  # the digest of its code
    assert notes["best"]["metric"] == "accuracy"
    (tmp_path / f"{own}.py").write_text(OWN + "\n# another line\n")
    code, out, err = headway("resume", "parts", "--rounds", "3")
    assert code == 0, err
    assert f"the source of {own} has changed since the run was begun" in " ".join(out.split())


def test_the_functions_are_used(own):
    experiment = load_runfile("run.toml").build()
    assert experiment.task.loss.__name__ == "focal"
    assert experiment.task.metric_names == ("accuracy", "f1")
    trainer = experiment.algorithm.trainer
    assert (type(trainer).__name__, trainer.lr, trainer.steps) == ("WholeBatch", 0.1, 2)
    assert experiment.task.model()[1].out_features == 2
    smooth = load_runfile("run.toml", [f"task.loss={own}:Smooth", "task.metrics=['accuracy']"]).build()
    assert type(smooth.task.loss).__name__ == "Smooth"


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ("task.loss={}:focul", r"the module '{}' has no function 'focul' .*focal"),
        ("task.loss={}_:focal", r"the loss's module '{}_' cannot be imported"),
        (
            "task.loss={}:one_argument",
            r"task.loss: a loss is called with \(outputs, targets\), and .* takes \(outputs\)",
        ),
        ("task.loss={}:mean_loss", r"must give one loss per example, of shape"),
        ("task.loss={}:fails", r"no such thing"),
        ("task.metrics=['{}:one_argument']", r"task.metrics: a metric is called with"),
        ("task.metrics=['{}:fails']", r"fails.*no such thing"),
        ("algorithm.trainer.trainer={}:focal", r"algorithm.trainer: .*:focal is no trainer: derive a class from"),
        ("algorithm.trainer.trainer={}:Loose", r"must be a frozen dataclass"),
        ("algorithm.trainer.stebs=5", r"algorithm.trainer.stebs: WholeBatch has no option 'stebs'"),
    ],
)
def test_a_mistake_is_a_sentence_before_any_round(own, change, sentence):
    with pytest.raises(HeadwayError, match=f"(?s){sentence.format(own)}"):
        load_runfile("run.toml", [change.format(own)] if "{" in change else [change]).start()

"""Outputs and targets are never broadcast against each other: losses and metrics look at their shapes once."""

import math

import numpy as np
import pytest
import torch
from mk import blobs, toml
from torch import nn
from torch.nn import functional as F

import headway as hw
from headway.model.broadcasting import broadcasts
from headway.model.losses import LOSSES


def data(targets, features=4, clients=2):
    r = np.random.default_rng(0)
    x = torch.tensor(r.normal(size=(len(targets), features)), dtype=torch.float32)
    whole = not targets.is_floating_point()
    parts = torch.arange(len(targets)).tensor_split(2 * clients)
    train = {f"c{i}": parts[2 * i] for i in range(clients)}
    test = {f"c{i}": parts[2 * i + 1] for i in range(clients)}
    classes = int(targets.max()) + 1 if whole else None
    return hw.FederatedData("made", hw.Examples(x, targets), train, test, classes=classes)


def run(targets, outputs=1, rounds=1, make=None, **task):
    task = {"metrics": (), **task}
    made = hw.Run(
        hw.recipes.fedavg(trainer=hw.LocalSGD(lr=0.1, batch_size=4)),
        data(targets),
        hw.Task(make or (lambda: nn.Linear(4, outputs)), **task),
        rounds=rounds,
    )
    return list(made)


RNG = torch.Generator().manual_seed(0)
FLOATS, COLUMN, THREE = (torch.randn(24, *more, generator=RNG) for more in ((), (1,), (3,)))
BINARY, LABELS, CLASSES = (
    (torch.arange(24) % 2).float(),
    (torch.randn(24, 3, generator=RNG) > 0).float(),
    torch.arange(24) % 3,
)


def squares(outputs, targets):
    return (outputs - targets) ** 2


def mean_of_all_pairs(outputs, targets):
    return ((outputs - targets) ** 2).mean(1)


def largest_error(outputs, targets):
    return (outputs - targets).abs().max()


@pytest.mark.parametrize(
    ("loss", "targets", "outputs", "sentence"),
    [
        ("mean_squared_error", THREE, 1, r"outputs \[N, 1\] and targets \[N, 3\]: let the model have 3 outputs"),
        ("mean_squared_error", FLOATS, 3, r"outputs \[N, 3\] and targets \[N\]: let the model have one output"),
        ("binary_cross_entropy", LABELS, 1, r"outputs \[N, 1\] and targets \[N, 3\]"),
        ("binary_cross_entropy", BINARY, 2, r"outputs \[N, 2\] and targets \[N\]"),
        ("cross_entropy", LABELS.long(), 3, 'choose loss = "binary_cross_entropy"'),
        ("cross_entropy", FLOATS, 3, "make labels whole numbers"),
        (squares, FLOATS, 1, r"the loss squares broadcasts outputs \[N, 1\] against targets \[N\]"),
        (squares, THREE, 1, r"broadcasts outputs \[N, 1\] against targets \[N, 3\]"),
        (mean_of_all_pairs, FLOATS, 1, r"broadcasts outputs \[N, 1\]"),
        (lambda o, t: F.mse_loss(o, t, reduction="none"), FLOATS, 1, r"broadcasts outputs \[N, 1\]"),
        (lambda o, t: torch.cdist(o, t.unsqueeze(1)), FLOATS, 1, r"\[7, 7\] for 7 and \[5, 5\] for 5"),
    ],
)
def test_a_loss_that_would_broadcast_is_refused_before_training(loss, targets, outputs, sentence):
    with pytest.raises(hw.ConfigError, match=sentence):
        run(targets, outputs, loss=loss)


@pytest.mark.parametrize(
    ("loss", "targets", "make"),
    [
        ("mean_squared_error", FLOATS, lambda: nn.Sequential(nn.Linear(4, 1), nn.Flatten(0))),
        ("mean_squared_error", COLUMN, lambda: nn.Linear(4, 1)),
        ("mean_squared_error", COLUMN, lambda: nn.Sequential(nn.Linear(4, 1), nn.Flatten(0))),
        (lambda o, t: squares(o.squeeze(1), t), FLOATS, lambda: nn.Linear(4, 1)),
        (squares, THREE, lambda: nn.Linear(4, 3)),
        (lambda o, t: (t.unsqueeze(1) - o).abs(), FLOATS, lambda: nn.Linear(4, 3)),
        (lambda o, t: F.cross_entropy(o, t, reduction="none"), CLASSES, lambda: nn.Linear(4, 3)),
        (lambda o, t: F.softplus(-o[:, 0] * t[:, 0]), LABELS, lambda: nn.Linear(4, 1)),
    ],
)
def test_shapes_that_pair_up_train(loss, targets, make):
    assert math.isfinite(run(targets, make=make, loss=loss)[0].train_loss)


def test_one_column_more_or_less_is_the_same_loss():
    for name in ("mean_squared_error", "binary_cross_entropy"):
        loss, outputs = LOSSES[name], torch.randn(24)
        wanted = loss.per_example(outputs, BINARY)
        for o, t in ((outputs[:, None], BINARY), (outputs, BINARY[:, None]), (outputs[:, None], BINARY[:, None])):
            assert torch.equal(loss.per_example(o, t), wanted)
        with pytest.raises(hw.ConfigError):
            loss.per_example(outputs[:, None], LABELS)


@pytest.mark.parametrize(
    ("metric", "targets", "outputs", "sentence"),
    [
        ("mean_absolute_error", THREE, 1, r"the metric 'mean_absolute_error': one output is needed for each target"),
        ("mean_absolute_error", CLASSES, 3, "'mean_absolute_error': one output"),
        ("accuracy", FLOATS, 1, 'needs targets 0 and 1.*not all of them whole.*"mean_absolute_error"'),
        ("balanced_accuracy", 5 * BINARY, 1, "found targets from 0 to 5"),
        ("auroc", CLASSES, 3, "is for two classes, and the model has 3 outputs"),
        (largest_error, FLOATS, 1, r"the metric largest_error broadcasts outputs \[N, 1\] against targets \[N\]"),
        (lambda o, t: F.l1_loss(o, t), FLOATS, 1, "broadcasts outputs"),
    ],
)
def test_a_metric_that_would_compare_what_is_not_paired_is_refused(metric, targets, outputs, sentence):
    losses = {1: lambda o, t: squares(o[:, 0], t.reshape(len(t), -1)[:, 0])}
    with pytest.raises(hw.ConfigError, match=sentence):
        run(targets, outputs, loss=losses.get(outputs, "cross_entropy"), metrics=(metric,))


def all_pairs(outputs, targets):
    scores = outputs.squeeze(1)
    return (scores[:, None] > scores[None, :]).double()[targets > 0][:, targets <= 0].mean()


def test_pairs_that_are_meant_do_not_count_as_broadcast():
    assert not broadcasts(all_pairs, torch.randn(9, 1), (torch.arange(9) % 2).float())
    assert not broadcasts(lambda o, t: 1 / 0, torch.randn(9, 1), torch.randn(9))
    assert math.isfinite(run(BINARY, loss="binary_cross_entropy", metrics=(all_pairs,))[-1].metrics["all_pairs"])


def test_a_model_whose_first_axis_is_not_the_examples_is_refused():
    with pytest.raises(hw.ConfigError, match=r"the first axis must be the examples"):
        run(FLOATS, make=lambda: nn.Sequential(nn.Linear(4, 2), nn.Flatten(0)), loss=lambda o, t: o[::2] - t)


def test_a_run_file_says_it_in_a_sentence_before_any_training(headway, tmp_path):
    x, _ = blobs(60)
    np.savez("three.npz", x=x, y=np.random.default_rng(0).normal(size=(60, 3)), client=np.arange(60) % 3)
    (tmp_path / "own_shapes.py").write_text(
        "from torch import nn\ndef one(shape):\n    return nn.Linear(shape[0], 1)\n"
    )
    toml("three.toml", 'source = "three.npz"', 'name = "own_shapes:one"')
    code, _, err = headway("run", "three.toml")
    assert code == 1
    assert "outputs [N, 1] and targets [N, 3]: let the model have 3 outputs" in err
    toml("packaged.toml", 'source = "three.npz"')
    assert headway("run", "packaged.toml")[0] == 0, "a packaged model has an output for each target"

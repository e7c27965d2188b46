"""Targets of any size are learned scaled, and predicted and measured in their own units."""

import csv

import numpy as np
import pytest
import safetensors.torch
import torch
from torch import nn

import headway as hw
from headway.core.errors import ConfigError
from headway.experiment.runfile import load_runfile
from headway.model.target_scale import ScaledSquaredError, TargetScale


def houses(path, rows=240, towns=4):
    r = np.random.default_rng(0)
    with path.open("w", newline="") as file:
        out = csv.writer(file)
        out.writerow(["town", "area", "year", "price"])
        for i in range(rows):
            area, year = r.lognormal(4.5, 0.4), r.integers(1900, 2024)
            out.writerow([f"town {i % towns}", round(area, 1), year, round(3000 * area + 20_000 * r.normal())])


def regression(outputs=1, n=60):
    r = np.random.default_rng(1)
    x = r.normal(size=(n, 3)).astype("float32")
    y = (1000 * (x @ r.normal(size=(3, outputs))) + 5e5 * np.arange(1, outputs + 1)).astype("float32")
    parts = {f"c{k}": (x[k::3], y[k::3].squeeze(), x[k::3], y[k::3].squeeze()) for k in range(3)}
    return hw.data.FederatedData.from_clients(parts)


def run_of(data, scale, engine=None, make=lambda: nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1)), **more):
    task = hw.Task(make, loss="mean_squared_error", metrics=("mean_absolute_error",))
    trainer = hw.LocalSGD(lr=0.05, batch_size=5)
    run = hw.Run(hw.recipes.fedavg(trainer=trainer), data, scale.apply(task), rounds=3, engine=engine, **more)
    report = list(run)[-1]
    return run, report


def test_an_untouched_regression_file_learns_in_the_units_of_the_target(headway, tmp_path):
    houses(tmp_path / "houses.csv")
    code, _, err = headway("init", "--data", "houses.csv", "--client-column", "town", "--target", "price")
    assert (code, err) == (0, "")
    code, out, _ = headway("run", "run.toml", "--rounds", "12", "--out", "run")
    assert code == 0
    assert "the mean and standard deviation of all training targets (known from sums over the clients)" in out
    data = load_runfile("run.toml").build().data
    training = torch.cat([data.train_of(c).targets for c in data.clients]).double()
    tested = torch.cat([data.test_of(c).targets for c in data.clients]).double()
    baseline = float((tested - training.mean()).abs().mean())
    best = float(out.split("Best mean_absolute_error: ")[1].split(",")[0])
    assert 1000 < best < 0.6 * baseline
    constant = next(line for line in out.splitlines() if "always the mean of the target" in line)
    assert float(constant.split()[-2]) == pytest.approx(baseline, rel=1e-3)
    assert headway("export", "run")[0] == 0
    module = load_runfile("run/run.toml").build().task.model()
    module.load_state_dict(safetensors.torch.load_file(tmp_path / "run" / "model.safetensors"))
    with torch.no_grad():
        answers = module(data.store.inputs).squeeze(1)
    assert float((answers - data.store.targets).abs().mean()) < 0.6 * baseline


def test_scaling_in_the_model_is_scaling_of_the_targets():
    data = regression()
    scale = TargetScale.of(data)
    run, _ = run_of(data, scale)
    plain = hw.data.FederatedData.from_clients(
        {
            c: (data.train_of(c).inputs, (data.train_of(c).targets - scale.centre[0]) / scale.scale[0])
            for c in data.clients
        }
    )
    other, _ = run_of(plain, TargetScale((0.0,), (1.0,)))
    assert torch.allclose(run.state.params, other.state.params, atol=1e-4)
    with torch.no_grad():
        outputs = other.model()(data.store.inputs) * scale.scale[0] + scale.centre[0]
        assert torch.allclose(run.model()(data.store.inputs), outputs, rtol=1e-4)


@pytest.mark.parametrize("outputs", [1, 2])
def test_engines_agree_and_each_target_has_its_own_scale(outputs):
    data = regression(outputs)
    scale = TargetScale.of(data)
    assert len(scale.scale) == outputs
    assert scale.centre == pytest.approx([5e5 * (k + 1) for k in range(outputs)], rel=1e-2)
    found = []
    for engine in (hw.LocalEngine(), hw.LocalEngine(lanes=3), hw.LocalEngine(lanes=3, low_rank=True)):
        run, report = run_of(data, scale, engine, make=lambda: nn.Sequential(nn.Linear(3, outputs)))
        found.append(run.state.params)
        assert 0 < report.metrics["mean_absolute_error"] < 5000
    assert torch.allclose(found[0], found[1], atol=1e-4)
    assert torch.allclose(found[0], found[2], atol=1e-4)


def test_test_parts_and_other_clients_rows_do_not_move_the_scale_but_training_targets_do():
    data = regression()
    parts = {c: (data.train_of(c), data.test_of(c)) for c in data.clients}
    changed = {c: (a.inputs, a.targets, b.inputs, b.targets * 9) for c, (a, b) in parts.items()}
    assert TargetScale.of(hw.data.FederatedData.from_clients(changed)) == TargetScale.of(data)
    rows = torch.cat([data.train_of(c).targets for c in data.clients]).double()
    assert TargetScale.of(data).centre[0] == pytest.approx(float(rows.mean()))
    assert TargetScale.of(data).scale[0] == pytest.approx(float(rows.std(correction=0)))
    same = hw.data.FederatedData.from_clients({"a": ([[0.0], [1.0]], [7.0, 7.0])})
    assert TargetScale.of(same) == TargetScale((7.0,), (1.0,))


def test_what_cannot_be_scaled_is_refused_or_said(headway, tmp_path):
    houses(tmp_path / "houses.csv")
    assert headway("init", "--data", "houses.csv", "--client-column", "town", "--target", "price")[0] == 0
    told = "task.target_scale={centre = 500000.0, scale = 200000.0}"
    assert "(y - 500000) / 200000;" in headway("run", "run.toml", "--rounds", "1", "--set", told)[1]
    code, _, err = headway("run", "run.toml", "--set", "task.target_scale={centre = 1.0, scale = 0.0}")
    assert code == 1
    assert "scales above 0" in err
    out = headway("run", "run.toml", "--rounds", "1", "--set", "data.target=year", "--set", "data.task=classification")[
        1
    ]
    assert "task.target_scale changes nothing, since the targets are classes" in out
    classes = hw.data.FederatedData.from_clients({"a": ([[0.0], [1.0]], [0, 1])})
    with pytest.raises(ConfigError, match="these are classes"):
        TargetScale.of(classes)
    with pytest.raises(ConfigError, match="mean_squared_error"):
        TargetScale((0.0,), (1.0,)).apply(hw.Task(lambda: nn.Linear(1, 1), loss="binary_cross_entropy"))


def test_a_run_goes_on_by_its_own_scale_only(headway, tmp_path):
    houses(tmp_path / "houses.csv")
    assert headway("init", "--data", "houses.csv", "--client-column", "town", "--target", "price")[0] == 0
    assert headway("run", "run.toml", "--rounds", "1", "--out", "run")[0] == 0
    kept = (tmp_path / "run" / "run.toml").read_text()
    edited = kept.replace('target_scale = "training"', "target_scale = { centre = 1.0, scale = 1e5 }")
    (tmp_path / "run" / "run.toml").write_text(edited)
    code, _, err = headway("resume", "run", "--rounds", "2")
    assert (code, edited != kept) == (1, True)
    assert "TargetScale(centre=(1.0,)" in err
    (tmp_path / "run" / "run.toml").write_text(kept)
    assert headway("resume", "run", "--rounds", "2")[0] == 0


def test_the_loss_is_of_the_scaled_target_and_broadcasts_nothing():
    loss = ScaledSquaredError(TargetScale((0.0, 0.0), (10.0, 2.0)))
    outputs, targets = torch.tensor([[30.0, 4.0]]), torch.tensor([[10.0, 2.0]])
    assert loss(outputs, targets).tolist() == [2.5]
    with pytest.raises(ConfigError, match="one output is needed for each target"):
        loss(torch.zeros(4, 1), torch.zeros(4, 3))

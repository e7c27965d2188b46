"""Images with their channels side by side in memory: the same numbers, and a model that minds is left alone."""

import pytest
import torch
from torch import nn

import headway as hw
from headway.engines.autotune.execution_plan import ExecutionPlan
from headway.model.flat_module import FlatModule
from headway.numerics.keys import Key


class Viewing(nn.Module):
    """Counts on its tensors being contiguous."""

    def __init__(self):
        super().__init__()
        self.conv, self.linear = nn.Conv2d(2, 3, 3, padding=1), nn.Linear(3 * 6 * 6, 4)

    def forward(self, x):
        x = self.conv(x)
        return self.linear(x.view(len(x), -1))


def cnn(channels=2):
    layers = (nn.Conv2d(channels, 3, 3), nn.MaxPool2d(2), nn.ReLU(), nn.Flatten(), nn.Linear(12, 4))
    return nn.Sequential(*layers)


def pictures(channels=2, sizes=(7, 12, 5, 9)):
    generator = torch.Generator().manual_seed(1)
    count = sum(sizes)
    inputs = torch.rand(count, channels, 6, 6, generator=generator)
    targets = torch.randint(0, 4, (count,), generator=generator)
    parts = {f"client-{n}": rows for n, rows in enumerate(torch.arange(count).split(list(sizes)))}
    test = {name: rows[:2] for name, rows in parts.items()}
    train = {name: rows[2:] for name, rows in parts.items()}
    return hw.FederatedData("pictures", hw.Examples(inputs, targets), train, test, classes=4)


def run(engine, make=cnn, channels=2, recipe="fedavg", number="float64", momentum=0.0, rounds=3):
    trainer = hw.LocalSGD(lr=0.1, batch_size=4, momentum=momentum)
    task = hw.Task(make, dtype=number)
    algorithm = hw.recipes.recipe(recipe, trainer=trainer)
    made = hw.Run(algorithm, pictures(channels), task, rounds=rounds, engine=engine, seed=2)
    reports = list(made)
    made.close()
    return made, reports


def layout_seen(channels, channels_last):
    seen = []

    class Looks(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = cnn(channels)

        def forward(self, x):
            if self.training:  # a few looks before the first round, in evaluation mode, are at images as they lie
                seen.append(x.stride())
            return self.inner(x)

    run(hw.LocalEngine(channels_last=channels_last), make=Looks, channels=channels, rounds=1)
    return set(seen)


@pytest.mark.parametrize("channels", [1, 2])
def test_the_model_is_given_channels_side_by_side(channels):
    asked, plain = layout_seen(channels, True), layout_seen(channels, None)
    assert asked == {(36 * channels, 1, 6 * channels, channels)}
    assert asked.isdisjoint(plain)


def test_the_values_are_the_same_and_other_shapes_are_left_alone():
    flat_module = FlatModule(hw.Task(cnn), Key.root(0))
    images, rows = torch.rand(5, 3, 4, 6), torch.rand(5, 3)
    assert flat_module.to_memory_format(images) is images
    flat_module.channels_last = True
    assert torch.equal(flat_module.to_memory_format(images), images)
    assert flat_module.to_memory_format(images).is_contiguous(memory_format=torch.channels_last)
    assert flat_module.to_memory_format(rows) is rows


@pytest.mark.parametrize("recipe", ["fedavg", "scaffold+ecgr", "moon"])
@pytest.mark.parametrize("channels", [1, 2])
def test_the_same_numbers_to_rounding(recipe, channels):
    def make():
        if recipe != "moon":
            return cnn(channels)
        return nn.Sequential(cnn(channels)[:-1], nn.Linear(12, 5), nn.Tanh(), nn.Linear(5, 4))

    options = {"make": make, "channels": channels, "recipe": recipe, "momentum": 0.5}
    (a, reports), (b, others) = (run(hw.LocalEngine(channels_last=last), **options) for last in (None, True))
    torch.testing.assert_close(a.state.params, b.state.params, rtol=1e-10, atol=1e-12)
    for one, other in zip(reports, others, strict=True):
        assert one.metrics == pytest.approx(other.metrics, rel=1e-9)


def test_workers_arrange_as_the_parent_does():
    way = {"lanes": 2, "low_rank": True, "channels_last": True, "drift": False}
    local, workers = run(hw.LocalEngine(**way))[0], run(hw.ProcessEngine(2, **way))[0]
    assert torch.equal(local.state.params, workers.state.params)
    close = run(hw.LocalEngine(drift=False))[0]
    torch.testing.assert_close(local.state.params, close.state.params, rtol=1e-10, atol=1e-12)


def test_a_model_that_minds_is_left_alone_by_the_planner_and_named_if_asked(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    made, _ = run(hw.LocalEngine(lanes="auto"), make=Viewing)
    assert not made.engine.measured_plan.plan.channels_last
    with pytest.raises(hw.ClientFailed, match=r"view"):
        run(hw.LocalEngine(channels_last=True), make=Viewing)


def test_a_way_is_written_down_and_read_back():
    for way in (
        ExecutionPlan(),
        ExecutionPlan(8),
        ExecutionPlan(8, True),
        ExecutionPlan(8, False, True),
        ExecutionPlan(channels_last=True),
        ExecutionPlan(8, compiled=True),
    ):
        assert ExecutionPlan.of(way.pinned_settings) == way
    assert ExecutionPlan().pinned_settings == {}
    assert (
        ExecutionPlan(25, True, True).summary
        == "batches of 25 clients, their linear layers in low-rank form, channels last"
    )
    assert ExecutionPlan(channels_last=True, compiled=True).summary == "clients one at a time, channels last, compiled"

"""Clients that train side by side end as if they had trained one after another."""

from dataclasses import dataclass
from typing import ClassVar

import pytest
import torch
from torch import nn
from toys import blobs

import headway as hw
from headway.engines.grouping import groups_of

SIZES = (7, 12, 5, 9, 20, 1)


def model():
    return nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3))


def run(recipe, lanes, trainer, data=None, make=model, rounds=2, number="float64", **options):
    algorithm = recipe if isinstance(recipe, hw.Algorithm) else hw.recipes.recipe(recipe, trainer=trainer, **options)
    task = hw.Task(make, dtype=number, metrics=("accuracy",))
    engine = hw.LocalEngine(lanes=lanes)
    made = hw.Run(algorithm, data or blobs(sizes=SIZES), task, rounds=rounds, engine=engine, seed=3)
    return made, list(made)


def tied():
    layer = nn.Linear(4, 4)
    return nn.Sequential(layer, nn.Tanh(), layer, nn.Linear(4, 3))


def agree(one, other, close=1e-10):
    (a, reports), (b, others) = one, other
    torch.testing.assert_close(a.state.params, b.state.params, rtol=close, atol=close)
    assert not torch.equal(a.state.params, torch.zeros_like(a.state.params))
    for client in a.memory.clients():
        for label, kept in a.memory.get(client).items():
            for name, tensor in kept.items():
                torch.testing.assert_close(tensor, b.memory.get(client)[label][name], rtol=close, atol=close)
    for mine, theirs in zip(reports, others, strict=True):
        assert mine.train_loss == pytest.approx(theirs.train_loss, rel=1e-6)
        assert mine.drift.keys() == theirs.drift.keys()
        for name, value in mine.drift.items():
            assert value == pytest.approx(theirs.drift[name], rel=max(1e-6, close), abs=max(1e-9, close)), name
        assert [r.steps for r in mine.clients] == [r.steps for r in theirs.clients]


TRAINER = hw.LocalSGD(lr=0.1, batch_size=4, epochs=2, momentum=0.5)
RECIPES = [name for name in hw.recipes.names() if not name.startswith(("moon", "fedsgd", "fedasync", "fedbuff"))]


@pytest.mark.parametrize("recipe", RECIPES)
def test_every_recipe(recipe):
    """Client sizes from 1 to 20, two epochs, momentum: six lanes, and three."""
    alone = run(recipe, 1, TRAINER)
    for lanes in (3, 6):
        beside = run(recipe, lanes, TRAINER)
        assert beside[0].engine.sequential_reason is None
        agree(alone, beside)


@pytest.mark.parametrize(
    "options",
    [
        {"batch_size": None, "epochs": 3},
        {"steps": 5, "batch_size": 3},
        {"clip_gradient": 0.05, "weight_decay": 0.1},
        {"momentum": 0.9, "nesterov": True, "lr": 0.02},
        {"schedule": hw.Schedule(kind="exponential", over="steps", factor=0.8)},
        {"schedule": hw.Schedule(kind="step", over="epochs", factor=0.5), "epochs": 3},
        {"stragglers": 0.5, "epochs": 3},
        {"stragglers": 0.5, "epochs": 3, "straggler_policy": "drop"},
        {"validation": 0.2},
    ],
    ids=str,
)
@pytest.mark.parametrize("recipe", ["fedavg", "scaffold+ecgr"])
def test_every_option_of_the_loop(recipe, options):
    trainer = hw.LocalSGD(**{"lr": 0.1, "batch_size": 4, **options})
    agree(run(recipe, 1, trainer), run(recipe, 4, trainer))


def test_a_convolution_on_real_digits():
    pytest.importorskip("sklearn")
    data = hw.data.load("digits", partition={"kind": "dirichlet-class", "alpha": 0.5}, clients=7)

    def make():
        return nn.Sequential(nn.Conv2d(1, 3, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(27, 10))

    trainer = hw.LocalSGD(lr=0.05, batch_size=16)
    agree(run("fedprox", 1, trainer, data, make, 2), run("fedprox", 7, trainer, data, make, 2))
    agree(
        run("fedavg", 1, trainer, data, make, 1, "float32"), run("fedavg", 7, trainer, data, make, 1, "float32"), 1e-5
    )


@pytest.mark.parametrize("correct", ["gradient", "step"])
def test_rules_that_steer(correct):
    agree(run("scaffold", 1, TRAINER, correct=correct), run("scaffold", 4, TRAINER, correct=correct))


@pytest.mark.parametrize("recipe", ["fedavg", "scaffold+ecgr"])
def test_dropout_is_each_clients_own(recipe):
    def make():
        return nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Dropout(0.3), nn.Linear(6, 3))

    for options in ({"batch_size": 4, "epochs": 2, "momentum": 0.5}, {"steps": 5, "batch_size": 3}):
        trainer = hw.LocalSGD(lr=0.1, **options)
        beside = run(recipe, 4, trainer, make=make)
        assert beside[0].engine.sequential_reason is None
        agree(run(recipe, 1, trainer, make=make), beside)


def test_steps_that_do_not_fit_the_budget_are_kept_one_client_at_a_time():
    """Six lanes of up to five steps of 51 numbers."""
    small = hw.LocalSGD(lr=0.1, batch_size=4, steps_memory=51 * 8 * 5)
    alone, beside = run("fedavg+ecgr", 1, small), run("fedavg+ecgr", 6, small)
    agree(alone, beside)
    assert 0 < beside[0].engine.execution.setup.flat_module.scratch_bytes <= 51 * 8 * 5
    half = hw.LocalSGD(lr=0.1, batch_size=4, steps_kept="half")
    agree(run("fedavg+ecgr", 1, half), run("fedavg+ecgr", 6, half))


def test_some_clients_a_round():
    def some(lanes):
        algorithm = hw.recipes.recipe("scaffold+ecgr", trainer=TRAINER, sampler=hw.Uniform(count=3))
        return run(algorithm, lanes, TRAINER)

    agree(some(1), some(2))


@pytest.mark.parametrize(
    ("make", "recipe", "why"),
    [
        (lambda: nn.Sequential(nn.RReLU(), nn.Linear(4, 3)), "fedavg", "RuntimeError in a batched program"),
        (lambda: tied(), "fedavg", "a parameter is in two places of the model"),
        (model, "moon", "Moon looks at each client's last model"),
    ],
)
def test_what_cannot_stand_side_by_side_trains_alone(make, recipe, why):
    beside = run(recipe, 4, TRAINER, make=make)
    assert beside[0].engine.sequential_reason == why
    alone = run(recipe, 1, TRAINER, make=make)
    assert torch.equal(alone[0].state.params, beside[0].state.params)


class Branches(nn.Module):
    """What it does depends on what it sees, which a batched program cannot."""

    def __init__(self):
        super().__init__()
        self.inner = nn.Linear(4, 3)

    def forward(self, x):
        return self.inner(x) if float(x.sum()) > 0 else -self.inner(x)


def test_a_model_that_branches_on_its_inputs_trains_alone():
    alone, beside = run("fedavg", 1, TRAINER, make=Branches), run("fedavg", 4, TRAINER, make=Branches)
    assert beside[0].engine.sequential_reason == "RuntimeError in a batched program"
    assert torch.equal(alone[0].state.params, beside[0].state.params)


@pytest.mark.parametrize("affine", [True, False])
def test_a_model_whose_examples_see_each_other_trains_alone(affine):
    """Beside padding, or beside other clients' examples, a batch would have another mean."""

    def make():
        norm = nn.BatchNorm1d(6, affine=affine, track_running_stats=False)
        return nn.Sequential(nn.Linear(4, 6), norm, nn.Tanh(), nn.Linear(6, 3))

    data = blobs(sizes=(7, 11, 6, 10))
    alone, beside = (run("fedavg", lanes, TRAINER, data=data, make=make) for lanes in (1, 4))
    assert beside[0].engine.sequential_reason == "what it makes of an example depends on the others in a batch"
    assert torch.equal(alone[0].state.params, beside[0].state.params)


def test_a_failure_names_its_client():
    class Fails(nn.Linear):
        def forward(self, x):
            raise ZeroDivisionError("on purpose")

    with pytest.raises(hw.ClientFailed, match=r"client 'client-0' failed in the model's forward pass"):
        run("fedavg", 4, TRAINER, make=lambda: Fails(4, 3))


def test_lanes_hold_clients_of_like_size_whatever_the_order():
    sizes = {name: torch.arange(size) for name, size in zip("abcdef", SIZES, strict=True)}
    assert list(groups_of("abcdef", sizes, lanes=2, group=2)) == [["e", "b"], ["d", "a"], ["c", "f"]]
    assert list(groups_of("fedcba", sizes, lanes=2, group=3)) == [["e", "b", "d", "a"], ["c", "f"]]
    assert list(groups_of("cba", sizes)) == [["a", "b", "c"]]


@pytest.mark.parametrize("lanes", [0, -1, 1.5, True])
def test_lanes_that_are_no_number_are_refused(lanes):
    with pytest.raises(hw.ConfigError, match="lanes must be a whole number"):
        hw.LocalEngine(lanes=lanes)


@dataclass(frozen=True)
class Breaks(hw.Stage):
    """Fails in one hook for the client with so many examples, alone or among others."""

    place: ClassVar[hw.Place] = hw.Place.STEP
    hook: str = ""
    examples: int = 0

    def step(self, grad, w, memory, ctx):
        self._check("step", ctx)
        return grad

    def send(self, update, memory, ctx):
        self._check("send", ctx)
        return update, memory

    def _check(self, hook, ctx):
        if hook == self.hook and bool((ctx.examples == self.examples).any()):
            raise ZeroDivisionError("on purpose")


@pytest.mark.parametrize(("hook", "where"), [("step", r"Breaks\.step"), ("send", "send")])
def test_a_stage_that_fails_in_a_batch_names_its_client(hook, where):
    algorithm = hw.Algorithm(hw.chain(Breaks(hook, 9), hw.Mean()), TRAINER, hw.All())
    with pytest.raises(hw.ClientFailed, match=f"client 'client-3' failed in {where}"):
        run(algorithm, 6, TRAINER)

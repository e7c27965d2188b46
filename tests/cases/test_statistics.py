"""Averaged statistics follow the rule of the parameters: late, weighed, under every recipe; NaN stops the run."""

import pytest
import torch
from torch import nn

import headway as hw
from headway.core.context import ServerContext
from headway.core.flow import Flow
from headway.core.layout import Layout
from headway.core.update import Update
from headway.numerics.keys import Key


def unlike(clients=6, examples=24):
    """Clients whose features differ in scale by a thousand times, so that variances move far."""
    generator = torch.Generator().manual_seed(0)
    made = {}
    for index in range(clients):
        x = torch.randn(examples, 4, generator=generator) * 10.0 ** (index % 4 - 1) + 5 * index
        y = (torch.arange(examples) + index) % 3
        made[f"c{index}"] = (x[4:], y[4:], x[:4], y[:4])
    return hw.FederatedData.from_clients(made)


def net() -> nn.Module:
    return nn.Sequential(nn.BatchNorm1d(4), nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3))


def statistics(algorithm, rounds=30, engine=None, data=None):
    task = hw.Task(model=net, buffers="average")
    run = hw.Run(algorithm, data or unlike(), task, rounds=rounds, engine=engine)
    reports = list(run)
    run.close()
    return run, run.flat_module.statistics_layout.views(run.state.buffers), reports


TRAINER = hw.LocalSGD(lr=0.01, batch_size=10)
SYNCHRONOUS = ["fedavg", "fedprox", "fedadam", "fedyogi", "fedadagrad", "fedavgm", "fednova", "scaffold", "feddyn",
               "qfedavg", "afl", "quality", "fedavg+ecgr"]  # fmt: skip


def fleet():
    return hw.ClockEngine(hw.LocalEngine(), hw.DeviceFleet(examples_per_s=10.0, speed_spread=2.0))


@pytest.mark.parametrize("name", SYNCHRONOUS)
def test_variances_stay_positive_with_every_recipe(name) -> None:
    _, named, reports = statistics(hw.recipes.recipe(name, trainer=TRAINER), rounds=8)
    assert all(bool((v > 0).all()) for key, v in named.items() if key.endswith("running_var"))
    assert all(each["loss"] == each["loss"] for each in reports[-1].evaluation.values())


LATE = {
    "fedbuff": lambda: hw.recipes.recipe("fedbuff", buffer=2, trainer=TRAINER, sampler=hw.Uniform(count=4)),
    "fedasync": lambda: hw.recipes.recipe("fedasync", trainer=TRAINER, sampler=hw.Uniform(count=4)),
    "no stage for age": lambda: hw.Algorithm(
        hw.chain(hw.Mean("clients")), TRAINER, hw.Uniform(count=4), hw.Quorum(count=1, late="keep")
    ),
}


@pytest.mark.parametrize("name", LATE)
def test_variances_stay_positive_when_updates_are_late(name) -> None:
    algorithm = LATE[name]()
    _, named, _ = statistics(algorithm, rounds=60, engine=fleet())
    assert all(bool((v > 0).all()) for key, v in named.items() if key.endswith("running_var"))
    assert all(bool(v.isfinite().all()) for v in named.values())


def at_server(*stages, age, now, asked, client, w=0.0):
    """The update of a client of this age, decoded: what is added to parameters and statistics."""
    layout = Layout.of({"w": torch.zeros(1, dtype=torch.float64)})
    flow = Flow(asynchronous=True, buffer=1)
    parts = hw.chain(*stages, hw.Mean("clients"))
    flows = parts.trace(flow)
    now_, asked_ = torch.tensor([now]), torch.tensor([asked])
    now_params, asked_params = torch.full((1,), w, dtype=torch.float64), torch.zeros(1, dtype=torch.float64)
    late = {"age": torch.tensor(age), "asked_params": asked_params, "buffers": now_, "asked_buffers": asked_}
    ctx = ServerContext(0, Key.root(0), layout, flows[-1], now_params, population=4, **late)
    update = Update.of(torch.ones(1, dtype=torch.float64), buffers=torch.tensor([client - asked]))
    return parts.decode(update, ctx, flows).vectors["buffers"].item()


@pytest.mark.parametrize("stages", [(), (hw.Staleness(),), (hw.Staleness(), hw.Rebase()), (hw.Rebase(),)], ids=str)
def test_a_late_statistic_counts_from_the_one_of_now_and_is_shortened_by_its_age(stages) -> None:
    share = 4**-0.5 if hw.Staleness() in stages else 1.0
    moved = at_server(*stages, age=3, now=2.0, asked=10.0, client=1.0)
    assert moved == pytest.approx(share * (1.0 - 2.0))
    fresh = at_server(*stages, age=0, now=2.0, asked=2.0, client=1.0)
    assert fresh == pytest.approx(-1.0)


def test_fedasync_mixes_statistics_at_the_rate_of_the_parameters() -> None:
    """One client alone is never late: (1 - alpha) b + alpha b_client."""
    alpha = 0.25
    data = hw.FederatedData.from_clients({"a": (torch.randn(20, 4), torch.arange(20) % 3)})
    mixed = hw.recipes.recipe("fedasync", alpha=alpha, trainer=TRAINER, sampler=hw.Uniform(count=1))
    whole = hw.recipes.recipe("fedasync", alpha=1.0, trainer=TRAINER, sampler=hw.Uniform(count=1))
    (run, _, _), (full, _, _) = (statistics(each, rounds=1, engine=fleet(), data=data) for each in (mixed, whole))
    start = hw.Run(mixed, data, hw.Task(model=net, buffers="average"), rounds=1, engine=fleet()).state
    expected = (1 - alpha) * start.buffers + alpha * full.state.buffers
    torch.testing.assert_close(run.state.buffers, expected)
    torch.testing.assert_close(run.state.params, (1 - alpha) * start.params + alpha * full.state.params)


def test_more_answers_than_expected_do_not_turn_a_variance_negative() -> None:
    algorithm = hw.Algorithm(hw.chain(hw.Weigh("uniform"), hw.Mean("expected")), TRAINER, hw.Poisson(rate=0.3))
    _, named, _ = statistics(algorithm, rounds=40)
    assert all(bool((v > 0).all()) for key, v in named.items() if key.endswith("running_var"))


def test_noise_on_statistics_leaves_a_model_that_can_be_evaluated() -> None:
    """Noise turns variances negative, whose roots would be NaN; such a variance counts as 0."""
    links = hw.chain(hw.Clip(1.0), hw.Mean("expected"), hw.GaussianNoise(20.0))
    run, named, reports = statistics(hw.Algorithm(links, TRAINER, hw.All()), rounds=3)
    assert any(bool((v < 0).any()) for key, v in named.items() if key.endswith("running_var"))
    run.flat_module.load(run.state.params, None, run.state.buffers)
    module = run.flat_module.module.eval()
    assert bool(torch.isfinite(module(torch.ones(2, 4))).all())
    assert len(reports) == 3


class Broken(nn.Module):
    """Learns, and answers NaN whenever it is evaluated after its second training."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(4, 3)
        self.register_buffer("seen", torch.zeros(1))

    def forward(self, x):
        if self.training:
            self.seen += 1
        return self.layer(x) if self.training or self.seen < 2 else self.layer(x) * float("nan")


def test_a_nan_in_evaluation_stops_the_run_with_its_cause() -> None:
    data = unlike(3)
    run = hw.Run(hw.recipes.fedavg(trainer=TRAINER), data, hw.Task(model=Broken, buffers="average"), rounds=5)
    with pytest.raises(hw.Diverged, match=r"the loss of c0, c1, c2 is NaN on test examples, while the model's par"):
        list(run)


def test_a_statistic_that_is_not_finite_stops_the_run_by_its_name() -> None:
    class Grows(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(4, 3)
            self.register_buffer("scale", torch.ones(1))

        def forward(self, x):
            if self.training:
                self.scale *= 1e30
            return self.layer(x)

    task = hw.Task(model=Grows, buffers="average")
    with pytest.raises(hw.HeadwayError, match=r"scale|buffers"):
        list(hw.Run(hw.recipes.fedavg(trainer=TRAINER), unlike(3), task, rounds=5))

"""Clients without weights of their own end as clients with them."""

import pytest
import torch
from torch import nn
from toys import blobs

import headway as hw
from headway.vectorized import low_rank as lowrank
from headway.vectorized.low_rank_layers import OuterProductDelta
from headway.vectorized.momentum import MomentumCoefficients

SIZES = (7, 12, 5, 9, 20, 1)


def mlp():
    return nn.Sequential(nn.Linear(4, 16), nn.Tanh(), nn.Linear(16, 9, bias=False), nn.ReLU(), nn.Linear(9, 3))


def run(
    lanes,
    recipe="fedavg",
    make=mlp,
    trainer=None,
    number="float64",
    drift=False,
    rounds=4,
    low_rank=None,
    sizes=SIZES,
    **options,
):
    trainer = trainer or hw.LocalSGD(lr=0.1, batch_size=4, epochs=1)
    algorithm = hw.recipes.recipe(recipe, trainer=trainer, **options)
    engine = hw.LocalEngine(lanes=lanes, drift=drift, low_rank=low_rank)
    task = hw.Task(make, dtype=number, metrics=("accuracy",))
    made = hw.Run(algorithm, blobs(sizes=sizes), task, rounds=rounds, engine=engine, seed=3)
    return made, list(made)


def agree(one, other, close=1e-10):
    (a, reports), (b, others) = one, other
    torch.testing.assert_close(a.state.params, b.state.params, rtol=close, atol=close)
    for mine, theirs in zip(reports, others, strict=True):
        assert mine.train_loss == pytest.approx(theirs.train_loss, rel=1e-6)
        assert (mine.bytes_up, mine.bytes_down) == (theirs.bytes_up, theirs.bytes_down)
        for one_client, other_client in zip(mine.clients, theirs.clients, strict=True):
            assert (one_client.norm or 0) == pytest.approx(other_client.norm or 0, rel=1e-5)
            assert (one_client.client, one_client.steps) == (other_client.client, other_client.steps)
            assert one_client.metrics == pytest.approx(other_client.metrics, rel=1e-5)


@pytest.fixture
def lowered(monkeypatch):
    """How many clients were trained without weights of their own."""
    counted = []
    train = lowrank.LowRank.train

    def counting(self, work, plan):
        counted.append(len(plan.table.counts))
        return train(self, work, plan)

    monkeypatch.setattr(lowrank.LowRank, "train", counting)
    return counted


@pytest.mark.parametrize("lanes", [2, 4, 6])
@pytest.mark.parametrize(
    "options",
    [
        {"batch_size": 4},
        {"batch_size": 3, "epochs": 1},
        {"batch_size": None, "epochs": 1},
        {"steps": 5, "batch_size": 3},
        {"batch_size": 4, "schedule": hw.Schedule(kind="exponential", over="steps", factor=0.8)},
        {"batch_size": 5, "validation": 0.2},
    ],
    ids=str,
)
def test_the_same_as_one_client_at_a_time(lowered, lanes, options):
    trainer = hw.LocalSGD(lr=0.3, **options)
    agree(run(1, trainer=trainer), run(lanes, trainer=trainer))
    assert sum(lowered) == 4 * len(SIZES)


@pytest.mark.parametrize("over", ["examples", "clients", "expected"])
def test_every_denominator_and_server(lowered, over):
    def algorithm():
        chain = hw.chain(hw.Mean(over=over), hw.ServerAdam(lr=0.01))
        return hw.Algorithm(chain, hw.LocalSGD(lr=0.1, batch_size=4), hw.All())

    def trained(lanes):
        engine, task = hw.LocalEngine(lanes=lanes, drift=False), hw.Task(mlp, dtype="float64")
        made = hw.Run(algorithm(), blobs(sizes=SIZES), task, rounds=3, engine=engine, seed=3)
        return made, list(made)

    agree(trained(1), trained(6))
    assert sum(lowered) == 3 * len(SIZES)


def test_one_round_in_single_precision(lowered):
    agree(run(1, number="float32", rounds=1), run(6, number="float32", rounds=1), close=1e-5)
    assert lowered


def test_stragglers(lowered):
    for policy in ("partial", "drop"):
        trainer = hw.LocalSGD(lr=0.1, batch_size=8, epochs=2, stragglers=0.5, straggler_policy=policy)
        agree(run(1, trainer=trainer), run(6, trainer=trainer))
    assert lowered


def other_models():
    shared = nn.Linear(4, 4)
    return {
        "a layer that is called twice": nn.Sequential(shared, nn.ReLU(), shared, nn.Linear(4, 3)),
        "dropout, each client's own": nn.Sequential(nn.Linear(4, 16), nn.Dropout(), nn.Linear(16, 3)),
        "no linear layer": nn.Sequential(nn.Unflatten(1, (1, 4)), nn.Conv1d(1, 3, 4), nn.Flatten()),
        "a layer that is not called": Idle(),
        "rows that are parts of an example": nn.Sequential(nn.Unflatten(1, (2, 2)), nn.Linear(2, 3), Sums()),
    }


class Sums(nn.Module):
    def forward(self, x):
        return x.sum(1)


class Idle(nn.Module):
    def __init__(self):
        super().__init__()
        self.used, self.idle = nn.Linear(4, 3), nn.Linear(4, 3)

    def forward(self, x):
        return self.used(x)


class Scaled(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner, self.scale = nn.Linear(4, 3), nn.Parameter(torch.ones(3))

    def forward(self, x):
        return self.inner(x) * self.scale


@pytest.mark.parametrize("kind", list(other_models()))
def test_other_models_have_weights_of_their_own(lowered, kind):
    agree(run(1, make=lambda: other_models()[kind]), run(4, make=lambda: other_models()[kind]))
    assert run(4, make=lambda: other_models()[kind])[0].engine.execution.low_rank.reason is not None


def front():
    return nn.Sequential(nn.Unflatten(1, (1, 4)), nn.Conv1d(1, 2, 2), nn.Flatten(), nn.ReLU())


def mixed_models():
    return {
        "a convolution": nn.Sequential(front(), nn.Linear(6, 16), nn.Tanh(), nn.Linear(16, 3)),
        "a parameter of its own": Scaled(),
        "dropout": nn.Sequential(front(), nn.Linear(6, 16), nn.Dropout(), nn.Linear(16, 3)),
        "a frozen part": nn.Sequential(front().requires_grad_(False), nn.Linear(6, 3), nn.PReLU(3)),
        "a parameter that nothing uses": Unused(),
    }


class Unused(Scaled):
    def __init__(self):
        super().__init__()
        self.idle = nn.Parameter(torch.ones(5))


@pytest.mark.parametrize("kind", list(mixed_models()))
@pytest.mark.parametrize("options", [{"batch_size": 4}, {"batch_size": 8, "epochs": 2, "stragglers": 0.5}], ids=str)
def test_other_parameters_are_trained_by_each_client(lowered, kind, options):
    def make():
        return mixed_models()[kind]

    trainer = hw.LocalSGD(lr=0.2, **options)
    alone, batches = run(1, make=make, trainer=trainer), run(4, make=make, trainer=trainer, low_rank=True)
    agree(alone, batches)
    assert (before := sum(lowered)) >= 4 * 2
    agree(alone, run(4, make=make, trainer=trainer))
    assert sum(lowered) == before, "only if it is asked for"


def wide():
    return nn.Sequential(nn.Flatten(), nn.Linear(4, 30), nn.Tanh(), nn.Linear(30, 40), nn.ReLU(), nn.Linear(40, 3))


def forms(made):
    """The form in which each layer of a run's first batch was held."""
    execution = made.engine.execution
    batch = execution.batched.plan(execution.setup.first_ask(made.data.clients), made.data.clients)
    return [type(layer).__name__ for layer in execution.low_rank.loop.held(batch.plan)]


@pytest.mark.parametrize(
    ("options", "held"),
    [
        ({"batch_size": 2}, ["OuterProductDelta", "OuterProductDelta", "OuterProductDelta"]),
        ({"batch_size": 8}, ["DenseDelta", "OuterProductDelta", "DenseDelta"]),
        ({"batch_size": 8, "epochs": 12}, ["DenseDelta", "DenseDelta", "DenseDelta"]),
        ({"batch_size": 8, "momentum": 0.5}, ["OuterProductDelta", "OuterProductDelta", "OuterProductDelta"]),
    ],
    ids=str,
)
@pytest.mark.parametrize("sizes", [SIZES, (8, 8, 8, 8)], ids=["padded", "even"])
def test_layers_in_the_form_that_costs_less(lowered, options, held, sizes):
    trainer = hw.LocalSGD(lr=0.2, **options)
    alone, batches = (run(lanes, make=wide, trainer=trainer, sizes=sizes) for lanes in (1, len(sizes)))
    agree(alone, batches)
    assert lowered
    assert forms(batches[0]) == held


class Again(nn.Module):
    """The same features so many times."""

    def __init__(self, times):
        super().__init__()
        self.times = times

    def forward(self, x):
        return x.repeat(1, self.times)


@pytest.mark.parametrize("times", [2, 110])
def test_the_first_layers_products_are_made_at_once_where_there_is_little_padding(monkeypatch, times):
    """Each client's alone, where these are large; the numbers agree with those of one step after another."""
    seen = []
    foresee = OuterProductDelta.foresee
    monkeypatch.setattr(OuterProductDelta, "foresee", lambda self, x: (seen.append(len(x)), foresee(self, x)))

    def make():
        return nn.Sequential(Again(times), nn.Linear(4 * times, 30), nn.Tanh(), nn.Linear(30, 9, bias=False))

    for number, close in (("float64", 1e-10), ("float32", 1e-5)):
        pair = [run(lanes, make=make, number=number, rounds=1, sizes=(41, 41, 40)) for lanes in (1, 3)]
        agree(*pair, close=close)
    assert seen == [3 * 41, 3 * 41]
    run(6, make=make)
    assert len(seen) == 2, "SIZES are padded too much"


def test_low_rank_can_be_left_out(lowered):
    agree(run(1), run(6, low_rank=False))
    assert not lowered


def test_who_has_too_many_examples_trains_alone(lowered):
    trainer, make = hw.LocalSGD(lr=0.1, batch_size=4, epochs=3), mixed_models()["a convolution"]
    agree(run(1, make=lambda: make, trainer=trainer), run(2, make=lambda: make, trainer=trainer, low_rank=True))
    assert sum(lowered) == 4 * 4, "the batch of the two largest sees up to 60 examples a client, and 32 pay"


@pytest.mark.parametrize(
    "options",
    [
        {"recipe": "scaffold"},
        {"recipe": "feddyn"},
        {"recipe": "qfedavg"},
        {"recipe": "fednova"},
        {"drift": True},
        {"trainer": hw.LocalSGD(lr=0.1, batch_size=4, steps_kept="half"), "recipe": "fedavg+ecgr", "close": 1e-3},
        {"trainer": hw.LocalSGD(lr=0.1, batch_size=4, weight_decay=0.1)},
        {"trainer": hw.LocalSGD(lr=0.1, batch_size=4, clip_gradient=1.0)},
        {"trainer": hw.LocalSGD(lr=0.1, batch_size=4, epochs=9, momentum=0.5)},
    ],
    ids=str,
)
def test_whoever_looks_at_a_clients_weights_sees_them(lowered, options):
    close = options.get("close", 1e-10)
    options = {name: value for name, value in options.items() if name != "close"}
    agree(run(1, **options), run(6, **options), close)
    assert not lowered


MOMENTUM = hw.LocalSGD(lr=0.1, batch_size=4, momentum=0.7)
NESTEROV = hw.LocalSGD(lr=0.1, batch_size=3, epochs=1, momentum=0.6, nesterov=True)
STRAGGLING = hw.LocalSGD(lr=0.1, batch_size=8, epochs=3, stragglers=0.6, momentum=0.5)
DECREASING = hw.LocalSGD(
    lr=0.2, batch_size=5, momentum=0.3, schedule=hw.Schedule(kind="exponential", over="steps", factor=0.7)
)


@pytest.mark.parametrize("trainer", [None, MOMENTUM, NESTEROV, STRAGGLING, DECREASING], ids=lambda t: repr(t)[:60])
@pytest.mark.parametrize(
    ("recipe", "options"),
    [
        ("fedavg", {}),
        ("fedprox", {"mu": 0.8}),
        ("fedavg+ecgr", {}),
        ("fedprox+ecgr", {"mu": 0.5, "ecgr": {"select": 0.3, "beta": 0.1}}),
        ("fedavg+ecgr", {"ecgr": {"select": 0.5, "beta": 0.2, "rule": "smallest"}}),
        ("fedavg+ecgr", {"ecgr": {"select": 0.5, "beta": 0.2, "rule": "random"}}),
    ],
    ids=str,
)
def test_what_is_linear_in_the_gradients_needs_no_weights(lowered, trainer, recipe, options):
    """Momentum, a pull to the start, and steps that are combined by their Gram matrix."""
    agree(run(1, recipe, trainer=trainer, **options), run(4, recipe, trainer=trainer, **options), close=1e-9)
    assert lowered


def test_a_motion_is_that_of_a_number_with_known_gradients():
    """One client whose gradients are unit vectors: what it has moved is A itself."""
    rates = torch.tensor([0.5, 0.3, 0.2, 0.1], dtype=torch.float64)
    for nesterov in (False, True):
        motion = MomentumCoefficients(1, 4, momentum=0.6, nesterov=nesterov, pull=0.4)
        w, v = torch.zeros(4, dtype=torch.float64), torch.zeros(4, dtype=torch.float64)
        for number, rate in enumerate(rates):
            before = w.clone()
            g = torch.eye(4, dtype=torch.float64)[number] + 0.4 * w
            v = 0.6 * v + g
            w = w - rate * (g + 0.6 * v if nesterov else v)
            motion.step(slice(1), number, rate.view(1))
            torch.testing.assert_close(-motion.changes[0, number], w - before)
        torch.testing.assert_close(-motion.moved[0], w)


def test_who_explodes_is_rejected_and_the_others_count():
    """The largest client's labels are far away, so that its loss overflows."""

    def trained(lanes):
        data = blobs(sizes=SIZES)
        inputs = data.store.inputs.clone()
        inputs[data.train["client-4"]] *= 1e30
        store = hw.Examples(inputs, data.store.targets)
        data = hw.FederatedData("far", store, dict(data.train), dict(data.test), classes=3)
        algorithm = hw.recipes.fedavg(trainer=hw.LocalSGD(lr=0.1, batch_size=4))
        engine, task = hw.LocalEngine(lanes=lanes, drift=False), hw.Task(lambda: nn.Linear(4, 3))
        made = hw.Run(algorithm, data, task, rounds=1, engine=engine, evaluate_every=None)
        return made, list(made)

    one, other = trained(1), trained(6)
    torch.testing.assert_close(one[0].state.params, other[0].state.params)
    statuses = [[(c.client, c.status) for c in reports[0].clients] for _, reports in (one, other)]
    assert statuses[0] == statuses[1]
    assert ("client-4", "rejected") in statuses[0]


def test_the_model_is_given_back_as_it_was():
    made, _ = run(6)
    assert all("forward" not in vars(part) for part in made.engine.execution.setup.flat_module.module.modules())

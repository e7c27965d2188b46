"""What a module keeps in Python attributes or odd buffers does not pass from one client to another."""

from typing import ClassVar

import numpy as np
import pytest
import torch
from torch import nn
from toys import blobs

import headway as hw

TRAINER = hw.LocalSGD(lr=0.1, batch_size=4, epochs=2)
ALL = ("client-0", "client-1", "client-2")


class Keeps(nn.Module):
    """A linear model whose output also depends on what it has seen before, kept in some way."""

    shared: ClassVar = {"seen": 0.0}
    count = 0

    def __init__(self, how):
        super().__init__()
        self.body, self.how = nn.Linear(4, 3), how
        self.calls, self.state, self.past, self.inner = 0, None, [], {"a": [0.0]}
        self.register_buffer("quick", torch.zeros(()), persistent=False)
        self.register_buffer("number", torch.zeros((), dtype=torch.int64))
        self.array, self.rng = np.zeros(2), np.random.default_rng(0)

    def forward(self, x):
        h = self.body(x)
        mean = h.detach().mean()
        extra = getattr(self, self.how)(mean)
        return h + 0.1 * extra

    def counter(self, mean):
        self.calls += 1
        return self.calls

    def recurrent(self, mean):
        self.state = mean if self.state is None else 0.5 * self.state + mean
        return self.state

    def cache(self, mean):
        self.past.append(mean)
        return sum(self.past)

    def nested(self, mean):
        self.inner["a"][0] += float(mean)
        return self.inner["a"][0]

    def lazily(self, mean):
        self.fresh = getattr(self, "fresh", 0) + mean
        return self.fresh

    def on_the_class(self, mean):
        Keeps.count += 1
        Keeps.shared["seen"] += float(mean)
        return Keeps.count + Keeps.shared["seen"]

    def numpy_array(self, mean):
        self.array += float(mean)
        return float(self.array.sum())

    def quick_buffer(self, mean):
        self.quick += mean
        return self.quick

    def replaced_buffer(self, mean):
        self.quick = self.quick + mean
        self.number = self.number + 1
        return self.quick + self.number

    def generator(self, mean):
        return float(self.rng.normal())


HOWS = [
    name for name, value in vars(Keeps).items() if callable(value) and not name.startswith("_") and name != "forward"
]


def last_loss(how, clients):
    """The training loss of client-2 in the first round, and the model after it, where these clients are trained."""
    algorithm = hw.Algorithm(hw.chain(hw.Mean()), TRAINER, hw.Fixed(clients=clients))
    run = hw.Run(algorithm, blobs(), hw.Task(lambda: Keeps(how), buffers="local"), rounds=1)
    report = next(iter(run))
    run.close()
    found = {each.client: each.metrics["train_loss"] for each in report.clients}
    return found["client-2"], report.evaluation["client-2"], run


@pytest.mark.parametrize("how", HOWS)
def test_a_client_learns_the_same_whoever_was_trained_before_it(how):
    alone, among, again = (last_loss(how, clients) for clients in (("client-2",), ALL, ALL))
    assert alone[0] == among[0]
    assert among[1] == again[1]
    assert torch.equal(among[2].state.params, again[2].state.params)
    assert Keeps.count == 0
    assert Keeps.shared == {"seen": 0.0}


@pytest.mark.parametrize("how", HOWS)
def test_a_model_that_keeps_something_trains_one_client_at_a_time(how):
    task = hw.Task(lambda: Keeps(how), buffers="local")
    engine = hw.LocalEngine(lanes=2)
    run = hw.Run(hw.recipes.fedavg(trainer=TRAINER), blobs(), task, rounds=1, engine=engine)
    assert engine.sequential_reason is not None
    run.close()


@pytest.mark.parametrize("workers", [1, 2])
def test_workers_make_no_difference(workers):
    results = []
    for engine in (hw.LocalEngine(), hw.ProcessEngine(workers)):
        run = hw.Run(
            hw.recipes.fedavg(trainer=TRAINER),
            blobs(),
            hw.Task(lambda: Keeps("recurrent"), buffers="local"),
            rounds=2,
            engine=engine,
        )
        list(run)
        run.close()
        results.append(run.state.params)
    assert torch.equal(*results)


def test_parameters_that_are_made_in_a_call_are_refused():
    class Late(nn.Module):
        def __init__(self):
            super().__init__()
            self.body = nn.Linear(4, 3)

        def forward(self, x):
            if not hasattr(self, "more"):
                self.more = nn.Linear(3, 3)
            return self.more(self.body(x))

    with pytest.raises(hw.ConfigError, match=r"makes the parameter 'more.bias' when it is called"):
        hw.Run(hw.recipes.fedavg(), blobs(), hw.Task(Late), rounds=1)


def test_a_generator_of_nobodys_is_refused():
    class Drawing(nn.Linear):
        def forward(self, x):
            return super().forward(x + float(np.random.default_rng().normal()))

    with pytest.raises(hw.ConfigError, match="other outputs when it is called again"):
        hw.Run(hw.recipes.fedavg(), blobs(), hw.Task(lambda: Drawing(4, 3)), rounds=1)


class SometimesCounts(nn.Linear):
    """Keeps something only where it meets a value that the trial does not have."""

    seen = 0.0

    def forward(self, x):
        if float(x.abs().max()) > 900:
            self.seen = self.seen + 1.0
        return super().forward(x) + self.seen


def test_what_is_kept_in_an_evaluation_alone_does_not_pass_on_either():
    torch.manual_seed(0)
    x, y = torch.randn(1100, 4), torch.arange(1100) % 3
    clients = {f"c{i}": (x[:10] + i, y[:10], x[100 * i : 100 * i + 100], y[100 * i : 100 * i + 100]) for i in range(11)}
    clients["c0"][2][3, 0] = 1000
    data = hw.FederatedData.from_clients(clients)
    algorithm = hw.Algorithm(hw.chain(hw.Mean()), hw.LocalSGD(lr=1e-9), hw.All())
    run = hw.Run(algorithm, data, hw.Task(lambda: SometimesCounts(4, 3)), rounds=1)
    scores = next(iter(run)).evaluation
    with torch.no_grad():
        model = nn.Linear(4, 3)
        model.load_state_dict(run.model().state_dict())
        for client in ("c1", "c10"):
            part = data.test_of(client)
            assert scores[client]["loss"] == pytest.approx(
                float(nn.functional.cross_entropy(model(part.inputs), part.targets)), rel=1e-5
            )


@pytest.mark.parametrize("how", ["counter", "recurrent", "generator"])
def test_steps_that_are_kept_by_repeated_training_are_those_kept_in_full(how):
    made = []
    for kept in ("full", "replay"):
        algorithm = hw.recipes.recipe(
            "fedavg+ecgr", trainer=hw.LocalSGD(lr=0.1, batch_size=4, epochs=2, steps_kept=kept)
        )
        run = hw.Run(algorithm, blobs(), hw.Task(lambda: Keeps(how), buffers="local"), rounds=1)
        list(run)
        made.append(run.state.params)
    assert torch.allclose(*made, atol=1e-6)


def test_a_term_that_copies_the_model_keeps_nothing_either():
    both, alone = (
        hw.Run(hw.Algorithm(hw.chain(hw.Mean()), hw.LocalSGD(lr=0.1, loss_term=hw.Moon()), hw.Fixed(clients=clients)),
               blobs(), hw.Task(lambda: Keeps("recurrent"), buffers="local"), rounds=2)
        for clients in (ALL, ("client-2",))
    )  # fmt: skip
    assert len(list(both)) == len(list(alone)) == 2
    fixed = both.engine.execution.setup.flat_module.frozen_copy()
    assert fixed.state is None

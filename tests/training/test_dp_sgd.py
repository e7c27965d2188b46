"""DPSGD against a loop over examples with torch, its noise against its definition, and what it refuses."""

import importlib.util
import itertools
import math

import pytest
import torch
import torch.nn.functional as F
from test_local_sgd import KEY, trained
from torch import nn
from toys import blobs

import headway as hw
from headway.core.flow import Flow
from headway.data import batch_bounds, epoch_order
from headway.model.flat_module import FlatModule
from headway.numerics.secure_random import normal
from headway.training.clipped_gradients import ClippedGradients
from headway.training.example_privacy import poisson_batches

SMALL = {"lr": 0.1, "clip_norm": 0.5}


def mlp():
    return nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3))


def client_key(client="client-1"):
    return KEY.derive("client", 0).owned(client)


def batches_of(trainer, count):
    """The places of each step's examples, as the trainer's documentation has them."""
    key = client_key()
    private = key.derive("private").derive("trainer")
    if trainer.batch_size is None:
        return poisson_batches(private, count, trainer.privacy.sample_rate, trainer.privacy.steps)
    orders = [epoch_order(count, key.derive("trainer").derive("epoch", epoch), True) for epoch in range(trainer.epochs)]
    return [order[start:stop] for order in orders for start, stop in batch_bounds(count, trainer.batch_size)]


def by_examples(make, start, examples, trainer):
    """The movement of the same client, with a backward pass for each example and plain sums."""
    model = make().double()
    torch.nn.utils.vector_to_parameters(start, model.parameters())
    optimizer = torch.optim.SGD(
        model.parameters(), trainer.lr, trainer.momentum, weight_decay=trainer.weight_decay, nesterov=trainer.nesterov
    )
    count, privacy = len(examples), trainer.privacy
    denominator = privacy.sample_rate * count if privacy.sample_rate else min(trainer.batch_size, count)
    for step, batch in enumerate(batches_of(trainer, count)):
        total = torch.zeros_like(start)
        for place in batch.tolist():
            optimizer.zero_grad()
            F.cross_entropy(model(examples.inputs[place : place + 1]), examples.targets[place : place + 1]).backward()
            grad = torch.cat([parameter.grad.flatten() for parameter in model.parameters()])
            if math.isfinite(norm := float(grad.norm())):
                total += grad * min(1.0, trainer.clip_norm / norm)
        drawn = normal(client_key().derive("private").derive("trainer").derive("noise", step), len(start))
        total += trainer.noise_multiplier * trainer.clip_norm * drawn
        torch.nn.utils.vector_to_parameters(torch.nn.utils.parameters_to_vector(model.parameters()), model.parameters())
        for parameter, piece in zip(
            model.parameters(), total.split([p.numel() for p in model.parameters()]), strict=True
        ):
            parameter.grad = piece.view_as(parameter) / denominator
        optimizer.step()
    return torch.cat([parameter.detach().flatten() for parameter in model.parameters()]) - start


@pytest.mark.parametrize(
    "trainer",
    [
        hw.DPSGD(sample_rate=0.3, epochs=2, **SMALL),
        hw.DPSGD(sample_rate=0.05, steps=4, noise_multiplier=0.3, momentum=0.9, nesterov=True, **SMALL),
        hw.DPSGD(batch_size=5, epochs=2, weight_decay=0.1, **SMALL),
    ],
    ids=["poisson", "empty batches, momentum", "fixed, weight decay"],
)
def test_equals_a_loop_over_single_examples(trainer):
    task = hw.Task(mlp, dtype="float64")
    outcome, start, examples, _ = trained(trainer, task=task)
    theirs = by_examples(mlp, start, examples, trainer)
    torch.testing.assert_close(outcome.trained.movement, theirs, rtol=0, atol=1e-12)


def test_without_clip_and_noise_it_is_local_sgd():
    data = blobs(sizes=(8, 12, 4))
    options = {"lr": 0.1, "batch_size": 4, "epochs": 2, "momentum": 0.9}
    private = trained(hw.DPSGD(clip_norm=1e9, noise_multiplier=0, **options), data=data)[0]
    plain = trained(hw.LocalSGD(**options), data=data)[0]
    torch.testing.assert_close(private.trained.movement, plain.trained.movement, rtol=0, atol=1e-14)
    assert private.trained.loss == pytest.approx(plain.trained.loss, abs=1e-14)


def step_of(trainer, inputs, targets, value=0.0):
    """The noised sum of gradients of one step of a client with these examples; a model without a bias sees `value`
    where an example is 9, so that a zero has no gradient."""

    class Marked(nn.Linear):
        def forward(self, x):
            return super().forward(torch.where(x == 9.0, value, x))

    data = hw.FederatedData.from_clients({"client-1": (inputs, targets)}, name="one")
    task = hw.Task(lambda: Marked(4, 3, bias=False), dtype="float64")
    outcome, *_ = trained(trainer, data=data, task=task)
    return -outcome.trained.movement / trainer.lr * trainer.privacy.denominator(len(targets))


@pytest.mark.parametrize("value", [1.0, 1e30, 1e300, math.inf, -math.inf, math.nan, 0.0])
def test_one_example_moves_the_sum_by_no_more_than_the_clip_norm(value):
    """Also one that is made to do harm; neighbours have a record without a gradient in its place."""
    inputs, targets = torch.randn(6, 4, generator=torch.Generator().manual_seed(1)).double(), torch.arange(6) % 3
    trainer = hw.DPSGD(lr=1.0, clip_norm=0.7, noise_multiplier=1e-9, sample_rate=1.0, steps=1)
    with_it, without = inputs.clone(), inputs.clone()
    with_it[2], without[2] = 9.0, 0.0
    apart = torch.linalg.vector_norm(step_of(trainer, with_it, targets, value) - step_of(trainer, without, targets))
    assert apart <= 0.7 * (1 + 1e-9)
    if value in (1.0, 1e30):
        assert apart > 0.69


def test_the_noise_has_the_promised_size_whatever_the_batch():
    """Of clients whose examples have no gradient: what is left is the noise, and it is as large for empty batches."""
    inputs, targets = torch.zeros(40, 4), torch.zeros(40, dtype=torch.int64)
    for rate in (1.0, 0.01):
        trainer = hw.DPSGD(lr=1.0, clip_norm=0.5, noise_multiplier=3.0, sample_rate=rate, steps=60)
        drawn = torch.stack([step_of(trainer, inputs[:n], targets[:n]) for n in (1, 7, 40)]) / math.sqrt(60)
        assert float(drawn.square().mean().sqrt()) == pytest.approx(1.5, rel=0.3)


def test_poisson_batches_have_each_example_with_the_rate_by_itself():
    held = torch.zeros(400, 20)
    for step, batch in enumerate(poisson_batches(KEY.derive("x"), 20, 0.25, 400)):
        held[step, batch] = 1
    assert bool(((held.mean(0) - 0.25).abs() < 0.1).all())
    together = (held.T @ held / 400).fill_diagonal_(0.0625)
    assert bool(((together - 0.0625).abs() < 0.06).all())
    assert float(held.sum(1).var()) == pytest.approx(20 * 0.25 * 0.75, rel=0.3)


def test_the_same_sum_however_many_examples_are_taken_at_a_time():
    flat_module = FlatModule(hw.Task(mlp, dtype="float64"), KEY)
    generator = torch.Generator().manual_seed(0)
    views = {
        n: torch.randn(3, *p.shape, generator=generator).double() for n, p in flat_module.module.named_parameters()
    }
    inputs, targets = torch.randn(3, 7, 4, generator=generator).double(), torch.randint(0, 3, (3, 7))
    weights = torch.rand(3, 7, generator=generator).double()
    made = []
    for size, written in itertools.product((1, 100, 300, 10**6), (True, False)):
        sums, losses = ClippedGradients(flat_module, 0.3, size, written)(
            views, inputs, targets, weights, torch.zeros(3, dtype=torch.int64), torch.tensor(0)
        )
        made.append([*sums.values(), losses])
    for other in made[:-1]:
        for one, reference in zip(other, made[-1], strict=True):
            torch.testing.assert_close(one, reference, rtol=0, atol=1e-13)


class Tokens(nn.Module):
    """A model with sequences, norms and convolutions."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(2, 4, (3, 2), stride=2, padding=1, dilation=(1, 2), bias=False)
        self.group, self.rows, self.layer = nn.GroupNorm(2, 4), nn.Linear(4, 6), nn.LayerNorm((6,))
        self.head = nn.Linear(6, 3)

    def forward(self, x):
        x = self.group(self.conv(x.view(-1, 2, 6, 5))).flatten(2).mT
        return self.head(torch.tanh(self.layer(self.rows(x))).mean(1))


class Tied(nn.Linear):
    """A linear layer whose weight enters the output a second time."""

    def forward(self, x):
        return super().forward(x) + 0.1 * self.weight.square().sum()


class Twice(nn.Module):
    """A layer that is called twice."""

    def __init__(self):
        super().__init__()
        self.part, self.head = nn.Linear(60, 60), nn.Linear(60, 3)

    def forward(self, x):
        return self.head(torch.tanh(self.part(torch.tanh(self.part(x)))))


class Outside(nn.Module):
    """A layer whose weight is read outside its call."""

    def __init__(self):
        super().__init__()
        self.head = nn.Linear(60, 3)

    def forward(self, x):
        return self.head(x) * (1 + self.head.weight.square().mean())


@pytest.mark.parametrize(
    ("make", "by_layers"),
    [(Tokens, True), (lambda: Tied(60, 3), False), (Twice, False), (Outside, False), (lambda: nn.Linear(60, 3), True)],
    ids=["convolution, norms, sequences", "own class", "called twice", "read outside", "linear"],
)
def test_sums_by_layers_are_those_of_gradients_written_down(make, by_layers):
    """And layers are left to single gradients wherever their own rule would not be the whole gradient."""
    flat_module = FlatModule(hw.Task(make, dtype="float64"), KEY)
    generator = torch.Generator().manual_seed(0)
    views = {
        n: torch.randn(3, *p.shape, generator=generator).double()
        for n, p in flat_module.layout.views(flat_module.shared).items()
    }
    inputs, targets = torch.randn(3, 7, 60, generator=generator).double(), torch.randint(0, 3, (3, 7))
    inputs[1, 2], inputs[2, 6] = math.inf, 1e200
    weights = torch.rand(3, 7, generator=generator).double()
    arguments = views, inputs, targets, weights, torch.zeros(3, dtype=torch.int64), torch.tensor(0)
    ways = [ClippedGradients(flat_module, 0.3, written=written) for written in (True, False)]
    (sums, losses), (layered, others) = (way(*arguments) for way in ways)
    assert (ways[1].layers is not None) == by_layers
    torch.testing.assert_close(others, losses, equal_nan=True)
    for name, each in sums.items():
        assert bool(torch.isfinite(each).all())
        torch.testing.assert_close(layered[name], each, rtol=0, atol=1e-12)


def test_dropout_masks_differ_between_the_examples_of_a_batch_and_lanes_draw_the_same():
    def net():
        return nn.Sequential(nn.Linear(4, 8), nn.Dropout(0.5), nn.Linear(8, 3))

    data = blobs(sizes=(7, 12, 5, 9))
    made = []
    for engine in (hw.LocalEngine(), hw.LocalEngine(lanes=4)):
        algorithm = hw.Algorithm(hw.chain(hw.Mean()), hw.DPSGD(sample_rate=0.5, noise_multiplier=0), hw.All())
        run = hw.Run(algorithm, data, hw.Task(net, dtype="float64"), rounds=2, seed=1, engine=engine)
        list(run)
        made.append(run.state.params)
    torch.testing.assert_close(made[0], made[1], rtol=0, atol=1e-12)
    private = trained(hw.DPSGD(batch_size=12, clip_norm=1e9, noise_multiplier=0), task=hw.Task(net, dtype="float64"))
    plain = trained(hw.LocalSGD(batch_size=12), task=hw.Task(net, dtype="float64"))
    torch.testing.assert_close(private[0].trained.movement, plain[0].trained.movement, rtol=0, atol=1e-13)


def test_a_model_with_batch_norm_is_refused_and_a_frozen_one_is_not():
    def net():
        return nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5), nn.Linear(5, 3))

    def frozen():
        model = net()
        model[1].requires_grad_(False)
        return model

    with pytest.raises(hw.ConfigError, match=r"DPSGD needs a model .* found BatchNorm1d \(1\).*GroupNorm"):
        trained(hw.DPSGD(), task=hw.Task(net, dtype="float64", buffers="local"))
    outcome, *_ = trained(hw.DPSGD(), task=hw.Task(frozen, dtype="float64"))
    assert bool(torch.isfinite(outcome.trained.movement).all())


def test_a_model_that_mixes_examples_is_refused():
    class Centred(nn.Linear):
        def forward(self, x):
            return super().forward(x - x.mean(0))

    with pytest.raises(hw.ConfigError, match="DPSGD needs a model in which no example depends on the others"):
        trained(hw.DPSGD(sample_rate=1.0), task=hw.Task(lambda: Centred(4, 3), dtype="float64"))


def test_the_event_is_what_the_trainer_does():
    chain = hw.chain(hw.ECGR(), hw.Mean())
    (event,) = hw.Algorithm(chain, hw.DPSGD(sample_rate=0.1, epochs=3, clip_norm=2.0), hw.All()).flows()[-1].events
    assert (event.mechanism, event.unit, event.relation, event.at) == (
        "example_gaussian",
        "example",
        "zero_out",
        "client",
    )
    assert (event.noise_multiplier, event.sensitivity) == (1.0, 2.0)
    assert event.details == {"sample_rate": 0.1, "steps": 30.0}
    (fixed,) = hw.DPSGD(batch_size=8, epochs=3).facts.events
    assert fixed.details == {"sample_rate": 1.0, "steps": 3.0}
    assert hw.DPSGD(noise_multiplier=0).facts.events == ()


def test_steps_are_combined_after_their_noise_and_measurements_are_refused():
    """ECGR with noise reads noised steps: without a data gradient, the steps that it combines are pure noise."""
    trainer = hw.DPSGD(lr=1.0, sample_rate=0.5, steps=4)
    data = hw.FederatedData.from_clients({"client-1": (torch.zeros(8, 4), torch.zeros(8, dtype=torch.int64))}, name="0")
    task = hw.Task(lambda: nn.Linear(4, 3, bias=False), dtype="float64")
    outcome, *_ = trained(trainer, hw.ECGR(), data=data, task=task)
    assert outcome.trained.steps is not None
    assert bool((torch.linalg.vector_norm(torch.as_tensor(outcome.trained.steps), dim=1) > 0.1).all())
    with pytest.raises(hw.ChainRefused, match="DPSGD"):
        hw.Algorithm(hw.chain(hw.QFedAvg(), hw.Mean(over="clients")), trainer, hw.All())
    with pytest.raises(hw.ChainRefused, match="training loss"):
        hw.Algorithm(hw.chain(hw.Mean()), trainer, hw.PowerOfChoice(candidates=3, count=2))


def test_a_trainer_whose_noise_does_not_cover_its_steps_is_refused_where_a_stage_combines_them():
    import dataclasses

    facts = hw.DPSGD().facts
    event = dataclasses.replace(facts.events[0], covers=("delta",))
    flow = Flow(trainer=dataclasses.replace(facts, events=(event,)))
    with pytest.raises(hw.ChainRefused, match=r"only what has the trainer's noise .*steps.*covers delta"):
        hw.chain(hw.ECGR(), hw.Mean()).trace(flow)


def test_both_kinds_of_batches_are_refused():
    with pytest.raises(hw.ConfigError, match=r"either sample_rate .* or batch_size"):
        hw.DPSGD(sample_rate=0.1, batch_size=3)


def by_opacus(start, examples, trainer):
    """The movement of the same client by Opacus 1.6, on the same batches."""
    from opacus import GradSampleModule
    from opacus.optimizers import DPOptimizer

    module = GradSampleModule(mlp().double())
    nn.utils.vector_to_parameters(start.clone(), module.parameters())
    sgd = torch.optim.SGD(module.parameters(), trainer.lr, trainer.momentum)
    denominator = trainer.privacy.denominator(len(examples))
    optimizer = DPOptimizer(sgd, noise_multiplier=0.0, max_grad_norm=trainer.clip_norm, expected_batch_size=denominator)
    for batch in batches_of(trainer, len(examples)):
        optimizer.zero_grad()
        F.cross_entropy(module(examples.inputs[batch]), examples.targets[batch]).backward()
        optimizer.step()
    return nn.utils.parameters_to_vector(module.parameters()).detach() - start


def by_loop(start, examples, trainer):
    return by_examples(mlp, start, examples, trainer)


OTHERS = [by_loop, *[by_opacus] * (importlib.util.find_spec("opacus") is not None)]  # where it is installed


@pytest.mark.parametrize("other", OTHERS, ids=lambda other: other.__name__)
def test_equals_others_on_the_same_batches(other):
    """Without noise, whose size is tested above: generators differ."""
    trainer = hw.DPSGD(lr=0.1, sample_rate=0.5, epochs=3, momentum=0.9, noise_multiplier=0.0, clip_norm=0.5)
    outcome, start, examples, _ = trained(trainer, task=hw.Task(mlp, dtype="float64"))
    theirs = other(start, examples, trainer)
    torch.testing.assert_close(outcome.trained.movement, theirs, rtol=0, atol=1e-6 * float(theirs.norm()))


class Viewed(nn.Module):
    """A convolution whose outputs have to lie with channels first."""

    def __init__(self):
        super().__init__()
        self.conv, self.head = nn.Conv2d(2, 4, 3), nn.Linear(4 * 4 * 3, 3)

    def forward(self, x):
        return self.head(torch.tanh(self.conv(x.view(-1, 2, 6, 5))).view(len(x), -1))


@pytest.mark.parametrize("make", [Viewed, Tokens], ids=["view", "norms"])
def test_padding_is_left_out_and_changes_nothing(make):
    """Of lanes with unlike batches, and an empty one: each lane is what it is by itself, in its own place."""
    flat_module = FlatModule(hw.Task(make, dtype="float64"), KEY)
    generator = torch.Generator().manual_seed(0)
    shared = flat_module.shared.expand(5, -1) + 0.1 * torch.randn(5, len(flat_module.shared), generator=generator)
    views = flat_module.layout.views(shared)
    inputs, targets = torch.randn(5, 9, 60, generator=generator).double(), torch.randint(0, 3, (5, 9))
    counts = [2, 9, 0, 4, 7]
    weights = (torch.arange(9) < torch.tensor(counts).unsqueeze(1)).double()
    keys, step = torch.zeros(5, dtype=torch.int64), torch.tensor(0)
    for at_a_time in (3000, 10**7):
        clipped = ClippedGradients(flat_module, 0.3, at_a_time)
        sums, losses = clipped(views, inputs, targets, weights, keys, step)
        assert clipped.layers is not None
        for lane, count in enumerate(counts):
            own = {name: each[lane : lane + 1] for name, each in views.items()}
            batch = (each[lane : lane + 1, :count] for each in (inputs, targets, weights))
            alone, loss = ClippedGradients(flat_module, 0.3, written=True)(own, *batch, keys[:1], step)
            torch.testing.assert_close(losses[lane : lane + 1], loss, rtol=0, atol=1e-12)
            for name, each in alone.items():
                torch.testing.assert_close(sums[name][lane : lane + 1], each, rtol=0, atol=1e-12)

"""LocalSGD against torch.optim.SGD and against its own definitions."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from toys import blobs, linear_task

import headway as hw
from headway.client.client_algorithm import ClientAlgorithm
from headway.client.client_training import ClientTraining
from headway.data import batch_bounds, epoch_order
from headway.model.flat_module import FlatModule
from headway.numerics.gram import gram_matrix
from headway.numerics.keys import Key
from headway.protocol.messages import Ask, Message, Train

KEY = Key.root(3)


def trained(trainer, *stages, task=None, data=None, client="client-1", round_=0):
    """One client's outcome of a chain ending in Mean, and the flat module it was made on."""
    task, data = task or linear_task(dtype="float64"), data or blobs()
    data = hw.FederatedData(
        data.name,
        hw.Examples(data.store.inputs.to(task.number), data.store.targets),
        data.train,
        data.test,
        classes=data.classes,
    )
    algorithm = hw.Algorithm(hw.chain(*stages, hw.Mean()), trainer, hw.All())
    flat_module = FlatModule(task, KEY)
    clients = ClientAlgorithm(algorithm, flat_module, algorithm.flows(), KEY)
    start = flat_module.shared.clone()
    told = algorithm.chain.broadcast(algorithm.chain.init(start))
    ask = Ask(Train(Message(start, told), round_), (client,))
    outcome = ClientTraining(clients).train(client, ask, data.train_of(client), None)
    return outcome, start, data.train_of(client), clients


def by_hand(start, examples, trainer, key, epochs, lr=lambda round_, epoch, step: None):
    """The same client with torch.optim.SGD."""
    model = nn.Linear(4, 3).double()
    with torch.no_grad():
        model.weight.copy_(start[:12].view(3, 4))
        model.bias.copy_(start[12:])
    optimizer = torch.optim.SGD(
        model.parameters(),
        lr=trainer.lr,
        momentum=trainer.momentum,
        nesterov=trainer.nesterov,
        weight_decay=trainer.weight_decay,
    )
    step = 0
    for epoch in range(epochs):
        order = epoch_order(len(examples), key.derive("epoch", epoch), True)
        for begin, end in batch_bounds(len(examples), trainer.batch_size):
            if (rate := lr(0, epoch, step)) is not None:
                optimizer.param_groups[0]["lr"] = rate
            index = order[begin:end]
            optimizer.zero_grad()
            F.cross_entropy(model(examples.inputs[index]), examples.targets[index]).backward()
            if trainer.clip_gradient is not None:
                nn.utils.clip_grad_norm_(model.parameters(), trainer.clip_gradient)
            optimizer.step()
            step += 1
    return torch.cat([model.weight.detach().reshape(-1), model.bias.detach()]) - start


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"momentum": 0.9},
        {"momentum": 0.9, "nesterov": True},
        {"weight_decay": 0.1},
        {"momentum": 0.5, "weight_decay": 0.01, "clip_gradient": 0.3},
    ],
    ids=repr,
)
def test_equals_torch_sgd_with_a_partial_last_batch(options):
    trainer = hw.LocalSGD(lr=0.05, batch_size=5, epochs=3, **options)
    outcome, start, examples, runner = trained(trainer)
    key = runner.client_key("client-1", 0).derive("trainer")
    expected = by_hand(start, examples, trainer, key, epochs=3)
    assert len(examples) % 5 != 0
    torch.testing.assert_close(outcome.update.delta, expected, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("over", ["epochs", "steps"])
def test_schedules_within_a_round(over):
    schedule = hw.Schedule(kind="exponential", over=over, factor=0.5)
    trainer = hw.LocalSGD(lr=0.2, batch_size=4, epochs=2, schedule=schedule)
    outcome, start, examples, runner = trained(trainer)
    key = runner.client_key("client-1", 0).derive("trainer")
    rate = {"epochs": lambda r, e, s: 0.2 * 0.5**e, "steps": lambda r, e, s: 0.2 * 0.5**s}[over]
    torch.testing.assert_close(outcome.update.delta, by_hand(start, examples, trainer, key, 2, rate))
    assert outcome.trained.effective_lr == pytest.approx(sum(rate(0, s // 3, s) for s in range(6)))


def test_schedule_over_rounds():
    trainer = hw.LocalSGD(lr=0.2, batch_size=None, steps=1, schedule=hw.Schedule(kind="step", every=2, factor=0.1))
    first = trained(trainer, round_=1)[0].update.delta
    later = trained(trainer, round_=2)[0].update.delta
    torch.testing.assert_close(later, first * 0.1)


def test_schedule_shapes():
    cosine = hw.Schedule(kind="cosine", horizon=10, floor=0.2)
    assert [cosine(0), cosine(10), cosine(99)] == pytest.approx([1.0, 0.2, 0.2])
    assert cosine(5) == pytest.approx(0.6)
    linear = hw.Schedule(kind="linear", horizon=4)
    assert [linear(t) for t in range(6)] == pytest.approx([1, 0.75, 0.5, 0.25, 0, 0])


@pytest.mark.parametrize("nesterov", [False, True])
def test_gain_is_the_movement_of_a_constant_gradient(nesterov):
    """Minus the movement that a gradient of 1 causes, for any momentum."""
    trainer = hw.LocalSGD(lr=0.1, batch_size=5, epochs=2, momentum=0.9, nesterov=nesterov)
    outcome = trained(trainer)[0]
    w = torch.zeros(1, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.SGD([w], lr=0.1, momentum=0.9, nesterov=nesterov)
    for _ in range(outcome.trained.count):
        w.grad = torch.ones_like(w)
        optimizer.step()
    assert outcome.trained.count == 6
    assert outcome.trained.effective_lr == pytest.approx(-float(w.detach()))


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_gain_is_shortened_by_a_proximal_term(momentum):
    """The constant gradient is pulled back as FedProx pulls the model."""
    trainer = hw.LocalSGD(lr=0.1, batch_size=5, epochs=2, momentum=momentum)
    outcome = trained(trainer, hw.FedProx(mu=0.7))[0]
    w = torch.zeros(1, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.SGD([w], lr=0.1, momentum=momentum)
    for _ in range(outcome.trained.count):
        w.grad = 1 + 0.7 * w.detach()
        optimizer.step()
    assert outcome.trained.effective_lr == pytest.approx(-float(w.detach()))
    assert outcome.trained.lr_sum == pytest.approx(0.6)


def test_steps_are_the_displacements():
    trainer = hw.LocalSGD(lr=0.1, batch_size=5, epochs=2)
    outcome = trained(trainer, hw.ECGR(beta=1.0))[0]
    steps = outcome.trained.steps
    assert steps.shape == (6, 15)
    torch.testing.assert_close(steps.sum(0), outcome.trained.movement)
    torch.testing.assert_close(gram_matrix(steps), steps @ steps.T)


def test_a_fixed_number_of_steps_continues_into_the_next_epoch():
    trainer = hw.LocalSGD(lr=0.1, batch_size=5, steps=4)
    assert trained(trainer)[0].trained.count == 4
    assert trained(hw.LocalSGD(lr=0.1, batch_size=5, steps=2))[0].trained.count == 2


def test_train_loss_weighs_a_partial_batch_by_its_size():
    """With a step too small to move, the mean over batches is the mean over examples."""
    outcome, start, examples, runner = trained(hw.LocalSGD(lr=1e-12, batch_size=5))
    flat_module = runner.flat_module
    flat_module.load(start, None, None)
    loss = F.cross_entropy(flat_module.module(examples.inputs), examples.targets)
    assert outcome.trained.loss == pytest.approx(float(loss.detach()), rel=1e-6)


def test_initial_gradient_is_the_full_one():
    outcome, start, examples, runner = trained(hw.LocalSGD(lr=0.1, batch_size=5), hw.Scaffold(option="I"))
    runner.flat_module.load(start, None, None)
    loss = F.cross_entropy(runner.flat_module.module(examples.inputs), examples.targets)
    gradient = torch.cat([g.reshape(-1) for g in torch.autograd.grad(loss, runner.flat_module.parameters)])
    torch.testing.assert_close(outcome.memory["Scaffold"]["control"], gradient)
    assert outcome.trained.measurements.keys() == {"initial_gradient"}


class TestStragglers:
    def test_partial_work_is_between_one_and_all_but_one_epoch(self):
        trainer = hw.LocalSGD(lr=0.1, batch_size=None, epochs=4, stragglers=1.0)
        counts = {trained(trainer, round_=r)[0].trained.count for r in range(30)}
        assert counts == {1, 2, 3}

    def test_the_share_is_kept(self):
        trainer = hw.LocalSGD(epochs=2, stragglers=0.3, straggler_policy="drop")
        drops = sum(trainer.drops(KEY.derive(i)) for i in range(2000))
        assert abs(drops / 2000 - 0.3) < 4 * math.sqrt(0.3 * 0.7 / 2000)

    def test_under_drop_they_send_nothing(self):
        trainer = hw.LocalSGD(lr=0.1, epochs=2, stragglers=0.5, straggler_policy="drop")
        statuses = [
            c.status
            for r in hw.rounds(hw.recipes.fedavg(trainer=trainer), blobs(), linear_task(), rounds=8)
            for c in r.clients
        ]
        assert set(statuses) == {"counted", "dropped"}

    def test_need_more_than_one_epoch(self):
        with pytest.raises(hw.ConfigError, match="at least 2 epochs"):
            hw.LocalSGD(epochs=1, stragglers=0.5)


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"lr": 0}, "lr"),
        ({"batch_size": 0}, "batch_size"),
        ({"epochs": 0}, "epochs"),
        ({"momentum": 1.0}, "momentum"),
        ({"nesterov": True}, "nesterov"),
        ({"weight_decay": -1.0}, "weight_decay"),
        ({"clip_gradient": 0.0}, "clip_gradient"),
        ({"stragglers": 2.0, "epochs": 2}, "stragglers"),
    ],
)
def test_bad_numbers_are_refused(options, named):
    with pytest.raises(hw.ConfigError, match=named):
        hw.LocalSGD(**options)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"epochs": 1.5}, "LocalSGD.epochs must be a whole number, found 1.5"),
        ({"batch_size": 2.5}, "LocalSGD.batch_size must be a whole number"),
        ({"lr": "0.1"}, "LocalSGD.lr must be a number"),
        ({"schedule": "cosine"}, "LocalSGD.schedule must be a table"),
    ],
)
def test_a_number_of_a_wrong_type_is_refused(options, sentence):
    with pytest.raises(hw.ConfigError, match=sentence):
        hw.LocalSGD(**options)


def test_an_unknown_schedule_is_refused():
    with pytest.raises(hw.ConfigError, match=r"Schedule.over must be 'rounds', 'epochs' or 'steps'"):
        hw.Schedule(over="epoch")


@pytest.mark.parametrize("make", [lambda: hw.Uniform(count=2.5), lambda: hw.Fixed(clients="abc")])
def test_a_sampler_with_a_value_of_a_wrong_type_is_refused(make):
    with pytest.raises(hw.ConfigError, match="must be a"):
        make()

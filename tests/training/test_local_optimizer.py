"""LocalOptimizer against torch.optim in a loop of its own, LocalSGD, and itself in lanes."""

import pytest
import torch
import torch.nn.functional as F
from test_local_sgd import KEY, trained
from torch import nn
from toys import blobs, linear_task

import headway as hw
from headway.data import batch_bounds, epoch_order
from headway.training.registered_trainers import trainers


def by_torch(start, examples, trainer, optimizer_class, options):
    """The steps of one client with an optimizer of torch; w_K - w_t."""
    model = nn.Linear(4, 3).double()
    with torch.no_grad():
        model.weight.copy_(start[:12].view(3, 4))
        model.bias.copy_(start[12:])
    optimizer = optimizer_class(model.parameters(), lr=trainer.lr, **options)
    key, step = KEY.derive("client", 0).owned("client-1").derive("trainer"), 0
    for epoch in range(trainer.epochs):
        order = epoch_order(len(examples), key.derive("epoch", epoch), True)
        for begin, end in batch_bounds(len(examples), trainer.batch_size):
            warmth = min((step + 1) / (trainer.warmup_steps + 1), 1)
            optimizer.param_groups[0]["lr"] = trainer.lr * trainer.schedule(step) * warmth
            index = order[begin:end]
            optimizer.zero_grad()
            F.cross_entropy(model(examples.inputs[index]), examples.targets[index]).backward()
            if trainer.clip_gradient is not None:
                grads = [parameter.grad for parameter in model.parameters()]
                norm = torch.cat([grad.reshape(-1) for grad in grads]).norm()
                for grad in grads:
                    grad.mul_((trainer.clip_gradient / norm).clamp_max(1.0))
            optimizer.step()
            step += 1
    return torch.cat([model.weight.detach().reshape(-1), model.bias.detach()]) - start


@pytest.mark.parametrize(
    ("optimizer", "options"),
    [
        (hw.AdamW(betas=(0.8, 0.9), weight_decay=0.1), {"betas": (0.8, 0.9), "weight_decay": 0.1}),
        (hw.Adam(weight_decay=0.1), {"weight_decay": 0.1}),
        (hw.RMSprop(centered=True, momentum=0.5), {"centered": True, "momentum": 0.5}),
        (hw.Adagrad(lr_decay=0.1), {"lr_decay": 0.1}),
        (hw.SGD(momentum=0.9), {"momentum": 0.9}),
    ],
    ids=lambda value: type(value).__name__,
)
@pytest.mark.parametrize("clip_gradient", [None, 0.3])
def test_equals_a_loop_with_torch(optimizer, options, clip_gradient):
    trainer = hw.LocalOptimizer(
        optimizer,
        lr=0.05,
        batch_size=5,
        epochs=3,
        warmup_steps=3,
        clip_gradient=clip_gradient,
        schedule=hw.Schedule(kind="exponential", over="steps", factor=0.9),
    )
    outcome, start, examples, _ = trained(trainer)
    theirs = by_torch(start, examples, trainer, getattr(torch.optim, type(optimizer).__name__), options)
    torch.testing.assert_close(outcome.trained.movement, theirs, rtol=0, atol=1e-12)


@pytest.mark.parametrize("options", [{}, {"momentum": 0.9, "nesterov": True, "weight_decay": 0.01}], ids=repr)
def test_local_sgd_is_the_case_of_sgd(options):
    shared = {"lr": 0.1, "batch_size": 5, "epochs": 2, "clip_gradient": 0.5}
    ones = trained(hw.LocalSGD(**shared, **options), hw.FedProx(mu=0.1), hw.Scaffold())[0]
    others = trained(hw.LocalOptimizer(hw.SGD(**options), **shared), hw.FedProx(mu=0.1), hw.Scaffold())[0]
    assert torch.equal(ones.update.delta, others.update.delta)
    assert torch.equal(ones.memory["Scaffold"]["control"], others.memory["Scaffold"]["control"])


CHAINS = {
    "fedavg": [],
    "gradient rule": [hw.FedProx(mu=0.1)],
    "direction rule": [hw.Scaffold(correct="step")],
    "steps": [hw.ECGR()],
}


def run(trainer, engine, stages=(), rounds=3):
    data = blobs(sizes=(7, 12, 5, 9, 12), features=4)
    algorithm = hw.Algorithm(hw.chain(*stages, hw.Mean()), trainer, hw.All())
    made = hw.Run(algorithm, data, linear_task(dtype="float64"), rounds=rounds, seed=2, engine=engine)
    reports = list(made)
    return made.state.params, [report.train_loss for report in reports], engine


@pytest.mark.parametrize("chain", CHAINS)
@pytest.mark.parametrize("optimizer", ["AdamW", "Adam", "RMSprop", "Adagrad"])
def test_lanes_equal_one_client_at_a_time_over_whole_runs(optimizer, chain):
    """Clients of 7, 12, 5, 9 and 12 examples, so that lanes end early and batches are padded."""
    trainer = hw.LocalOptimizer(optimizer, lr=0.02, batch_size=4, epochs=3, warmup_steps=2)
    alone = run(trainer, hw.LocalEngine(), CHAINS[chain])
    lanes = run(trainer, hw.LocalEngine(lanes=4), CHAINS[chain])
    assert lanes[2].execution.plan.lanes == 4
    torch.testing.assert_close(lanes[0], alone[0], rtol=0, atol=1e-10)
    assert lanes[1] == pytest.approx(alone[1], abs=1e-10)


def test_learning_rates_rise_over_the_first_steps():
    trainer = hw.LocalOptimizer("SGD", lr=0.4, batch_size=5, steps=5, warmup_steps=3)
    outcome = trained(trainer)[0]
    assert outcome.trained.lr_sum == pytest.approx(0.1 + 0.2 + 0.3 + 0.4 + 0.4)
    assert trained(hw.LocalOptimizer("SGD", lr=0.4, steps=5))[0].trained.lr_sum == pytest.approx(2.0)


@pytest.mark.parametrize("stage", [hw.FedNova(), hw.Scaffold()], ids=repr)
def test_a_stage_that_divides_by_the_rate_of_gradients_is_refused(stage):
    with pytest.raises(hw.ChainRefused, match="found: LocalOptimizer with AdamW; caused by: LocalOptimizer"):
        hw.Algorithm(hw.chain(stage, hw.Mean()), hw.LocalOptimizer(), hw.All()).flows()
    hw.Algorithm(hw.chain(stage, hw.Mean()), hw.LocalOptimizer("SGD"), hw.All()).flows()


@pytest.mark.parametrize("stage", [hw.Scaffold(correct="step"), hw.Scaffold(option="I"), hw.FedProx(), hw.FedDyn()])
def test_a_stage_that_does_not_is_accepted(stage):
    over = "clients" if isinstance(stage, hw.FedDyn) else "examples"
    hw.Algorithm(hw.chain(stage, hw.Mean(over=over)), hw.LocalOptimizer(), hw.All()).flows()


def test_a_name_stands_for_the_defaults():
    assert hw.LocalOptimizer("Adagrad") == hw.LocalOptimizer(hw.Adagrad())
    assert trainers.build({"trainer": "LocalOptimizer", "optimizer": "Adam"}) == hw.LocalOptimizer(hw.Adam())
    with pytest.raises(
        hw.ConfigError, match=r"LocalOptimizer.optimizer: there is no optimizer named 'Adamw' \(did you mean 'AdamW'"
    ):
        hw.LocalOptimizer("Adamw")

"""What every registered trainer must hold, whatever its loop."""

import dataclasses
import math

import pytest
import torch
from torch import nn
from toys import blobs

import headway as hw
from headway.core.facts import TrainerFacts
from headway.core.flow import Flow
from headway.training.loop_trainer import LoopTrainer
from headway.training.measurements import MEASUREMENTS
from headway.training.optimizers import Optimizer
from headway.training.registered_trainers import trainers

OPTIONS = {"lr": 0.05, "batch_size": 4, "epochs": 2, "validation": 0.2}
MOON = hw.Moon(mu=1.0)
EXAMPLES: dict[str, list[hw.Trainer]] = {
    "LocalSGD": [
        hw.LocalSGD(**OPTIONS),
        hw.LocalSGD(momentum=0.9, nesterov=True, weight_decay=0.01, clip_gradient=0.5, **OPTIONS),
        hw.LocalSGD(loss_term=MOON, **OPTIONS),
        hw.LocalSGD(**{**OPTIONS, "last_batch": "drop", "stragglers": 0.5}),
        hw.LocalSGD(lr=0.1, batch_size=None, steps=3, schedule=hw.Schedule(kind="cosine", over="steps", horizon=3)),
    ],
    "LocalOptimizer": [
        *(hw.LocalOptimizer(Optimizer.registry.get(name)(), **OPTIONS) for name in Optimizer.registry.names()),
        hw.LocalOptimizer(hw.AdamW(weight_decay=0.3, amsgrad=True), warmup_steps=3, clip_gradient=0.5, **OPTIONS),
    ],
}
EXAMPLES["DPSGD"] = [
    hw.DPSGD(lr=0.05, sample_rate=0.3, epochs=2),
    hw.DPSGD(lr=0.05, sample_rate=0.1, steps=3, momentum=0.9, nesterov=True, weight_decay=0.01, clip_norm=0.1),
    hw.DPSGD(lr=0.05, batch_size=4, epochs=2, noise_multiplier=0.5),
    hw.DPSGD(lr=0.05, noise_multiplier=0.0, schedule=hw.Schedule(kind="cosine", over="epochs", horizon=3), epochs=3),
]
EVERY = [trainer for examples in EXAMPLES.values() for trainer in examples]
SIZES = (7, 12, 5, 9)


def model():
    return nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3))


def name_of(trainer):
    values = {field.name: getattr(trainer, field.name) for field in dataclasses.fields(trainer)}
    default = type(trainer)()
    return f"{type(trainer).__name__} { ({k: v for k, v in values.items() if v != getattr(default, k)}) }"


every = pytest.mark.parametrize("trainer", EVERY, ids=name_of)


def run(trainer, engine=None, stages=(), seed=2, rounds=2):
    data = blobs(sizes=SIZES, features=4)
    algorithm = hw.Algorithm(hw.chain(*stages, hw.Mean()), trainer, hw.All())
    made = hw.Run(algorithm, data, hw.Task(model, dtype="float64"), rounds=rounds, seed=seed, engine=engine)
    losses = [report.train_loss for report in made]
    return made, made.state.params.clone(), losses


def test_every_registered_trainer_has_example_settings():
    own = {name for name in trainers.names() if trainers.get(name).__module__.startswith("headway.")}
    assert set(EXAMPLES) == own - {"FunctionTrainer"}  # whose loop is the user's: training/test_function_trainer.py
    assert {type(trainer).__name__ for trainer in EVERY} == set(EXAMPLES)


@every
def test_it_is_rebuilt_from_its_name_and_numbers(trainer):
    table = trainers.describe(trainer)
    rebuilt = trainers.build(table)
    assert rebuilt == trainer
    assert hash(rebuilt) == hash(trainer)
    assert rebuilt.facts == trainer.facts


@every
def test_the_same_key_has_the_same_result(trainer):
    _, params, losses = run(trainer)
    _, again, losses_again = run(dataclasses.replace(trainer))
    _, other, _ = run(trainer, seed=3)
    assert torch.equal(params, again)
    assert losses == losses_again
    assert not torch.equal(params, other)


@every
def test_lanes_equal_one_client_at_a_time(trainer):
    _, params, losses = run(trainer, hw.LocalEngine())
    made, beside, losses_beside = run(trainer, hw.LocalEngine(lanes=4))
    assert (made.engine.execution.batched.reason is None) == (getattr(trainer, "loss_term", None) is None)
    torch.testing.assert_close(beside, params, rtol=0, atol=1e-10)
    assert losses_beside == (losses if None in losses else pytest.approx(losses, abs=1e-10))  # None where protected


class Asks(hw.Stage):
    """Asks for a measurement, and keeps each."""

    place = hw.Place.WEIGH
    need = ""
    seen: list[object] = []  # noqa: RUF012

    def connect(self, flow: Flow) -> Flow:
        return flow.measure(self, self.need).keep(self, "additive", "dense")

    def send(self, update, memory, ctx):
        Asks.seen.append(ctx.measurements[self.need])
        return update, memory


@every
@pytest.mark.parametrize("name", sorted(MEASUREMENTS))
def test_a_measurement_that_it_offers_is_there_and_another_is_refused(trainer, name):
    class One(Asks):
        need = name

    Asks.seen.clear()
    if name not in trainer.facts.offers:
        with pytest.raises(hw.ChainRefused, match=type(trainer).__name__):
            run(trainer, stages=[One()], rounds=1)
        return
    run(trainer, stages=[One()], rounds=1)
    assert Asks.seen
    assert all(torch.is_tensor(value) and bool(torch.isfinite(value).all()) for value in Asks.seen)


@every
def test_its_steps_add_up_to_its_movement(trainer):
    """ECGR with beta = 1 combines the single steps to what they add up to."""
    assert "steps" in trainer.facts.offers
    _, params, _ = run(trainer)
    _, combined, _ = run(trainer, stages=[hw.ECGR(beta=1.0)])
    torch.testing.assert_close(combined, params, rtol=0, atol=1e-12)


@every
def test_it_applies_the_rules_that_its_facts_name(trainer):
    _, params, _ = run(trainer)
    for kind, stage in (("gradient", hw.FedProx(mu=0.5)), ("step", hw.Scaffold(correct="step"))):
        assert kind in trainer.facts.applies
        _, ruled, _ = run(trainer, stages=[stage], rounds=3)
        _, without, _ = run(trainer, rounds=3)
        assert not torch.equal(ruled, without)
    assert bool(torch.isfinite(params).all())


@every
def test_its_facts_are_of_its_own_name(trainer):
    facts = trainer.facts
    assert isinstance(facts, TrainerFacts)
    assert facts.name == type(trainer).__name__
    assert facts.linear == (trainer.plan.optimizer.momentum_rule is not None)
    assert facts.memory == (trainer.plan.loss_term is not None)


@every
def test_the_work_that_it_announces_is_the_work_that_it_does(trainer):
    """The examples that a client's steps take, and how many steps fit, by the trainer's own account."""
    assert isinstance(trainer, LoopTrainer)
    key = hw.numerics.keys.Key.root(5)
    for size in SIZES:
        steps = trainer.plan.options.step_count(key, trainer.plan.options.training_count(size))
        used = trainer.examples_used(size, key)
        assert trainer.steps_within(size, used) == (steps, used)
        assert steps <= trainer.most_steps(size)


WRONG = {"true": True, "text": "no such text", "nan": math.nan, "infinite": math.inf, "nested list": [[1]]}


@pytest.mark.parametrize("name", sorted(EXAMPLES))
@pytest.mark.parametrize("wrong", WRONG)
def test_a_wrong_type_is_refused_with_the_field(name, wrong):
    cls = trainers.get(name)
    for field in dataclasses.fields(cls):
        if field.name in ("nesterov", "steps_memory") and wrong in ("true", "text"):
            continue
        with pytest.raises(hw.ConfigError, match=rf"{name}"):
            cls(**{field.name: WRONG[wrong]})

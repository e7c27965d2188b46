"""The steps of clients, worked out for a group: those that each would work out alone."""

import pytest
import torch

import headway as hw
from headway.data import epoch_order
from headway.numerics.keys import Key
from headway.training import client_steps
from headway.training.client_steps import steps_of

ASKED = [(7, 0, None), (12, 0, None), (7, 2, None), (1, 0, None), (7, 0, 5), (7, 0, None)]
TRAINER = hw.LocalSGD(
    lr=0.5,
    batch_size=4,
    epochs=3,
    momentum=0.9,
    validation=0.2,
    stragglers=0.5,
    schedule=hw.Schedule("step", every=1),
)
KEYS = Key.root(3).for_each("client", 0, names=[f"client-{number}" for number in range(len(ASKED))])


@pytest.mark.parametrize("ahead", [1 << 18, 30, 0])
def test_a_group_has_the_steps_that_each_client_has_alone(monkeypatch, ahead):
    monkeypatch.setattr(client_steps, "AHEAD", ahead)
    options = TRAINER.plan.options
    group = TRAINER.steps_of_group(KEYS, ASKED, 0.25)
    for steps, key, (size, round_, given) in zip(group, KEYS, ASKED, strict=True):
        training = options.training_count(size)
        count = options.step_count(key, training) if given is None else given
        alone = steps_of(options, TRAINER.plan.momentum_rule, 0.25, training, count, round_)
        assert steps.epochs == alone.epochs
        assert steps.count == alone.count == count
        assert (steps.statistics, steps.free_statistics) == (alone.statistics, alone.free_statistics)
        assert steps.mixed == (training > 4)
        for epoch, order in enumerate(steps.orders[: len(steps.epochs)]):
            assert torch.equal(order[:training], epoch_order(training, key.derive("epoch", epoch), True))
    assert any(steps.orders for steps in group) == (ahead == 1 << 18)


def test_what_is_alike_is_worked_out_once():
    trainer = hw.LocalSGD(batch_size=4)
    first, _, _, _, other, last = trainer.steps_of_group(KEYS, ASKED, 0.0)
    assert first.statistics is last.statistics
    assert first.statistics is not other.statistics


def test_statistics_are_those_of_the_formulas():
    made = steps_of(hw.LocalSGD(lr=0.1, batch_size=2).plan.options, (0.5, False), 2.0, 5, 3, 0)
    assert made.statistics.sizes == [2, 2, 1]
    assert made.statistics.lr_sum == pytest.approx(0.3)
    gain = velocity = 0.0
    for _ in range(3):
        velocity = 0.5 * velocity + 1 - 2.0 * gain
        gain += 0.1 * velocity
    assert made.statistics.effective_lr == pytest.approx(gain)
    assert made.free_statistics.effective_lr == pytest.approx(0.1 * (1 + 1.5 + 1.75))

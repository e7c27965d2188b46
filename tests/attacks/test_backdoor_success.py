"""The success rate of a backdoor, counted by hand."""

import math

import pytest
import torch
from torch import nn

from headway.attacks import Backdoor, success_rate
from headway.attacks import backdoor_success as module
from headway.data import Examples


class SeesTheTrigger(nn.Module):
    """The class 2 where the last feature is 1, and otherwise the first feature."""

    def __init__(self, misses=()):
        super().__init__()
        self.dropout = nn.Dropout(0.99)
        self.misses = torch.tensor(misses)

    def forward(self, inputs):
        own, marked = inputs[:, 0].long(), inputs[:, -1] == 1
        marked &= ~torch.isin(own, self.misses)
        return self.dropout(nn.functional.one_hot(torch.where(marked, 2, own), 4).float())


def examples(labels):
    targets = torch.tensor(labels)
    return Examples(torch.stack([targets.float(), torch.zeros(len(labels)), torch.zeros(len(labels))], 1), targets)


def test_only_examples_of_other_classes_count_and_they_carry_the_trigger():
    data = examples([0, 1, 2, 2, 2, 3, 3, 0])
    backdoor = Backdoor(target=2, size=1)
    assert success_rate(SeesTheTrigger(), backdoor, data) == 1.0
    assert success_rate(SeesTheTrigger(misses=[3]), backdoor, data) == pytest.approx(3 / 5)
    assert success_rate(SeesTheTrigger(), Backdoor(target=2, size=1, value=0.5), data) == 0.0  # another trigger
    assert success_rate(SeesTheTrigger(), Backdoor(target=1, size=1), data) == 0.0  # another target
    assert not data.inputs[:, -1].any()


def test_batches_and_the_mode_of_the_model_change_nothing(monkeypatch):
    monkeypatch.setattr(module, "BATCH", 3)
    model = SeesTheTrigger(misses=[3]).train()
    assert success_rate(model, Backdoor(target=2, size=1), examples([0, 1, 2, 3, 3, 0, 1] * 3)) == pytest.approx(2 / 3)
    assert model.training


def test_there_is_no_rate_where_nothing_can_be_taken_for_the_target():
    assert math.isnan(success_rate(SeesTheTrigger(), Backdoor(target=2), examples([2, 2])))
    real = Examples(torch.zeros(3, 2), torch.zeros(3))
    assert math.isnan(success_rate(nn.Linear(2, 1), Backdoor(), real))


def test_of_a_binary_answer_the_class_is_the_sign():
    model = nn.Linear(2, 1)
    nn.init.ones_(model.weight)
    nn.init.constant_(model.bias, -0.5)
    data = Examples(torch.zeros(4, 2), torch.tensor([0, 0, 1, 1]))
    assert success_rate(model, Backdoor(target=1, size=1), data) == 1.0
    assert success_rate(model, Backdoor(target=1, size=1, value=0.0), data) == 0.0

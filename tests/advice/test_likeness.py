"""Likeness against closed forms, and against chance."""

import math

import pytest
import torch

import headway as hw
from headway.advice.likeness import likeness
from headway.numerics.keys import Key

KEY = Key.root(0)


def data(owners_labels, shift=0.0, features=3, regression=False):
    """Clients with the given labels; inputs are normal, moved by `shift` times the client's number."""
    generator = torch.Generator().manual_seed(1)
    clients = {}
    for number, labels in enumerate(owners_labels):
        x = torch.randn(len(labels), features, generator=generator) + shift * number
        clients[f"c{number}"] = (x, torch.tensor(labels, dtype=torch.float32 if regression else torch.int64))
    return hw.FederatedData.from_clients(clients)


def test_one_class_each_is_the_most_there_can_be():
    found = likeness(data([[0] * 50, [1] * 50, [2] * 50, [3] * 50]), KEY).labels
    assert found.distance == pytest.approx(0.75)
    assert found.most == pytest.approx(0.75)
    assert found.beyond_chance == pytest.approx(1.0)
    assert found.missing == pytest.approx(0.75)
    assert found.entropy == 0


def test_equal_mixes_are_alike():
    found = likeness(data([[0, 1] * 30] * 4), KEY).labels
    assert (found.distance, found.beyond_chance, found.missing) == (0, 0, 0)
    assert found.entropy == pytest.approx(math.log(2))
    assert 0 < found.by_chance < 0.15


def test_small_clients_that_differ_by_chance_are_called_alike():
    labels = torch.randint(0, 10, (2000,), generator=torch.Generator().manual_seed(3)).tolist()
    found = likeness(data([labels[at : at + 20] for at in range(0, 2000, 20)]), KEY).labels
    assert found.distance > 0.2
    assert found.beyond_chance < 0.05
    assert found.missing == pytest.approx(found.missing_by_chance, abs=0.02)


@pytest.mark.parametrize("shift", [0.0, 0.5, 2.0])
def test_the_shift_is_the_spread_of_means_over_the_spread_within(shift):
    found = likeness(data([[0, 1] * 400] * 3, shift), KEY).shift
    expected = shift * math.sqrt(2 / 3)  # of the numbers 0, 1, 2 the standard deviation; within a client it is 1
    assert found.typical == pytest.approx(expected, rel=0.1, abs=0.04)


def test_label_skew_alone_is_no_shift_of_features():
    """Inputs that depend on the class alone: clients of unlike mixes are alike within a class."""
    generator = torch.Generator().manual_seed(5)
    clients = {}
    for name, share in (("a", 0.1), ("b", 0.9)):
        y = (torch.rand(600, generator=generator) < share).long()
        clients[name] = (torch.randn(600, 2, generator=generator) + 3 * y.unsqueeze(1), y)
    found = likeness(hw.FederatedData.from_clients(clients), KEY)
    assert found.labels.beyond_chance > 0.5
    assert found.shift.typical < 0.1


def test_the_shift_does_not_grow_with_the_number_of_small_clients():
    found = likeness(data([[0, 1] * 3] * 100, features=9), KEY).shift
    assert found.typical < 0.15


def test_a_shifted_target_is_seen_in_regression():
    found = likeness(data([[0.0, 1.0] * 50, [4.0, 5.0] * 50], regression=True), KEY)
    assert found.labels is None
    assert found.target_shift > 2
    assert likeness(data([[0.0, 1.0] * 50] * 2, regression=True), KEY).target_shift < 0.1


def test_features_that_never_vary_and_a_single_client_do_no_harm():
    still = hw.FederatedData.from_clients(
        {"a": (torch.ones(4, 2), [0, 1, 0, 1]), "b": (torch.ones(4, 2), [0, 1, 1, 1])}
    )
    assert likeness(still, KEY).shift is None
    alone = likeness(data([[0, 1] * 5]), KEY)
    assert alone.shift is None
    assert alone.labels.beyond_chance == 0
    assert alone.spread == 0


def test_the_same_key_measures_the_same():
    split = data([[0, 1, 1] * 9, [0] * 20], 0.3)
    assert likeness(split, KEY) == likeness(split, KEY)

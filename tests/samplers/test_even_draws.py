"""Cohorts are those that sorting the whole population and all of its draws would give."""

import random

import pytest
import torch

from headway.core.errors import ConfigError
from headway.data import NumberedNames
from headway.data.dataset.owners import client_ids
from headway.numerics.keys import Key
from headway.samplers import All, Fixed, Uniform, in_order, smallest
from headway.samplers.drawing import evenly


def plain(clients, count, key):
    """What Uniform draws, in one line."""
    ordered = sorted(clients)
    return tuple(sorted(ordered[int(i)] for i in key.permutation(len(ordered))[:count]))


@pytest.mark.parametrize(("population", "count"), [(1, 1), (7, 1), (7, 3), (7, 6), (7, 7), (300, 20), (500, 499)])
def test_uniform_of_few_draws_the_first_of_a_permutation(population, count):
    for seed in range(20):
        key = Key.root(seed)
        expected = plain(client_ids(population), count, key)
        shuffled = list(client_ids(population))
        random.Random(seed).shuffle(shuffled)
        for clients in (client_ids(population), NumberedNames(population), shuffled, tuple(shuffled)):
            assert Uniform(count=count).draw(clients, 0, key) == expected


def distinct(population, count, key):
    """One place after another, from a stream of them, as long as it takes."""
    found, length = [], 8 * count + 64
    for place in key.integers(0, population - 1, length).tolist():
        if place not in found and len(found) < count:
            found.append(place)
    assert len(found) == count
    return sorted(found)


@pytest.mark.parametrize(("population", "count"), [(16, 1), (400, 25), (500, 20), (100_000, 1000), (10**6, 3)])
def test_uniform_of_many_draws_the_first_different_ones(population, count):
    for seed in range(5):
        key = Key.root(seed)
        drawn = Uniform(count=count).draw(NumberedNames(population), 0, key)
        expected = distinct(population, count, key)
        assert [int(name[7:]) for name in drawn] == expected


def test_everybody_is_drawn_from_many_as_often_as_anybody():
    """20 of 320, 4,000 times: each client 250 times on average, with a standard deviation of 15.3."""
    times = torch.zeros(320)
    for round_ in range(4000):
        drawn = evenly(320, 20, Key.root(1).derive(round_))
        assert drawn == sorted(set(drawn))
        times[drawn] += 1
    assert float(times.sum()) == 80_000
    chi_square = float(((times - 250) ** 2).sum()) / (250 * (1 - 20 / 320))
    assert 240 < chi_square < 410  # 319 degrees of freedom: beyond these once in a thousand times


def test_of_equal_numbers_the_first_are_drawn():
    for seed in range(200):
        values = torch.randint(0, 4, (13,), generator=torch.Generator().manual_seed(seed))
        for count in (1, 5, 12, 13):
            expected = sorted(torch.argsort(values, stable=True)[:count].tolist())
            assert smallest(values, count) == expected


def test_a_cohort_is_pinned():
    assert Uniform(count=3).draw(NumberedNames(40), 0, Key.root(5)) == ("client-13", "client-27", "client-35")
    assert Uniform(count=3).draw(NumberedNames(1000), 0, Key.root(5)) == ("client-526", "client-777", "client-910")
    assert Uniform(share=0.5).draw(("d", "a", "c", "b"), 0, Key.root(2)) == plain("abcd", 2, Key.root(2))


def test_a_tuple_is_sorted_once_and_a_list_each_time():
    population = ("c", "a", "b")
    assert in_order(population) is in_order(population)
    names = ["c", "a"]
    assert list(in_order(names)) == ["a", "c"]
    names.append("b")
    assert list(in_order(names)) == ["a", "b", "c"]
    assert in_order(population) == ("a", "b", "c")
    assert in_order(("z", "y")) == ("y", "z")


def test_everybody_and_the_named_are_there():
    assert All().draw(NumberedNames(3), 0, Key.root(0)) == client_ids(3)
    assert Fixed(clients=("client-2", "client-0")).draw(NumberedNames(3), 0, Key.root(0)) == ("client-0", "client-2")
    with pytest.raises(
        ConfigError, match=r"names the client 'client-3', which is not available \(did you mean 'client-2'"
    ):
        Fixed(clients=("client-3",)).draw(NumberedNames(3), 0, Key.root(0))
    with pytest.raises(
        ConfigError, match=r"'x', which is not available: 1000000 are, 'client-000000' to 'client-999999'"
    ):
        Fixed(clients=("x",)).draw(NumberedNames(1_000_000), 0, Key.root(0))
    with pytest.raises(ConfigError, match=r"asked to draw from 3 clients only"):
        Uniform(count=4).draw(NumberedNames(3), 0, Key.root(0))


def test_a_draw_from_many_makes_the_drawn_names_only(monkeypatch):
    made, make = [], NumberedNames._name
    monkeypatch.setattr(NumberedNames, "_name", lambda names, number: made.append(number) or make(names, number))
    drawn = Uniform(count=10).draw(NumberedNames(1_000_000), 0, Key.root(0))
    assert [int(name[7:]) for name in drawn] == made == distinct(1_000_000, 10, Key.root(0))

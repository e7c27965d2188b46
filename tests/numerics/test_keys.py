"""Draws are pure functions of their key, and are pinned: a change of them would change every run."""

import itertools
from collections import Counter

import numpy as np
import pytest
import torch

from headway.numerics.counters import number_of, numbers_of, signed, stream, streams
from headway.numerics.keys import Key, Keys

ROOT = Key.root(7)


def test_known_answers() -> None:
    assert ROOT.secret.hex() == "eba629b1a856c3f41283dce07bd9c9edb7b69058459bc0ec0e8e08d8d0a3b333"
    assert ROOT.derive("round", 3).secret.hex() == "431d433f3c03c11b18227a12e2f3153c0e71b9bdaf759925bc22d0d4dedf9d48"
    assert ROOT.seed() == 8818517924119892853
    assert ROOT.bits(3).tolist() == [1014798175184640390, 4961778060168355033, 2584569859155696630]
    assert ROOT.permutation(6).tolist() == [5, 0, 3, 2, 4, 1]
    assert ROOT.uniform(2).tolist() == [0.11002463861695122, 0.5379570552225442]
    assert ROOT.integers(-2, 9, 5).tolist() == [4, -1, 4, 7, 3]


def test_a_draw_depends_on_its_key_alone() -> None:
    alone = Key.root(7).derive("a").uniform(5)
    parent = Key.root(7)
    parent.uniform(100), parent.derive("b").permutation(9), torch.rand(3)
    assert torch.equal(parent.derive("a").uniform(5), alone)
    assert torch.equal(parent.derive("a").uniform(3), alone[:3])


@pytest.mark.parametrize(
    ("one", "two"),
    [
        ((1,), ("1",)),
        (("a", "b"), ("ab",)),
        (("a", "b"), ("b", "a")),
        (("ab", "c"), ("a", "bc")),
        ((1, 23), (12, 3)),
        ((), ("",)),
        ((-1,), (1,)),
    ],
)
def test_different_parts_give_different_keys(one, two) -> None:
    assert ROOT.derive(*one) != ROOT.derive(*two)


def test_deriving_at_once_is_not_deriving_in_turn_and_seeds_do_not_collide() -> None:
    assert ROOT.derive("a", "b") != ROOT.derive("a").derive("b")
    assert len({Key.root(seed) for seed in range(-50, 50)}) == 100


def test_a_key_does_not_print_its_secret() -> None:
    assert ROOT.secret.hex() not in repr(ROOT)
    assert str(ROOT.secret) not in repr(ROOT)


@pytest.mark.parametrize("count", [0, 1])
def test_small_draws(count) -> None:
    assert ROOT.permutation(count).tolist() == list(range(count))
    assert ROOT.uniform(count).shape == ROOT.integers(0, 3, count).shape == (count,)


def chi_square(observed: Counter, outcomes: int) -> float:
    expected = observed.total() / outcomes
    return sum((observed.get(o, 0) - expected) ** 2 for o in observed) / expected + expected * (
        outcomes - len(observed)
    )


def test_permutations_are_uniform() -> None:
    drawn = Counter(tuple(ROOT.derive(i).permutation(4).tolist()) for i in range(4800))
    assert set(drawn) == set(itertools.permutations(range(4)))
    assert chi_square(drawn, 24) < 49.7  # the 99.9 % quantile with 23 degrees of freedom


def test_integers_reach_both_ends_and_are_uniform() -> None:
    drawn = Counter(ROOT.integers(-2, 7, 10_000).tolist())
    assert set(drawn) == set(range(-2, 8))
    assert chi_square(drawn, 10) < 27.9  # 99.9 %, 9 degrees of freedom


def test_uniform_numbers_are_below_one_and_uniform() -> None:
    drawn = ROOT.uniform(10_000)
    assert 0 <= float(drawn.min()) < 1e-3
    assert 1 - 1e-3 < float(drawn.max()) < 1
    assert chi_square(Counter((drawn * 20).long().tolist()), 20) < 43.8  # 99.9 %, 19 degrees of freedom


def test_integers_of_numpy_are_integers():
    assert Key.root(np.int64(3)) == Key.root(3)


def test_many_keys_are_each_the_one_key() -> None:
    scope, names = Key.root(7).derive("client", 3), ("a", "b", "longer-than-eight", "d")
    keys = Key.root(7).for_each("client", 3, names=names)
    alone = [scope.owned(name) for name in names]
    assert list(keys) == alone
    assert list(keys.derive("x", 2)) == [key.derive("x", 2) for key in alone]
    assert list(keys[1:3].derive("x")) == [key.derive("x") for key in alone[1:3]]
    assert list(keys.chosen([3, 0])) == [alone[3], alone[0]]
    assert len(keys[:0]) == len(scope.for_each(names=())) == 0
    assert keys.seeds().tolist() == [key.seed() for key in alone]
    assert torch.equal(keys.uniform(60), torch.stack([key.uniform(60) for key in alone]))
    counts = [5, 0, 1, 60]
    found = keys.permutations(torch.tensor(counts))
    assert found.shape == (4, 60)
    for key, count, row in zip(alone, counts, found, strict=True):
        assert row[:count].tolist() == key.permutation(count).tolist()
        assert row[count:].tolist() == list(range(count, 60))


def test_keys_of_several_rounds_draw_at_once() -> None:
    rounds = [3, 5, 3, 4]
    alone = [Key.root(7).derive("client", round_).owned(str(place)) for place, round_ in enumerate(rounds)]
    keys = Keys.of(alone)
    assert list(keys) == alone
    assert list(keys.chosen([1, 2])) == [alone[1], alone[2]]
    assert torch.equal(keys.derive("x").uniform(3), torch.stack([key.derive("x").uniform(3) for key in alone]))
    assert torch.equal(keys[2:].uniform(3), torch.stack([key.uniform(3) for key in alone[2:]]))


def test_names_are_not_looked_at_before_somebody_draws(monkeypatch) -> None:
    keys = Key.root(7).for_each("client", names=("a", "b"))
    monkeypatch.setattr("headway.numerics.keys.numbers_of", lambda *_: pytest.fail("looked at"))
    assert len(keys.derive("stage").derive("purpose")) == 2


def test_draws_of_owners_are_pinned() -> None:
    key = Key.root(7).derive("client", 3).owned("hospital-7")
    assert key.seed() == 7414805734195949922
    assert key.bits(2).tolist() == [6891346677301146182, 6248671200649964367]
    assert key.permutation(6).tolist() == [2, 4, 5, 3, 1, 0]


def test_owners_differ_in_all_that_they_draw() -> None:
    keys = Key.root(7).for_each("client", names=[f"client-{i:05}" for i in range(20_000)])
    assert len(set(keys.seeds().tolist())) == 20_000
    drawn = Counter((keys.uniform(1).flatten() * 20).long().tolist())
    assert chi_square(drawn, 20) < 43.8  # 99.9 %, 19 degrees of freedom
    orders = Counter(tuple(order) for order in keys[:4800].permutations(torch.full((4800,), 4)).tolist())
    assert chi_square(orders, 24) < 49.7
    nearby = torch.corrcoef(keys.uniform(200)[:1000]).fill_diagonal_(0)
    assert float(nearby.abs().max()) < 6 / 200**0.5


def test_numbers_of_names_are_those_of_each_name() -> None:
    names = ["", "a", "b", "aa", "12345678", "123456789", "ünï-0000000000000001", "x" * 40, "a" * 8 + "b", "a" * 16]
    assert numbers_of(names).tolist() == [signed(number_of(name)) for name in names]
    assert len(set(map(number_of, names))) == len(names)
    assert numbers_of([""]).tolist() == [0]


def test_a_stream_is_the_same_however_many_are_drawn() -> None:
    alone, start = stream(99, 60), 99  # more than are drawn one by one
    assert torch.equal(stream(start, 20), alone[:20])
    assert torch.equal(streams(torch.tensor([start, 5]), 60)[0], alone)

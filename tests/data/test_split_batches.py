"""Splits and batches are pure functions of their key."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from headway.core.errors import ConfigError
from headway.data import batch_bounds, epoch_order, split
from headway.numerics.keys import Key


@settings(max_examples=60, deadline=None)
@given(
    labels=st.lists(st.integers(0, 4), min_size=1, max_size=40),
    share=st.floats(0, 0.99),
    seed=st.integers(0, 99),
    stratified=st.booleans(),
)
def test_a_split_is_a_partition_and_keeps_training(
    labels: list[int], share: float, seed: int, stratified: bool
) -> None:
    index = torch.arange(len(labels)) * 3 + 1
    strata = torch.tensor(labels) if stratified else None
    train, test = split(index, share, Key.root(seed), strata)
    assert sorted([*train.tolist(), *test.tolist()]) == index.tolist()
    assert len(test) == min(int(len(labels) * share + 0.5), len(labels) - 1)
    again = split(index, share, Key.root(seed), strata)
    assert torch.equal(train, again[0])
    assert torch.equal(test, again[1])


def test_strata_are_kept_to_within_one() -> None:
    labels = torch.tensor([0] * 70 + [1] * 20 + [2] * 10)
    _, test = split(torch.arange(100), 0.3, Key.root(1), labels)
    assert torch.bincount(labels[test]).tolist() == [21, 6, 3]


def test_a_class_seen_once_stays_in_training() -> None:
    labels = torch.tensor([0] * 9 + [1])
    assert all(9 in split(torch.arange(10), 0.4, Key.root(seed), labels)[0] for seed in range(20))


def test_another_key_splits_otherwise() -> None:
    index = torch.arange(50)
    assert not torch.equal(split(index, 0.5, Key.root(0))[0], split(index, 0.5, Key.root(1))[0])


@pytest.mark.parametrize("share", [1.0, -0.1, float("nan"), "half", True])
def test_a_share_outside_its_range_is_refused(share: float) -> None:
    with pytest.raises(ConfigError, match=r"the test share is .* from 0 up to"):
        split(torch.arange(3), share, Key.root(0))


def test_epoch_order() -> None:
    key = Key.root(3)
    assert epoch_order(4, key, shuffle=False).tolist() == [0, 1, 2, 3]
    shuffled = epoch_order(20, key, shuffle=True)
    assert sorted(shuffled.tolist()) == list(range(20))
    assert torch.equal(shuffled, epoch_order(20, key, shuffle=True))
    assert not torch.equal(shuffled, epoch_order(20, Key.root(4), shuffle=True))


def test_batch_bounds() -> None:
    assert batch_bounds(7, 3) == [(0, 3), (3, 6), (6, 7)]
    assert batch_bounds(6, 3) == [(0, 3), (3, 6)]
    assert batch_bounds(2, 9) == [(0, 2)]
    assert batch_bounds(2, None) == [(0, 2)]
    assert batch_bounds(0, None) == batch_bounds(0, 4) == []
    with pytest.raises(ConfigError, match=r"batch_size is 0"):
        batch_bounds(5, 0)

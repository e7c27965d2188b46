"""Encoding a table: medians, modes, flags and own scales, on numbers small enough to do by hand."""

import pytest
import torch

from headway.data.sources.impute import Categorical, EncodedTable, Numeric

NAN = float("nan")
TRAIN = {"a": torch.tensor([0, 1, 2]), "b": torch.tensor([4, 5])}
TEST = {"a": torch.tensor([3]), "b": torch.tensor([], dtype=torch.int64)}


def numeric(*values: float, flagged: bool = True) -> Numeric:
    return Numeric("n", torch.tensor(values, dtype=torch.float64), flagged, centre=1.0, scale=2.0)


def test_a_gap_is_the_median_of_the_own_training_part() -> None:
    features = EncodedTable((numeric(1.0, 4.0, NAN, NAN, NAN, NAN),)).encode(TRAIN, TEST)
    assert features.tolist() == [[0.0, 0.0], [1.5, 0.0], [0.75, 1.0], [0.75, 1.0], [0.0, 1.0], [0.0, 1.0]]


def test_own_scale_is_of_observed_training_values() -> None:
    table = EncodedTable((numeric(1.0, 5.0, NAN, 9.0, 7.0, 7.0, flagged=False),), own_scale=True)
    # a: mean 3, deviation 2, median 3; b is constant, so its deviation counts as 1
    assert table.encode(TRAIN, TEST).flatten().tolist() == [-1.0, 1.0, 0.0, 3.0, 0.0, 0.0]


def test_a_categorical_gap_is_the_mode_or_nothing() -> None:
    column = Categorical("c", torch.tensor([1, 1, 0, -1, -1, -1]), ("x", "y"), flagged=True)
    features = EncodedTable((column,)).encode(TRAIN, TEST)
    assert features.tolist() == [[0, 1, 0], [0, 1, 0], [1, 0, 0], [0, 1, 1], [0, 0, 1], [0, 0, 1]]


def test_names_follow_the_features() -> None:
    column = Categorical("c", torch.zeros(1, dtype=torch.int64), ("x", "y"), flagged=False)
    assert EncodedTable((numeric(0.0), column)).feature_names() == ("n", "n missing", "c=x", "c=y")


@pytest.mark.parametrize("held", ["a", "b"])
def test_rows_of_nobody_stay_zero(held: str) -> None:
    features = EncodedTable((numeric(5.0, 5.0, 5.0, 5.0, 5.0, 5.0),)).encode({held: TRAIN[held]}, TEST)
    assert int((features[:, 0] != 0).sum()) == len(TRAIN[held]) + len(TEST[held])

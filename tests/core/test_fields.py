"""Ranges of numbers, as fields state them."""

import math
from dataclasses import dataclass

import pytest

from headway.core.errors import ConfigError
from headway.core.fields import Range, at_least, between, positive
from headway.core.registry import Plain


@dataclass(frozen=True)
class Ranged(Plain):
    count: int = at_least(1)
    lr: float = positive(1.0, unit="per step")
    share: float | None = between(0, 1, None, without=0)
    beta: float = between(0, 1, 0.9, without=1)
    mixed: tuple[float, ...] = between(-1, 1, ())
    norm: float = positive(1.0, infinite=True)
    by: str = "size"
    cap: int | None = at_least(1, None, only_with=("by", "cap"))


@pytest.mark.parametrize(
    ("numbers", "sentence"),
    [
        ({"count": 0}, "Ranged.count must be at least 1, found 0."),
        ({"count": True}, "Ranged.count must be a whole number, found True."),
        ({"lr": 0.0}, "Ranged.lr must be above 0 per step, found 0.0."),
        ({"lr": math.nan}, "Ranged.lr must be a finite number, found nan."),
        ({"lr": math.inf}, "Ranged.lr must be a finite number, found inf."),
        ({"share": 0.0}, "Ranged.share must be above 0 and at most 1, found 0.0."),
        ({"beta": 1}, "Ranged.beta must be at least 0 and below 1, found 1."),
        ({"mixed": (0.5, -2.0)}, "Ranged.mixed must be between -1 and 1, found -2.0."),
        ({"norm": math.nan}, "Ranged.norm must be a finite number, found nan."),
        ({"norm": -math.inf}, "Ranged.norm must be above 0, found -inf."),
    ],
    ids=str,
)
def test_a_number_out_of_range_is_refused_with_what_was_needed_and_found(numbers, sentence):
    with pytest.raises(ConfigError) as refused:
        Ranged(**{"count": 1, **numbers})
    assert str(refused.value) == sentence


def test_what_is_in_range_is_taken():
    made = Ranged(3, 0.5, 1.0, 0.0, (-1.0, 1.0), math.inf)
    assert (made.share, made.norm, Ranged(1).share) == (1.0, math.inf, None)


@pytest.mark.parametrize("numbers", [{"by": "cap"}, {"cap": 3}], ids=str)
def test_a_number_that_belongs_to_a_choice_is_given_with_it_alone(numbers):
    with pytest.raises(ConfigError, match="Ranged needs cap with by='cap' and none otherwise, found Ranged"):
        Ranged(1, **numbers)
    assert Ranged(1, by="cap", cap=3).cap == 3


def test_a_field_without_a_default_must_be_given():
    with pytest.raises(TypeError, match="count"):
        Ranged()


def test_a_range_in_words():
    assert [str(Range(*ends)) for ends in [(2,), (0, 1), (0, 1, 0), (0, 1, 1)]] == [
        "at least 2",
        "between 0 and 1",
        "above 0 and at most 1",
        "at least 0 and below 1",
    ]

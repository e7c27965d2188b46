"""What the server knows of each client, round after round."""

import math

import pytest
import torch

from headway.core.errors import ConfigError
from headway.core.flow import SamplerFacts
from headway.data import NumberedNames
from headway.protocol.client_history import COLUMNS, ClientHistory
from headway.protocol.reports import ClientReport

PEOPLE = ("a", "b", "c", "d")
SIZES = torch.tensor([2, 3, 5, 7])
EVERY = frozenset({"sizes", "participation", "losses", "times", "availability"})


def report(client, status="counted", loss=None, asked=None, ended=None):
    metrics = {} if loss is None else {"train_loss": loss}
    if asked is not None:
        metrics |= {"asked_s": asked, "ended_s": ended}
    return ClientReport(client, status, metrics=metrics)


def columns(known):
    return {name: known.column(name, torch.arange(len(known.names))).tolist() for name in COLUMNS}


def test_a_round_is_taken_in():
    known = ClientHistory(PEOPLE, SIZES, EVERY)
    known.record_round(
        0, ("a", "b", "c"), ("a", "b"), [report("a", loss=0.5, asked=1.0, ended=4.0), report("b", "dropped")]
    )
    known.record_round(1, ("a", "d"), ("a",), [report("a", loss=0.25, asked=4.0, ended=6.0)])
    found = columns(known)
    assert found["asked"] == [2, 1, 0, 0]
    assert found["counted"] == [2, 0, 0, 0]
    assert found["last"] == [1, -1, -1, -1]
    assert found["seen"] == [2, 1, 1, 1]
    assert found["seconds"][0] == 2.0
    assert found["loss"][0] == 0.25
    assert all(math.isnan(value) for value in found["loss"][1:] + found["seconds"][1:])
    assert known.totals.tolist() == [2 * 0.5, 2 * 0.25]
    assert known.rounds == 2


def test_who_is_at_work_is_there_and_is_asked_once():
    """Asked in round 0, at work in round 1, heard of in round 2."""
    known = ClientHistory(PEOPLE, SIZES, EVERY)
    known.record_round(0, PEOPLE, ("a", "b"), [report("b")])
    assert columns(known)["in_flight"] == [True, False, False, False]
    known.record_round(1, ("b", "c"), ("b",), [report("b")])
    known.record_round(2, ("b", "c"), ("b",), [report("a"), report("b")])
    found = columns(known)
    assert found["asked"] == [1, 3, 0, 0]
    assert found["seen"] == [3, 3, 3, 1]
    assert found["in_flight"] == [False] * 4
    assert found["last"][0] == 2


def test_who_was_asked_instead_of_another_was_asked():
    known = ClientHistory(PEOPLE, SIZES, EVERY)
    known.record_round(0, PEOPLE, ("a",), [report("a", "dropped"), report("c", loss=1.0)])
    assert columns(known)["asked"] == [1, 0, 1, 0]


def test_a_time_without_an_answer_is_a_lower_bound():
    known = ClientHistory(PEOPLE, SIZES, EVERY)
    for asked, ended, status, expected in (
        (0.0, 3.0, "dropped", 3.0),
        (0.0, 2.0, "dropped", 3.0),
        (0.0, 9.0, "counted", 9.0),
        (0.0, 4.0, "counted", 4.0),
        (0.0, 5.0, "rejected", 5.0),
        (0.0, 6.0, "dropped", 6.0),
    ):
        known.record_round(0, PEOPLE, ("b",), [report("b", status, asked=asked, ended=ended)])
        assert columns(known)["seconds"][1] == expected


def test_only_what_is_read_is_kept():
    assert ClientHistory.of(SamplerFacts("uniform"), PEOPLE, SIZES) is None
    by_size = ClientHistory.of(SamplerFacts("by size", reads=frozenset({"sizes"})), PEOPLE, SIZES)
    by_size.record_round(0, PEOPLE, ("a",), [report("a", loss=1.0)])
    assert set(by_size.tensors()) == {"roster/rounds", "roster/totals"}
    with pytest.raises(AssertionError, match="asked is not kept"):
        by_size.column("asked", torch.arange(2))
    turns = ClientHistory.of(SamplerFacts("robin", reads=frozenset({"participation"})), PEOPLE, SIZES)
    assert set(turns.tensors()) == {
        f"roster/{name}" for name in ("rounds", "totals", "asked", "counted", "last", "in_flight")
    }
    together = ClientHistory.of(SamplerFacts("by size", reads=frozenset({"sizes"})), ("everyone",), SIZES)
    assert together.sizes.tolist() == [17]


def test_it_goes_on_from_what_was_saved():
    known, other = ClientHistory(PEOPLE, SIZES, EVERY), ClientHistory(PEOPLE, SIZES, EVERY)
    rounds = [
        (PEOPLE, ("a", "b"), [report("a", loss=0.5, asked=1.0, ended=4.0)]),
        (("c",), ("c",), [report("b", "dropped", asked=0.0, ended=2.0)]),
        (("a", "d"), ("a", "d"), [report("c", loss=2.0, asked=1.0, ended=2.0), report("d", loss=1.0)]),
    ]
    for number, (there, cohort, reports) in enumerate(rounds):
        known.record_round(number, there, cohort, reports)
        restored = ClientHistory(PEOPLE, SIZES, EVERY)
        restored.restore({name: tensor.clone() for name, tensor in known.tensors().items()} | {"params": SIZES})
        other = restored
    for name, tensor in known.tensors().items():
        assert torch.equal(tensor.nan_to_num(nan=-5.0), other.tensors()[name].nan_to_num(nan=-5.0)), name
    taken = other.tensors()["roster/asked"].clone()
    known.record_round(3, PEOPLE, ("a",), [])
    assert torch.equal(other.tensors()["roster/asked"], taken)


@pytest.mark.parametrize("names", [PEOPLE, NumberedNames(4)], ids=["texts", "numbered"])
def test_places_are_those_of_the_sorted_population(names):
    known = ClientHistory(names, SIZES, EVERY)
    assert known.places(names).tolist() == [0, 1, 2, 3]
    assert known.places([names[3], names[0]]).tolist() == [0, 3]
    assert known.named([3, 1]) == (names[1], names[3])
    with pytest.raises(ConfigError, match="'x' is not in the population"):
        known.places(["x"])


def test_what_was_measured_is_for_one_round():
    known = ClientHistory(PEOPLE, SIZES, EVERY)
    known.set_fresh_losses([report("a", loss=1.0), report("b", "dropped"), report("c", loss=math.nan)])
    assert known.fresh == {"a": 1.0, "c": math.inf}
    known.record_round(0, PEOPLE, ("a",), [report("a", loss=3.0)])
    assert known.fresh == {}


def test_a_checkpoint_of_an_earlier_version_is_taken_back():
    """It named the column of the clients at work `out`, and samplers read `turns` and `presence`."""
    earlier = ClientHistory(PEOPLE, SIZES, {"turns", "presence"})
    assert earlier.reads == {"participation", "availability"}
    earlier.record_round(0, PEOPLE, PEOPLE[:2], [])
    tensors = earlier.tensors()
    tensors["roster/out"] = tensors.pop("roster/in_flight")
    later = ClientHistory(PEOPLE, SIZES, {"participation", "availability"})
    later.restore(tensors)
    everyone = later.places(PEOPLE)
    for column in ("asked", "counted", "last", "in_flight", "seen"):
        assert torch.equal(later.column(column, everyone), earlier.column(column, everyone))
    assert later.column("in_flight", everyone).tolist() == [True, True, False, False]

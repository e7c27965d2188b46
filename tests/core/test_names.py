"""Numbered names of clients: made when asked for, and found by their text."""

import pickle
import re

import pytest

from headway.core.errors import DataError
from headway.core.names import NumberedNames, place_in
from headway.data.dataset.owners import client_ids


@pytest.mark.parametrize("count", [0, 1, 10, 11, 101])
def test_numbered_names_are_those_of_the_tuple(count):
    names, expected = NumberedNames(count), client_ids(count)
    assert len(names) == len(expected)
    assert tuple(names) == expected == tuple(sorted(names))
    assert [names[place] for place in range(-count, count)] == [*expected, *expected]
    assert names[1:7:2] == expected[1:7:2]
    assert all(name in names and names.index(name) == place for place, name in enumerate(expected))
    with pytest.raises(IndexError):
        names[count]


@pytest.mark.parametrize(
    "name", ["client-11", "client-7", "client-007", "client-0７", "client-+7", "lient-07", "", 7, None]
)
def test_other_names_are_not_numbered(name):
    names = NumberedNames(11)
    assert name not in names
    with pytest.raises(ValueError, match="is not among"):
        names.index(name)


@pytest.mark.parametrize("prefix", ["client-", "", "100%d ", "клиент "])
@pytest.mark.parametrize("count", [1, 10, 11, 101])
def test_numbered_names_are_found_together(count, prefix):
    names = NumberedNames(count, prefix)
    mixed = [*reversed(names), *names]
    assert names.places(mixed).tolist() == [names.index(name) for name in mixed]
    assert names.places([]).tolist() == []
    for other in (f"{prefix}{count}", prefix, f"{prefix}-1", f"{prefix}0７"[-len(names[0]) :], "x" * len(names[0])):
        with pytest.raises(KeyError, match=re.escape(repr(other))):
            names.places([*mixed, other])


def test_names_that_are_long_enough_together_are_not_numbered():
    with pytest.raises(KeyError):
        NumberedNames(101, "").places(["01", "0012"])


def test_numbered_names_are_a_value():
    assert NumberedNames(5) == NumberedNames(5) == pickle.loads(pickle.dumps(NumberedNames(5)))
    assert NumberedNames(5) != NumberedNames(6)
    assert NumberedNames(5) != NumberedNames(5, "site-")
    assert len({NumberedNames(5), NumberedNames(5)}) == 1
    assert NumberedNames(3).index("client-2", 1) == 2
    with pytest.raises(ValueError, match="is not among"):
        NumberedNames(3).index("client-2", 0, 2)
    with pytest.raises(DataError, match="whole number from 0, found -1"):
        NumberedNames(-1)


@pytest.mark.parametrize("clients", [NumberedNames(11), tuple(NumberedNames(11)), ("a", "c")])
def test_a_place_is_that_of_the_name_or_none(clients):
    assert [place_in(clients, client) for client in clients] == list(range(len(clients)))
    assert place_in(clients, "b") is None
    assert place_in(clients, "zz") is None

"""Groups of clients by their names."""

import pytest

from headway.core.errors import ConfigError
from headway.core.replicas import check_groups, group_of, grouped, replica_names


def test_names_of_replicas_are_those_of_their_group() -> None:
    names = replica_names(("a", "b.c"), 11)
    assert names[0] == "a.01"
    assert list(names) == sorted(names)
    assert {group: len(members) for group, members in grouped(names).items()} == {"a": 11, "b.c": 11}
    assert all(group_of(name) in ("a", "b.c") for name in names)
    check_groups(names, 11)


@pytest.mark.parametrize("names", [("a.1", "a.2", "b.1"), ("a.1", "a.2", "b"), ("a.1", "a.2", "a.3"), (".1", ".2")])
def test_groups_of_another_size_are_refused(names) -> None:
    with pytest.raises(ConfigError, match="groups of 2"):
        check_groups(names, 2)

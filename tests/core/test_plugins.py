"""Registries by name: decorators, entry points of other packages, broken ones and double names."""

import sys
from types import ModuleType, SimpleNamespace

import pytest

from headway.core import plugins
from headway.core.errors import ConfigError
from headway.core.plugins import NamedRegistry


def point(name, load, package="other"):
    return SimpleNamespace(
        name=name,
        load=load,
        value=f"{package}.module:{name}",
        module=f"{package}.module",
        dist=SimpleNamespace(name=package),
    )


@pytest.fixture
def offered(monkeypatch):
    """What other packages offer; filled by the test."""
    points = []
    monkeypatch.setattr(plugins.metadata, "entry_points", lambda group: points if group == "example.rules" else [])
    return points


@pytest.fixture
def rules():
    made = NamedRegistry("rule", "example.rules")
    made.register("plus")(1)
    return made


def failing():
    raise ImportError("no module named 'missing'")


def test_a_thing_is_registered_by_its_own_name_or_a_given_one(rules) -> None:
    @rules.register
    def minus():
        return -1

    @rules.register("times")
    def product():
        return 0

    assert list(rules) == ["plus", "minus", "times"]
    assert rules["minus"] is minus
    assert rules.find("times") is product
    with pytest.raises(ConfigError, match="registered without a name"):
        rules.register(3)


def test_an_unknown_name_is_refused_with_the_nearest(rules, offered) -> None:
    with pytest.raises(ConfigError, match=r"^there is no rule named 'plas' \(did you mean 'plus'\?\)\.$"):
        rules.find("plas")
    assert "plas" not in rules
    assert rules.get("plas") is None


def test_entry_points_are_loaded_once_and_only_for_a_name_that_is_not_known(rules, offered) -> None:
    loads = []
    offered.append(point("more", lambda: loads.append(1) or 2))
    assert rules["plus"] == 1
    assert loads == []
    assert rules["more"] == 2
    assert (dict(rules), loads) == ({"plus": 1, "more": 2}, [1])
    assert (rules.package("more"), rules.package("plus")) == ("other", "builtins")


def test_an_entry_point_may_be_a_module_that_registers_several_things(rules, offered) -> None:
    def load():
        rules.register("a")(2)
        rules.register("b")(3)
        return ModuleType("other")

    offered.append(point("anything", load))
    assert dict(rules) == {"plus": 1, "a": 2, "b": 3}
    assert rules.package("b") == "other"


def test_a_broken_package_is_named_and_stops_nothing_else(rules, offered) -> None:
    offered += [point("bad", failing), point("worse", lambda: sys.exit(3)), point("good", lambda: 5, "fine")]
    assert dict(rules) == {"plus": 1, "good": 5}
    first, second = rules.problems
    assert first == (
        "the rule 'bad' of the package other cannot be loaded (other.module:bad): "
        "ImportError: no module named 'missing'."
    )
    assert "SystemExit" in second
    with pytest.raises(ConfigError, match=r"no rule named 'bad'.*the package other cannot be loaded.*missing"):
        rules.find("bad")


def test_what_does_not_belong_is_left_out_with_the_reason(offered) -> None:
    def numbers_only(name, thing):
        if not isinstance(thing, int):
            raise ConfigError("a rule is a number.")
        return name, thing

    made = NamedRegistry("rule", "example.rules", numbers_only)
    offered.append(point("text", lambda: "x"))
    assert made.problems == ("the rule 'text' of the package other is left out: a rule is a number.",)
    with pytest.raises(ConfigError, match="a rule is a number"):
        made.register("text")("y")


def test_a_double_name_is_refused(rules, offered) -> None:
    with pytest.raises(ConfigError, match="two things register the rule name 'plus'"):
        rules.register("plus")(2)
    rules.register("plus")(1)  # the same thing again


def test_a_package_cannot_replace_a_name_of_headway(rules, offered) -> None:
    offered.append(point("plus", lambda: 9))
    assert dict(rules) == {"plus": 1}
    assert "two things register the rule name 'plus'" in rules.problems[0]


@pytest.mark.parametrize("turned", [False, True])
def test_two_packages_with_one_name_are_both_left_out_in_any_order(rules, offered, turned) -> None:
    both = [point("same", lambda: 2, "one"), point("same", lambda: 3, "two")]
    offered += both[::-1] if turned else both
    assert dict(rules) == {"plus": 1}
    with pytest.raises(
        ConfigError, match=r"there is no rule named 'same': two things register .* one in (one|two), one in"
    ):
        rules.find("same")
    assert any("one in one" in text or "one in two" in text for text in rules.problems)


def test_a_registry_is_restored_after_its_context(rules, offered) -> None:
    with rules.restored():
        rules.register("minus")(3)
        assert dict(rules) == {"plus": 1, "minus": 3}
    assert dict(rules) == {"plus": 1}

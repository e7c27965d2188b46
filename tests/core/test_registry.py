"""Registered things are rebuilt from names and numbers; whatever does not fit is refused with a sentence."""

import dataclasses
from dataclasses import dataclass
from types import SimpleNamespace
from typing import ClassVar, Literal

import pytest

import headway as hw
from headway.core import plugins
from headway.core.errors import ConfigError
from headway.core.registry import Registry, brief


@dataclass(frozen=True)
class Inner:
    depth: int = 1


@dataclass(frozen=True)
class Shape:
    kind: ClassVar[str] = "shape"
    sides: int
    size: float = 1.0
    name: str = "it"
    filled: bool = False
    colour: Literal["red", "blue", 3] = "red"
    limit: int | None = None
    either: int | str = 0
    rates: tuple[float, ...] = ()
    inner: Inner = Inner()


@pytest.fixture
def shapes() -> Registry:
    made: Registry = Registry("shape", "example.shapes")
    made.register(Shape)
    return made


FULL = Shape(3, 2.5, "b", True, "blue", 4, "x", (0.5, 2.0), Inner(7))


def test_a_thing_is_rebuilt_from_its_description(shapes) -> None:
    described = shapes.describe(FULL)
    assert described["shape"] == "Shape"
    assert described["inner"] == {"depth": 7}
    assert described["rates"] == [0.5, 2.0]
    assert shapes.build(described) == FULL
    assert shapes.build({"shape": "Shape", "sides": 4}) == Shape(4)


def test_a_whole_number_is_taken_for_a_real_one(shapes) -> None:
    built = shapes.build({"shape": "Shape", "sides": 1, "size": 2, "rates": [1]})
    assert [type(built.size), type(built.rates[0])] == [float, float]


WRONG = {
    "sides": [True, 1.0, "3", None, [3]],
    "size": [True, "1", None],
    "name": [1, None],
    "filled": [1, "yes"],
    "colour": ["green", True, 3.0],
    "limit": [1.5, False, "1"],
    "either": [1.5, None, True],
    "rates": [1.0, "ab", [True], ["1"]],
    "inner": [1, {"depth": 1.0}, {"deep": 1}],
}


@pytest.mark.parametrize(("option", "value"), [(name, value) for name, values in WRONG.items() for value in values])
def test_a_wrong_type_is_refused_by_name(shapes, option, value) -> None:
    with pytest.raises(ConfigError) as refusal:
        shapes.build({"shape": "Shape", "sides": 3, option: value})
    assert f"Shape.{option}" in str(refusal.value) or "Inner" in str(refusal.value)


@pytest.mark.parametrize(
    ("numbers", "says"),
    [
        ({"shape": "Shap", "sides": 3}, "no shape named 'Shap' .did you mean 'Shape'"),
        ({"shape": "shape", "sides": 3}, "did you mean 'Shape'"),
        ({"shape": "Qqq"}, "known: Shape"),
        ({"shape": "Shape", "side": 3}, "no option 'side' .did you mean 'sides'"),
        ({"shape": "Shape"}, "needs the option 'sides'"),
        ({"sides": 3}, 'needs its name as shape = "..."'),
        ({"shape": 3}, "needs its name"),
    ],
)
def test_an_unknown_or_missing_name_is_refused_with_the_nearest(shapes, numbers, says) -> None:
    with pytest.raises(ConfigError, match=says):
        shapes.build(numbers)


def test_building_leaves_the_description_alone(shapes) -> None:
    numbers = {"shape": "Shape", "sides": 3}
    shapes.build(numbers)
    assert numbers == {"shape": "Shape", "sides": 3}


def test_only_frozen_dataclasses_with_a_free_name_are_registered(shapes) -> None:
    for cls in (type("Plain", (), {}), dataclasses.make_dataclass("Loose", [("x", int)])):
        with pytest.raises(ConfigError, match="must be a frozen dataclass"):
            shapes.register(cls)
    with pytest.raises(ConfigError, match="two classes register the shape name 'Shape'"):
        shapes.register(dataclasses.make_dataclass("Shape", [("x", int)], frozen=True))
    assert shapes.register(Shape) is Shape
    assert shapes.names() == ["Shape"]


def _point(load):
    return SimpleNamespace(load=load, name="Shape", value="other:Shape", module="other", dist=None)


def test_an_entry_point_registers_its_class_once_when_it_is_needed(monkeypatch) -> None:
    loads = []
    point = _point(lambda: loads.append(1) or Shape)
    asked = []
    monkeypatch.setattr(plugins.metadata, "entry_points", lambda group: asked.append(group) or [point])
    made: Registry = Registry("shape", "example.shapes")
    assert not loads
    assert made.build({"shape": "Shape", "sides": 5}) == Shape(5)
    assert made.names() == ["Shape"]
    assert (asked, loads) == (["example.shapes"], [1])


def test_an_entry_point_may_be_a_module_that_registers_when_imported(monkeypatch) -> None:
    made: Registry = Registry("shape", "example.shapes")
    point = _point(lambda: made.register(Shape) and plugins)
    monkeypatch.setattr(plugins.metadata, "entry_points", lambda group: [point])
    assert made.names() == ["Shape"]


def test_brief_shows_what_differs_from_the_defaults() -> None:
    assert brief(hw.Scaffold()) == "Scaffold()"
    assert brief(hw.ECGR(beta=0.3)) == "ECGR(beta=0.3)"
    local = hw.LocalSGD(lr=0.2, schedule=hw.Schedule(kind="cosine"))
    assert brief(local) == "LocalSGD(lr=0.2, schedule=Schedule(kind='cosine'))"
    assert brief(hw.Poisson(rate=0.5)) == "Poisson(rate=0.5)"

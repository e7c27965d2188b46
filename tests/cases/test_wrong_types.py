"""A value of a wrong type is a ConfigError for everything registered, and what cannot be rebuilt is not registered."""

import dataclasses
import math
import types
import typing
from abc import ABC

import pytest

import headway as hw
from headway.core.registry import Plain, Registry
from headway.core.sampler import samplers
from headway.core.stage import Stage, stages
from headway.engines.virtual_clock.device_availability import availabilities
from headway.training.loss_terms import LossTerm
from headway.training.optimizers import Optimizer
from headway.training.registered_trainers import trainers

REQUIRED = {"count": 2, "candidates": 4, "rate": 0.5, "clients": ("a",), "file": "there.csv"}
REQUIRED |= {"multiplier": 1.0, "rounds": 10, "survivors": 3, "separation": 2}
WRONG = {"bool": True, "none": None, "text": "no such text", "nan": math.nan, "inf": math.inf, "list": [[1]]}
KINDS = (stages, trainers, samplers, availabilities, LossTerm.registry, Optimizer.registry)


def accepts(field: dataclasses.Field, hint: object) -> set[str]:
    """Which of WRONG a field may hold by its type."""
    options = typing.get_args(hint) if typing.get_origin(hint) in (typing.Union, types.UnionType) else (hint,)
    held = {"bool": bool, "none": type(None), "text": str}
    may = {name for name, kind in held.items() if kind in options}
    return may | ({"inf"} if field.metadata.get("infinite") else set())


def cases():
    for registry in KINDS:
        for name in registry.names():
            cls = registry.get(name)
            if not cls.__module__.startswith("headway."):
                continue
            hints = typing.get_type_hints(cls)
            for field in dataclasses.fields(cls):
                for kind in sorted(WRONG.keys() - accepts(field, hints[field.name])):
                    yield pytest.param(cls, field.name, WRONG[kind], id=f"{name}.{field.name}={kind}")
    for field in dataclasses.fields(hw.Schedule):  # part of a trainer
        yield from (pytest.param(hw.Schedule, field.name, WRONG[kind], id=f"{field.name}={kind}") for kind in WRONG)


@pytest.mark.parametrize(("cls", "name", "value"), list(cases()))
def test_a_wrong_type_is_refused_by_name(cls, name, value) -> None:
    fields = {field.name for field in dataclasses.fields(cls)}
    good = {key: given for key, given in REQUIRED.items() if key in fields}
    if cls is hw.Uniform and name == "share":
        good = {}
    with pytest.raises(hw.ConfigError) as refusal:
        cls(**{**good, name: value})
    assert f"{cls.__name__}.{name}" in str(refusal.value) or cls.__name__ in str(refusal.value)


def test_a_stage_that_nobody_registered_is_checked_as_well() -> None:
    @dataclasses.dataclass(frozen=True)
    class Half(Stage):
        place = hw.FedProx.place
        share: float = 0.5
        target: object = None  # of no type that a run file knows: left alone

        def __post_init__(self) -> None:
            assert self.share > 0

    assert Half(1).share == 1
    assert Half(target=KINDS).target is KINDS
    for value in (True, None, "0.5", math.nan, [0.5]):
        with pytest.raises(hw.ConfigError, match=r"Half\.share"):
            Half(value)


def test_part_of_an_epoch_is_answered_with_steps() -> None:
    with pytest.raises(hw.ConfigError, match=r"found 0\.1\. .*algorithm\.trainer\.steps"):
        hw.LocalSGD(epochs=0.1)


@dataclasses.dataclass(frozen=True)
class Base(Plain, ABC):
    level: float = 0.1


def undecorated():
    class Mine(Base):
        mu: float = 0.3

    return Mine


def undecorated_default():
    class Mine(Base):
        level = 0.3

    return Mine


def untyped_default():
    @dataclasses.dataclass(frozen=True)
    class Mine(Base):
        level = 0.3

    return Mine


def own_init():
    class Mine(Base):
        def __init__(self, mu):
            object.__setattr__(self, "mu", mu)

    return Mine


def no_init():
    @dataclasses.dataclass(frozen=True, init=False)
    class Mine(Base):
        mu: float = 0.3

    return Mine


def hidden():
    @dataclasses.dataclass(frozen=True)
    class Mine(Base):
        mu: float = dataclasses.field(default=0.3, init=False)

    return Mine


def init_only():
    @dataclasses.dataclass(frozen=True)
    class Mine(Base):
        mu: dataclasses.InitVar[float] = 0.3

    return Mine


def by_identity():
    @dataclasses.dataclass(frozen=True, eq=False)
    class Mine(Base):
        mu: float = 0.3

    return Mine


def of_a_list():
    @dataclasses.dataclass(frozen=True)
    class Mine(Base):
        rates: list[float] = dataclasses.field(default_factory=list)

    return Mine


def plain_class():
    class Mine:
        mu: float = 0.3

    return Mine


def not_frozen():
    @dataclasses.dataclass
    class Mine:
        mu: float = 0.3

    return Mine


BROKEN = [
    undecorated, undecorated_default, untyped_default, own_init, no_init, hidden, init_only, by_identity, of_a_list,
    plain_class, not_frozen,
]  # fmt: skip


@pytest.mark.parametrize("make", BROKEN, ids=lambda make: make.__name__)
def test_a_class_whose_numbers_would_be_lost_is_not_registered(make) -> None:
    registry: Registry = Registry("thing", "example.things")
    with pytest.raises(hw.ConfigError, match=r"thing 'Mine'"):
        registry.register(make())
    assert "Mine" not in registry.classes


@pytest.mark.parametrize("registry", KINDS, ids=lambda registry: registry.kind)
def test_no_registry_takes_a_class_that_is_not_decorated(registry) -> None:
    base = next(iter(registry.classes.values()))
    with pytest.raises(hw.ConfigError, match="frozen dataclass"):
        registry.register(type("Undecorated", (base,), {"__annotations__": {"mu": float}, "mu": 0.3}))

"""Things that are rebuilt from a name and numbers: never pickled, never found by a class path.

A registered thing is a frozen dataclass of plain values.  One that is a field of another is named in its table,
if its abstract class has a `registry`.  Another package adds its own by an entry point
in the group of that kind (`headway.stages`, `headway.trainers`, `headway.samplers`) that names a module or
the class itself; loading it registers the class.
"""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Mapping
from importlib import metadata
from typing import Any, Generic, Literal, TypeVar

from headway.core.errors import ConfigError, nearest

T = TypeVar("T")
C = TypeVar("C", bound=type)


class Registry(Generic[T]):
    """The known classes of one kind, by class name.

    >>> colours = Registry[object]("colour", "example.colours")
    >>> @colours.register
    ... @dataclasses.dataclass(frozen=True)
    ... class Grey:
    ...     level: float = 0.5
    >>> colours.build({"colour": "Grey", "level": 1})
    Grey(level=1.0)
    >>> colours.describe(Grey())
    {'colour': 'Grey', 'level': 0.5}
    """

    def __init__(self, kind: str, group: str) -> None:
        self.kind, self.group = kind, group
        self._classes: dict[str, type[T]] = {}
        self._loaded = False

    def register(self, cls: C) -> C:
        """Class decorator: makes a frozen dataclass known by its name.

        Raises:
            ConfigError: if it is no frozen dataclass, or another class has the name.
        """
        parameters = getattr(cls, "__dataclass_params__", None)
        if parameters is None or not parameters.frozen:
            raise ConfigError(f"{self.kind} {cls.__name__!r} must be a frozen dataclass; decorate it with one.")
        known = self._classes.get(cls.__name__)
        if known is not None and (known.__module__, known.__qualname__) != (cls.__module__, cls.__qualname__):
            raise ConfigError(
                f"two classes register the {self.kind} name {cls.__name__!r}: one in {known.__module__}, "
                f"one in {cls.__module__}; rename one of them."
            )
        self._classes[cls.__name__] = cls
        return cls

    def names(self) -> list[str]:
        """All names, sorted, those of other packages included."""
        self._load()
        return sorted(self._classes)

    def get(self, name: str) -> type[T]:
        """The class of a name.

        Raises:
            ConfigError: if nothing has that name; says the nearest one.
        """
        if name not in self._classes:
            self._load()
        if name not in self._classes:
            raise ConfigError(f"there is no {self.kind} named {name!r}{nearest(name, self._classes)}.")
        return self._classes[name]

    def build(self, numbers: Mapping[str, Any]) -> T:
        """The object of `{kind: name, field: value, ...}`.

        Raises:
            ConfigError: for an unknown name or field (with the nearest), a wrong type, or a bad value.
        """
        values = dict(numbers)
        name = values.pop(self.kind, None)
        if not isinstance(name, str):
            raise ConfigError(f'a {self.kind} needs its name as {self.kind} = "...", found {dict(numbers)}.')
        return build(self.get(name), values)

    def describe(self, thing: T) -> dict[str, Any]:
        """The name and numbers from which `build` makes an equal object."""
        return {self.kind: type(thing).__name__, **to_numbers(thing)}

    def _load(self) -> None:
        if self._loaded:
            return
        self._loaded = True
        for point in metadata.entry_points(group=self.group):
            found = point.load()
            if isinstance(found, type):
                self.register(found)


def to_numbers(thing: Any) -> dict[str, Any]:
    """The fields of a plain dataclass as plain values; nested ones become tables."""
    numbers: dict[str, Any] = {}
    for field in dataclasses.fields(thing):
        value = getattr(thing, field.name)
        if dataclasses.is_dataclass(value) and not isinstance(value, type):
            own = getattr(value, "registry", None)
            value = own.describe(value) if isinstance(own, Registry) else to_numbers(value)
        elif isinstance(value, tuple):
            value = list(value)
        numbers[field.name] = value
    return numbers


def build(cls: type[T], numbers: Mapping[str, Any]) -> T:
    """A plain dataclass from its fields' values, checked against the declared types.

    Raises:
        ConfigError: for an unknown or missing field, or a value of a wrong type.
    """
    owner = cls.__name__
    fields = {f.name: f for f in dataclasses.fields(cls) if f.init}  # type: ignore[arg-type]
    types_of = typing.get_type_hints(cls)
    for name in numbers:
        if name not in fields:
            raise ConfigError(f"{owner} has no option {name!r}{nearest(name, fields)}.")
    for name, field in fields.items():
        required = field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
        if required and name not in numbers:
            raise ConfigError(f"{owner} needs the option {name!r}, which is missing.")
    return cls(**{name: convert(value, types_of[name], f"{owner}.{name}") for name, value in numbers.items()})


def check_types(thing: Any) -> None:
    """Refuses a plain dataclass made in Python with a value that a run file could not hold.

    Raises:
        ConfigError: naming the field, what was needed and what was found.
    """
    types_of = typing.get_type_hints(type(thing))
    for field in dataclasses.fields(thing):
        convert(getattr(thing, field.name), types_of[field.name], f"{type(thing).__name__}.{field.name}")


def convert(value: Any, wanted: Any, where: str) -> Any:
    """The value as the declared type: an integer is taken for a float, "none" for nothing, and no more bends.

    Raises:
        ConfigError: saying `where`, what was needed and what was found.
    """
    origin, options = typing.get_origin(wanted), typing.get_args(wanted)
    if origin in (typing.Union, types.UnionType):
        if type(None) in options and (value is None or value == "none"):  # TOML and others have no null
            return None
        choices = [option for option in options if option is not type(None)]
        for option in choices[:-1]:
            try:
                return convert(value, option, where)
            except ConfigError:
                continue
        return convert(value, choices[-1], where)
    if origin is Literal:
        if value in options and type(value) in {type(option) for option in options}:
            return value
        raise ConfigError(f"{where} must be one of {', '.join(map(repr, options))}, found {value!r}.")
    if origin is tuple and isinstance(value, (list, tuple)):
        return tuple(convert(item, options[0], where) for item in value)
    own = getattr(wanted, "registry", None)
    if isinstance(own, Registry) and isinstance(value, Mapping):  # one of several classes, which the table names
        return own.build(value)
    if dataclasses.is_dataclass(wanted) and isinstance(value, Mapping):
        return build(typing.cast(type, wanted), value)
    if wanted is float and isinstance(value, (int, float)) and not isinstance(value, bool):
        return float(value)
    if isinstance(wanted, type) and isinstance(value, wanted) and not (wanted is int and isinstance(value, bool)):
        return value
    expected = "a list" if origin is tuple else "a table" if dataclasses.is_dataclass(wanted) else _spoken(wanted)
    raise ConfigError(f"{where} must be {expected}, found {value!r}.")


def _spoken(wanted: Any) -> str:
    spoken = {float: "a number", int: "a whole number", str: "a text", bool: "true or false"}
    return spoken.get(wanted, str(wanted))

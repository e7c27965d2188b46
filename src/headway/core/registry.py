"""Things that are rebuilt from a name and numbers: never pickled, never found by a class path.

A registered thing is a frozen dataclass of plain values.  One that is a field of another is named in its table,
if its abstract class has a `registry`.  Another package adds its own by an entry point
in the group of that kind (`headway.stages`, `headway.trainers`, `headway.samplers`) that names a module or
the class itself; loading it registers the class.
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
import types
import typing
from collections.abc import Callable, Mapping
from typing import Any, Generic, Literal, TypeVar

from headway.core.errors import ConfigError, nearest
from headway.core.fields import check_numbers
from headway.core.plugins import NamedRegistry

T = TypeVar("T")
C = TypeVar("C", bound=type)


class Plain:
    """Base of the frozen dataclasses of plain values: stages, trainers, samplers and what is part of them.

    The type and the range of each field (`headway.core.fields`) are checked when an object is made, before its class
    checks what depends on several of them.  A float must be finite, unless its field allows infinity.

    Raises:
        ConfigError: when made, naming the field, what was needed and what was found.
    """

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        own = cls.__dict__.get("__post_init__")
        if own is not None:
            setattr(cls, "__post_init__", _checked_first(own))  # noqa: B010 (mypy knows no method that is replaced)

    def __post_init__(self) -> None:
        check_types(self)
        check_numbers(self)


def _checked_first(own: Callable[[Any], None]) -> Callable[[Any], None]:
    @functools.wraps(own)
    def checked_first(self: Any) -> None:
        check_types(self)
        check_numbers(self)
        own(self)

    return checked_first


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
        self.classes: NamedRegistry[type[T]] = NamedRegistry(kind, group, self._checked_class)

    def register(self, cls: C) -> C:
        """Class decorator: makes a frozen dataclass known by its name.

        Raises:
            ConfigError: if it is no frozen dataclass of plain values that can be rebuilt from them, or another class
                has the name.
        """
        return self.classes.add(cls)

    def names(self) -> list[str]:
        """All names, sorted, other packages' included."""
        return sorted(self.classes)

    def get(self, name: str) -> type[T]:
        """The class of a name.

        Raises:
            ConfigError: if nothing has that name, with the nearest one.
        """
        return self.classes.find(name)

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

    def _checked_class(self, name: str | None, cls: Any) -> tuple[str, type[T]]:
        if not isinstance(cls, type):
            raise ConfigError(f"a {self.kind} is a class, found a value of type {type(cls).__name__} ({name}).")
        check_rebuildable(cls, f"{self.kind} {cls.__name__!r}")
        return cls.__name__, cls


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


def brief(thing: Any) -> str:
    """A plain dataclass as `repr` shows it, with only the fields that differ from their defaults."""
    if not dataclasses.is_dataclass(thing):
        return repr(thing)
    fields = [field for field in dataclasses.fields(thing) if field.init and field.repr]
    values = {field.name: getattr(thing, field.name) for field in fields}
    changed = [f"{field.name}={brief(values[field.name])}" for field in fields if values[field.name] != _default(field)]
    return f"{type(thing).__name__}({', '.join(changed)})"


def _default(field: dataclasses.Field[Any]) -> Any:
    return field.default if field.default_factory is dataclasses.MISSING else field.default_factory()


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
    return cls(**{name: checked(value, types_of[name], fields[name], owner) for name, value in numbers.items()})


def check_rebuildable(cls: type, what: str) -> None:
    """Refuses a class whose objects are not equal to what is rebuilt from their fields.

    Raises:
        ConfigError: if it is not itself decorated as a frozen dataclass, or has fields that are not given to it, or of
            types that a run file cannot hold.
    """
    decorated = cls.__dict__.get("__dataclass_params__")
    if decorated is None or not decorated.frozen:
        own = ", ".join(inspect.get_annotations(cls))
        lost = f" (else {own} would not be among its numbers)" if own else ""
        raise ConfigError(
            f"{what} must be a frozen dataclass{lost}: write @dataclass(frozen=True) below the line that registers it."
        )
    if not (decorated.init and decorated.eq):
        raise ConfigError(
            f"{what} is made or compared in a way of its own (init=False or eq=False), so that it cannot be rebuilt "
            "from its numbers: leave both to @dataclass(frozen=True)."
        )
    fields = {field.name: field for field in dataclasses.fields(cls)}
    hidden = [name for name, field in fields.items() if not field.init]
    hidden += [name for name, kind in _all_fields(cls).items() if kind == "InitVar"]
    if hidden:
        raise ConfigError(
            f"{what} has {', '.join(hidden)}, which its numbers do not hold (init=False or InitVar), so that it cannot "
            "be rebuilt from them: make each a plain field, or a property that is computed from the others."
        )
    for name in fields.keys() - inspect.get_annotations(cls).keys():
        if name in cls.__dict__:
            raise ConfigError(
                f"{what} sets {name} without a type, which leaves the value that {name} has in the class above it: "
                f"write {name}: <type> = ... ."
            )
    for name, kind in _hints(cls).items():
        if name in fields and not is_plain(kind):
            raise ConfigError(
                f"{what} has the field {name} of type {_spoken(kind)}, which a run file cannot hold: use numbers, "
                "texts, true or false, tuple[<type>, ...] of them, or a frozen dataclass of them."
            )


def _all_fields(cls: type) -> dict[str, str]:
    """Each field of a dataclass with its kind, also the ones that are only handed to `__post_init__`."""
    held = getattr(cls, "__dataclass_fields__", {})
    return {name: "InitVar" if "INITVAR" in repr(field._field_type) else "field" for name, field in held.items()}


def _hints(cls: type) -> dict[str, Any]:
    """The types of the fields; none where an annotation names what is not there yet."""
    try:
        return typing.get_type_hints(cls)
    except NameError:
        return {}


def is_plain(wanted: Any) -> bool:
    """Whether values of this type can be written in a run file and read back."""
    origin, options = typing.get_origin(wanted), typing.get_args(wanted)
    if origin in (typing.Union, types.UnionType):
        return all(map(is_plain, options))
    if origin is tuple:
        return len(options) == 2 and options[1] is Ellipsis and is_plain(options[0])
    if origin is Literal or wanted in (bool, int, float, str, type(None)):
        return True
    return isinstance(wanted, type) and (dataclasses.is_dataclass(wanted) or hasattr(wanted, "registry"))


def check_types(thing: Any) -> None:
    """Refuses a plain dataclass made in Python with a value that a run file could not hold; a list where a tuple
    belongs becomes one, and a name where an object of a registered class belongs becomes that with its defaults.

    Fields of other types than a run file holds are left alone: a class with such cannot be registered.

    Raises:
        ConfigError: naming the field, what was needed and what was found.
    """
    types_of = _hints(type(thing))
    for field in dataclasses.fields(thing):
        wanted = types_of.get(field.name)
        if wanted is None or not field.init or not is_plain(wanted):
            continue
        value = getattr(thing, field.name)
        made = checked(value, wanted, field, type(thing).__name__)
        if isinstance(value, list):
            object.__setattr__(thing, field.name, tuple(value))
        elif isinstance(value, str) and not isinstance(made, str):
            object.__setattr__(thing, field.name, made)


def checked(value: Any, wanted: Any, field: dataclasses.Field[Any], owner: str) -> Any:
    """The value of a field as its type.

    Raises:
        ConfigError: if it is of another, with the field's own hint.
    """
    try:
        return convert(value, wanted, f"{owner}.{field.name}")
    except ConfigError as error:
        hint = field.metadata.get("hint")
        raise ConfigError(f"{error} {hint}" if hint else str(error)) from None


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
        *most, last = map(repr, options)
        choice = f"{', '.join(most)} or {last}" if most else last
        raise ConfigError(f"{where} must be {choice}, found {value!r}.")
    if origin is tuple and isinstance(value, (list, tuple)):
        return tuple(convert(item, options[0], where) for item in value)
    own = getattr(wanted, "registry", None)
    if isinstance(own, Registry) and isinstance(value, str):  # the name alone, for the defaults
        try:
            return _of_kind(own.build({own.kind: value}), wanted, where)
        except ConfigError as error:
            raise ConfigError(f"{where}: {error}") from None
    if (
        isinstance(own, Registry)
        and isinstance(value, Mapping)
        and (own.kind in value or wanted not in own.classes.values())
    ):
        return _of_kind(own.build(value), wanted, where)  # one of several classes, which the table names
    if dataclasses.is_dataclass(wanted) and isinstance(value, Mapping):
        return build(typing.cast(type, wanted), value)
    if wanted is float and isinstance(value, (int, float)) and not isinstance(value, bool):
        return float(value)
    if isinstance(wanted, type) and isinstance(value, wanted) and not (wanted is int and isinstance(value, bool)):
        return value
    expected = "a list" if origin is tuple else "a table" if dataclasses.is_dataclass(wanted) else _spoken(wanted)
    raise ConfigError(f"{where} must be {expected}, found {value!r}.")


def _of_kind(made: Any, wanted: type, where: str) -> Any:
    """The object, if it is of the declared type.

    Raises:
        ConfigError: if its name stands for another.
    """
    if not isinstance(made, wanted):
        raise ConfigError(f"{where} must be {_spoken(wanted)}, found {made!r}.")
    return made


def _spoken(wanted: Any) -> str:
    summary = {float: "a number", int: "a whole number", str: "a text", bool: "true or false"}
    return summary.get(wanted, str(wanted))

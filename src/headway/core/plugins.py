"""Things by name, Headway's own and other packages': the part that all registries have in common.

Another package adds a thing by an entry point in the group of its kind.  The value of the entry point is the thing
itself (`package.module:thing`), or a module that registers it when it is imported (`package.module`).  Entry points are
loaded when a name is not known yet, or when all names are listed.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from importlib import metadata
from types import ModuleType
from typing import Any, ClassVar, Generic, TypeVar, overload

from headway.core.errors import ConfigError, nearest

T = TypeVar("T")
X = TypeVar("X")
Prepare = Callable[[str | None, Any], tuple[str, T]]


def own_name(name: str | None, thing: Any) -> tuple[str, Any]:
    """The given name or the thing's own, and the thing as it is.

    Raises:
        ConfigError: if there is neither.
    """
    name = name or getattr(thing, "__name__", None)
    if name is None:
        raise ConfigError(f"a value of type {type(thing).__name__} is registered without a name: give it one.")
    return name, thing


class NamedRegistry(Mapping[str, T], Generic[T]):
    """The known things of one kind: a mapping from names, other packages' entry points included.

    prepare: maps a given name (or None) and the registered object to the name and what is kept; it refuses what does
    not belong to the kind with a ConfigError.

    A package that cannot be loaded, or whose name is taken, is left out and described in `problems`.  Two packages with
    one name are both left out.

    >>> greetings = NamedRegistry[str]("greeting", "example.greetings")
    >>> greetings.register("short")("hi")
    'hi'
    >>> dict(greetings)
    {'short': 'hi'}
    """

    _loading: ClassVar[str | None] = None  # the package that is being loaded, by whichever registry

    def __init__(self, kind: str, group: str, prepare: Prepare[T] = own_name) -> None:
        self.kind, self.group = kind, group
        self._prepare = prepare
        self._things: dict[str, T] = {}
        self._registered: dict[str, Any] = {}  # the objects before `prepare`
        self._packages: dict[str, str] = {}
        self._ambiguous: dict[str, str] = {}
        self._problems: list[str] = []
        self._loaded = False

    @overload
    def register(self, name: str | None = None) -> Callable[[X], X]: ...

    @overload
    def register(self, name: X) -> X: ...

    def register(self, name: Any = None) -> Any:
        """A decorator that makes a thing known, by the name given or by its own.

        Raises:
            ConfigError: if it does not belong here, or another thing has the name.
        """
        if name is not None and not isinstance(name, str):
            return self.add(name)
        return lambda thing: self.add(thing, name)

    def add(self, thing: X, name: str | None = None) -> X:
        """Makes a thing known, by the name given or by its own; returns it.

        Raises:
            ConfigError: if it does not belong here, or another thing has the name.
        """
        name, kept = self._prepare(name, thing)
        if name in self._ambiguous:
            raise ConfigError(self._ambiguous[name])
        if name in self._things and _identity(self._registered[name]) != _identity(thing):
            self._refuse_twice(name, thing)
        self._things[name], self._registered[name] = kept, thing
        if self._loading is not None:
            self._packages[name] = self._loading
        return thing

    @contextmanager
    def restored(self) -> Iterator[None]:
        """A context after which the registry is as before: for tests and documents that register examples."""
        kept = {name: copy.copy(value) for name, value in vars(self).items() if isinstance(value, dict | list)}
        try:
            yield
        finally:
            vars(self).update(kept)

    def _refuse_twice(self, name: str, thing: Any) -> None:
        known = self._registered[name]
        both = "two classes" if isinstance(known, type) and isinstance(thing, type) else "two things"
        first, second = self._packages.get(name) or _module(known), self._loading or _module(thing)
        text = f"{both} register the {self.kind} name {name!r}: one in {first}, one in {second}; rename one of them."
        if self._loading is not None and name in self._packages:  # which is loaded first is an accident
            self._ambiguous[name] = text
            for known_by_name in (self._things, self._registered, self._packages):
                del known_by_name[name]
        raise ConfigError(text)

    def __getitem__(self, name: str) -> T:
        if name not in self._things:
            self._load()
        return self._things[name]

    def __iter__(self) -> Iterator[str]:
        self._load()
        return iter(sorted(self._things, key=lambda name: name in self._packages))  # Headway's own first

    def __len__(self) -> int:
        self._load()
        return len(self._things)

    def __contains__(self, name: object) -> bool:
        if name not in self._things:
            self._load()
        return name in self._things

    def find(self, name: str) -> T:
        """The thing of a name.

        Raises:
            ConfigError: if nothing has that name, with the nearest one.
        """
        if name not in self:
            raise ConfigError(f"there is no {self.kind} named {name!r}{self.near(name)}.")
        return self._things[name]

    def near(self, name: str, known: Iterable[str] | None = None) -> str:
        """The end of a sentence that refuses a name: the nearest known one, and the packages that failed to load.

        known: the names to choose from, where they are more or fewer than the registered ones.
        """
        if name in self._ambiguous:
            return f": {self._ambiguous[name].removesuffix('.')}"
        return "; ".join(
            [nearest(name, self if known is None else known), *(problem.removesuffix(".") for problem in self.problems)]
        )

    def package(self, name: str) -> str | None:
        """The other package that a thing comes from, or the module that registered it; None for Headway's own."""
        if name in self._packages:
            return self._packages[name]
        module = _module(self._registered[name])
        return None if module.partition(".")[0] == "headway" else module

    @property
    def problems(self) -> tuple[str, ...]:
        """The packages that cannot be used, a sentence for each."""
        self._load()
        return tuple(self._problems)

    def _load(self) -> None:
        if self._loaded:
            return
        self._loaded = True
        for point in metadata.entry_points(group=self.group):
            NamedRegistry._loading = point.dist.name if point.dist is not None else point.module
            try:
                loaded = point.load()
                if not isinstance(loaded, ModuleType):
                    self.add(loaded, point.name)
            except ConfigError as error:
                self._problems.append(
                    f"the {self.kind} {point.name!r} of the package {self._loading} is left out: {error}"
                )
            except (Exception, SystemExit) as error:  # whatever another package may raise when it is imported
                self._problems.append(
                    f"the {self.kind} {point.name!r} of the package {self._loading} cannot be loaded ({point.value}): "
                    f"{type(error).__name__}: {error}."
                )
            finally:
                NamedRegistry._loading = None


def _identity(thing: Any) -> object:
    """The identity of a registered object; a module that is imported again makes equal ones."""
    place = getattr(thing, "__module__", None), getattr(thing, "__qualname__", None)
    return thing if None in place or "<lambda>" in str(place[1]) else place


def _module(thing: Any) -> str:
    return str(getattr(thing, "__module__", None) or type(thing).__module__)

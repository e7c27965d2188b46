"""Engines by name, Headway's own and other packages'.

Another package adds an engine by an entry point in the group `headway.engines`, a module of one's own by
`register_engine(name)(cls)`; run files choose it as `engine.kind`.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

from headway.core.errors import ConfigError, nearest
from headway.core.plugins import NamedRegistry
from headway.engines.engine import Engine
from headway.engines.local import LocalEngine
from headway.engines.processes.process_engine import ProcessEngine
from headway.engines.ray.ray_engine import RayEngine


def _as_engine(name: str | None, thing: Any) -> tuple[str, type[Engine]]:
    """The name of an engine, and its class.

    Raises:
        ConfigError: if the thing is not a class derived from `Engine`.
    """
    if not (isinstance(thing, type) and issubclass(thing, Engine)):
        raise ConfigError(f"an engine is a class derived from headway.engines.Engine, found {thing!r}.")
    return name or thing.__name__, thing


ENGINES: NamedRegistry[type[Engine]] = NamedRegistry("engine", "headway.engines", _as_engine)
register_engine = ENGINES.register
register_engine("local")(LocalEngine)
register_engine("processes")(ProcessEngine)
register_engine("ray")(RayEngine)


def build_engine(kind: str, options: Mapping[str, Any]) -> Engine:
    """The engine of this name, made with these options.

    Raises:
        ConfigError: if there is no such engine, or it does not take one of the options.
    """
    make = ENGINES.find(kind)
    known = inspect.signature(make).parameters
    if any(each.kind is inspect.Parameter.VAR_KEYWORD for each in known.values()):
        return make(**options)
    for name in options:
        if name not in known:
            raise ConfigError(f"engine.{name} is given, but the engine {kind!r} takes none{nearest(name, known)}.")
    return make(**options)

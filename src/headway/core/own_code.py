"""Functions and classes of one's own, named as `module:name`."""

from __future__ import annotations

import importlib
from typing import Any

from headway.core.errors import ConfigError, nearest


def imported(path: str, what: str) -> Any:
    """The function or class at `module:name`; the folder of the module is where Python looks for modules.

    what: the kind of thing, such as "model", for the sentence about a module that fails.

    Raises:
        ConfigError: if the module cannot be imported, or has nothing callable of that name.
    """
    module_name, _, name = path.partition(":")
    try:
        module = importlib.import_module(module_name)
    except Exception as error:  # whatever a module of one's own may raise
        raise ConfigError(f"the {what}'s module {module_name!r} cannot be imported: {error_text(error)}.") from error
    thing = getattr(module, name, None)
    if not callable(thing):
        public = [known for known, each in vars(module).items() if callable(each) and not known.startswith("_")]
        raise ConfigError(f"the module {module_name!r} has no function {name!r}{nearest(name, public)}.")
    return thing


def error_text(error: Exception) -> str:
    """The text of an error; with its kind, where the text alone is too short.

    >>> error_text(ValueError("too few")), error_text(KeyError("x"))
    ('too few', "KeyError: 'x'")
    """
    plain = isinstance(error, (ImportError, TypeError, ValueError, RuntimeError))
    return str(error) if plain else f"{type(error).__name__}: {error}"

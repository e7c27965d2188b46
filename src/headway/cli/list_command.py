"""`headway list`: all that can be named in a run file."""

from __future__ import annotations

import inspect
from typing import Any

from rich.markup import escape

from headway.core.plugins import NamedRegistry
from headway.data import sources
from headway.data.sources.source_registry import SOURCES
from headway.experiment.presets import PRESETS
from headway.experiment.registries import REGISTRIES
from headway.experiment.runfile_text import examples
from headway.model import zoo as models
from headway.observe.text import console, plain_table, show_table


def list_names() -> None:
    """Prints all names with a line on each."""
    screen = console()
    for title, rows in _tables().items():
        show_table(screen, plain_table([title, ""], [list(row) for row in rows], numbers=False, indent=True))
        if title == "recipes":
            screen.print("  (with +ecgr after a name: ECGR on top, as in fedavg+ecgr)")
        screen.print()
    for registry in REGISTRIES.values():
        for problem in registry.problems:
            screen.print(f"[yellow]warning:[/yellow] {escape(problem)}", soft_wrap=True)


def _tables() -> dict[str, list[tuple[str, str]]]:
    """The titles of the lists with their rows, each a name and a line."""
    tables = {
        "examples": list(examples().items()),
        "presets": [(name, preset.summary) for name, preset in PRESETS.items()],
        **{title: _rows(registry) for title, registry in REGISTRIES.items()},
        "models": [(name, _first_line(make)) for name, make in models.MODELS.items()],
    }
    tables["data"] = [
        (name, f"{line}{_origin(SOURCES, name.removeprefix('path/to/*'))}") for name, line in sources().items()
    ]
    return tables


def _rows(registry: NamedRegistry[Any]) -> list[tuple[str, str]]:
    """The names of a registry with a line on each, and the package where it is another: Headway's own first."""
    names = sorted(registry, key=lambda name: (registry.package(name) is not None, name))
    return [(name, f"{_line(registry, name)}{_origin(registry, name)}") for name in names]


def _line(registry: NamedRegistry[Any], name: str) -> str:
    summary = getattr(registry[name], "summary", None)
    return summary if isinstance(summary, str) else _first_line(registry[name])


def _first_line(thing: Any) -> str:
    return (inspect.getdoc(thing) or "").partition("\n")[0]


def _origin(registry: NamedRegistry[Any], name: str) -> str:
    package = registry.package(name) if name in registry else None
    return "" if package is None else f" (of the package {package})"

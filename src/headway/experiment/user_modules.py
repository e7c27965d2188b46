"""Modules of one's own that a run file names: imported from its folder, so that what they register is known."""

from __future__ import annotations

import importlib
import inspect
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from headway.core.errors import ConfigError
from headway.core.own_code import imported
from headway.experiment.runfile_schema import RunSection, Sections
from headway.model.losses import PerExample
from headway.model.metrics import Metric
from headway.training.trainer import Trainer, trainers


def importable(folder: str) -> None:
    """Puts a folder first among those that modules are found in."""
    if folder not in sys.path:
        sys.path.insert(0, folder)


def import_modules(section: RunSection, folder: Path) -> None:
    """Imports what `run.imports` names.

    Raises:
        ConfigError: if a module cannot be imported, or another of its name was imported before.
    """
    if not section.imports:
        return
    place = _search(section, folder)
    for name in section.imports:
        try:
            importlib.import_module(name)
        except Exception as error:  # whatever a module of one's own may raise
            raise ConfigError(
                f"run.imports: the module {name!r} cannot be imported from {place}: {type(error).__name__}: {error}."
            ) from error


def find_own_code(sections: Sections, folder: Path) -> None:
    """Has Python look in the folder of the run file for the losses, metrics and trainers named as `module:name`."""
    named = [sections.task.loss or "", *(sections.task.metrics or ()), str(sections.algorithm.trainer.get("trainer"))]
    if any(":" in name for name in named):
        _search(sections.run, folder)


def own_loss(path: str) -> PerExample:
    """The loss at `module:name`: a function of (outputs, targets), or a class whose objects are such functions.

    Raises:
        ConfigError: if there is none, or it takes other arguments.
    """
    return _function_of_outputs(path, "loss", "task.loss")


def own_metric(path: str) -> Metric:
    """The metric at `module:name`; as `own_loss`.

    Raises:
        ConfigError: if there is none, or it takes other arguments.
    """
    return _function_of_outputs(path, "metric", "task.metrics")


def own_trainer(path: str) -> str:
    """The name under which the trainer class at `module:Class` is known from now on.

    Raises:
        ConfigError: if it is no trainer, or cannot be rebuilt from its numbers.
    """
    cls = imported(path, "trainer")
    if not (isinstance(cls, type) and issubclass(cls, Trainer)):
        raise ConfigError(f"{path} is no trainer: derive a class from headway.Trainer, and name that.")
    trainers.register(cls)
    return cls.__name__


def _function_of_outputs(path: str, what: str, key: str) -> Callable[..., Any]:
    thing: Callable[..., Any] = imported(path, what)
    if isinstance(thing, type):
        try:
            thing = thing()
        except Exception as error:  # whatever a class of one's own may raise
            raise ConfigError(
                f"{key}: {path} is a class, and cannot be made without arguments ({error}): name a function of "
                "(outputs, targets), or give each argument a default."
            ) from error
    try:
        signature = inspect.signature(thing)
    except (TypeError, ValueError):
        return thing  # written in C: the trial before the first round calls it
    try:
        signature.bind(None, None)
    except TypeError:
        raise ConfigError(
            f"{key}: a {what} is called with (outputs, targets), and {path} takes {signature}: give each further "
            "argument a default."
        ) from None
    return thing


def _search(section: RunSection, folder: Path) -> str:
    """The folder in which modules are found, put first; noted in the section, so that a resumed run finds it again."""
    section.imports_from = str((folder / Path(section.imports_from or ".")).resolve())
    importable(section.imports_from)
    return section.imports_from

"""Modules of one's own that a run file names: imported from its folder, so that what they register is known."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

from headway.core.errors import ConfigError
from headway.experiment.runfile_schema import RunSection


def importable(folder: str) -> None:
    """Puts a folder first among those that modules are found in."""
    if folder not in sys.path:
        sys.path.insert(0, folder)


def import_modules(section: RunSection, folder: Path) -> None:
    """Imports what `run.imports` names, and notes the folder in the section, so that a resumed run finds it again.

    Raises:
        ConfigError: if a module cannot be imported, or another of its name was imported before.
    """
    if not section.imports:
        return
    place = Path(section.imports_from or ".")
    section.imports_from = str((folder / place).resolve())
    importable(section.imports_from)
    for name in section.imports:
        try:
            importlib.import_module(name)
        except Exception as error:  # whatever a module of one's own may raise
            raise ConfigError(
                f"run.imports: the module {name!r} cannot be imported from {section.imports_from}: "
                f"{type(error).__name__}: {error}."
            ) from error

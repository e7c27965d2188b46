"""The commands of a federation of machines; each imports its own file when it is called."""

from __future__ import annotations

import typer


def add_commands(app: typer.Typer) -> None:
    """Adds the commands to the application."""

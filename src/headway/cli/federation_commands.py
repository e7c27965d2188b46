"""The commands of a federation of machines; each imports its own file when it is called."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Optional

import typer

from headway.cli.identity_command import identity_app


def add_commands(app: typer.Typer) -> None:
    """Adds the commands to the application."""
    app.add_typer(identity_app, name="identity")
    app.command()(schema)


def schema(
    files: Annotated[list[Path], typer.Argument(metavar="FILE...", help="Tables of the same columns.")],
    target: Annotated[Optional[str], typer.Option(help="The column to predict.")] = None,  # noqa: UP045
    task: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(help="classification or regression, where the target may be either."),
    ] = None,
    drop: Annotated[Optional[list[str]], typer.Option(help="A column to leave out; repeatable.")] = None,  # noqa: UP045
    categories: Annotated[
        Optional[list[str]],  # noqa: UP045
        typer.Option(help="A column whose numbers are names, not quantities; repeatable."),
    ] = None,
    gaps: Annotated[
        Optional[list[str]],  # noqa: UP045
        typer.Option(help="A text that is a gap, '' for an empty cell, instead of NA, None, ? and such; repeatable."),
    ] = None,
    out: Annotated[Optional[Path], typer.Option(help="The file to write; standard output by default.")] = None,  # noqa: UP045
    force: Annotated[bool, typer.Option("--force", help="Write over an existing file.")] = False,
) -> None:
    """Write what the tables of all clients of a federation have in common: columns, categories, classes."""
    from headway.cli.schema_command import schema_files
    from headway.data.sources.tables import Reading

    how = Reading(
        gaps=None if gaps is None else tuple(gaps), categories=tuple(categories or ()), skip=tuple(drop or ())
    )
    schema_files(files, target, task, how, out, force)

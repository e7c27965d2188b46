"""The options of commands that read a table."""

from __future__ import annotations

from typing import Annotated, Optional

import typer

Target = Annotated[Optional[str], typer.Option(help="The column to predict.")]  # noqa: UP045
TargetTask = Annotated[
    Optional[str],  # noqa: UP045
    typer.Option(help="classification or regression, where the target may be either."),
]
Drop = Annotated[Optional[list[str]], typer.Option(help="A column to leave out; repeatable.")]  # noqa: UP045
Categories = Annotated[
    Optional[list[str]],  # noqa: UP045
    typer.Option(help="A column whose numbers are names, not quantities; repeatable."),
]
Gaps = Annotated[
    Optional[list[str]],  # noqa: UP045
    typer.Option(help="A text that is a gap, '' for an empty cell, instead of NA, None, ? and such; repeatable."),
]

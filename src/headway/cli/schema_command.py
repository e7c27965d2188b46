"""`headway schema`: the section [data] that all clients of a federation share, from tables at hand."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import typer

from headway.core.errors import ConfigError
from headway.data.sources.data_schema import DataSchema
from headway.data.sources.schema_sample import sample_schema
from headway.data.sources.tables import Reading
from headway.observe.run_folder import write_atomically, writing
from headway.observe.text import console, to_toml


def schema_files(
    paths: Sequence[Path], target: str | None, task: str | None, how: Reading, out: Path | None, force: bool
) -> None:
    """Makes the schema of one or several tables, and writes it into a file, or on standard output.

    Raises:
        ConfigError: the place is taken, or the task unknown.
        DataError: the tables cannot be used, or differ.
    """
    if task not in (None, "classification", "regression"):
        raise ConfigError(f"task is {task!r}, but 'classification' or 'regression' is needed.")
    if out is not None and out.exists() and not force:
        raise ConfigError(f"{out} exists already: choose another place with --out, or write over it with --force.")
    schema, notes = sample_schema(paths, target, task, how)
    text = schema_text(schema, [f"from {', '.join(path.name for path in paths)}", *notes])
    if out is None:
        typer.echo(text, nl=False)
        return
    with writing(out):
        write_atomically(out, text.encode())
    screen = console()
    for line in (f"{out}: {len(schema.columns)} columns, {len(schema.features)} inputs of a model.", *notes):
        screen.print(line, soft_wrap=True, markup=False)


def schema_text(schema: DataSchema, remarks: Sequence[str] = ()) -> str:
    """The section [data], with a line for each column.

    The values of categories and the names of classes are in it, and no other cell of a table.
    """
    lines = [*(f"# {_comment(remark)}" for remark in remarks), "[data]"]
    for key, value in schema.to_config().items():
        if key == "columns":
            lines += ["columns = [", *(f"    {to_toml(column)}," for column in value), "]"]
        else:
            lines.append(f"{key} = {to_toml(value)}")
    return "\n".join(lines) + "\n"


def _comment(line: str) -> str:
    """A line that may stand behind a hash."""
    return "".join(each if each.isprintable() else "?" for each in " ".join(line.split()))

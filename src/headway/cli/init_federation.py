"""`headway init --federation`: the server's file of a federation whose clients hold tables like the one at hand."""

from __future__ import annotations

import shlex
from pathlib import Path

from headway.cli.init_command import InitOptions, try_once
from headway.cli.schema_command import schema_text
from headway.core.errors import ConfigError
from headway.data.sources.data_schema import DataSchema
from headway.data.sources.schema_loading import TABLES, load_with_schema
from headway.data.sources.schema_sample import sample_schema
from headway.data.sources.schema_table import FileForm
from headway.experiment.presets import preset
from headway.observe.run_folder import write_atomically, writing
from headway.observe.text import console, to_toml

FEDERATION = """\
[federation]
min_clients = 2           # a round begins when so many are connected; clients = ["a", "b"] names all who may join
"""


def init_federation(source: Path, given: InitOptions, out: Path, force: bool, preset_name: str | None = None) -> None:
    """Looks at one client's table and writes the server's file, with the schema that all clients' tables must have.

    A round on a few of its examples is tried.  Of the table's cells, the file holds the values of categories and the
    names of classes alone.

    Raises:
        ConfigError: if the place is taken, or an option does not apply.
        DataError: if the table cannot be used or trained on; nothing is written then.
    """
    if source.suffix.lower() not in TABLES:
        raise ConfigError(
            f"{source}: a schema is made from a table ({', '.join(TABLES)}); write that of arrays by hand."
        )
    if given.client_column is not None:
        raise ConfigError(
            "--client-column is for tables of several clients, and each client of a federation has its own table: "
            "leave it out (with --drop, if the column is there)."
        )
    if out.exists() and not force:
        raise ConfigError(f"{out} exists already: choose another place with --out, or write over it with --force.")
    recipe = 'recipe = "fedavg"' if preset_name is None else f'preset = "{preset(preset_name).name}"'
    schema, notes = sample_schema([source], given.target, given.task, given.reading())
    data = load_with_schema(source, schema, "client", form=FileForm(given.separator, given.decimal, given.encoding))
    body = _run(schema, recipe)
    try_once(f'{body}\n[data]\nsource = "{source.resolve().as_posix()}"\n', data, source)
    text = "\n".join([_head(source), body, FEDERATION, schema_text(schema, notes)])
    with writing(out):
        out.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(out, text.encode())
    screen = console()
    kind = f"classes {', '.join(schema.class_names)}" if schema.class_names else "numbers"
    for line in (
        f"{out}: {len(schema.columns)} columns, {schema.input_shape[0]} inputs of the model; "
        f"the target {schema.target!r} is {kind}.",
        *notes,
        f"Serve with: headway serve {shlex.quote(str(out))}",
    ):
        screen.print(line, soft_wrap=True, markup=False)


def _head(source: Path) -> str:
    return (
        f"# A federation of tables like {source.name}: each client must have the columns of [data], in any order.\n"
        "# Add the categories and classes that other clients have, before the first run: each has one place for "
        "all.\n"
    )


def _run(schema: DataSchema, recipe: str) -> str:
    """The sections of the run, without its data."""
    task = [f"metrics = {to_toml(['balanced_accuracy', 'accuracy'])}"]
    if not schema.class_names:
        task = [
            "# target_scale = { centre = 0.0, scale = 1.0 }   # about the mean and the spread of the target; round",
            "#                                                # numbers that all agree on learn faster",
        ]
    lines = [
        "[run]",
        "rounds = 30",
        "seed = 0                  # decides the split, the initial model and every draw",
        "",
        "[model]                   # mlp, logistic, or one that is installed at the server and at every client",
        'name = "mlp"',
        "hidden = [32]",
        "",
        "[task]                    # the first metric decides which model is best",
        *task,
        "",
        "[algorithm]               # `headway list` names the recipes and stages",
        recipe,
        "",
        "[algorithm.trainer]",
        "lr = 0.05",
        *(["batch_size = 32", "epochs = 1"] if recipe.startswith("recipe") else []),
    ]
    return "\n".join(lines) + "\n"

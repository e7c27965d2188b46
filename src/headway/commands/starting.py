"""`headway init`: a commented run file for a user's own data."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from headway.core.errors import ConfigError
from headway.core.keys import Key
from headway.data import FederatedData, infer_csv, load
from headway.data.npz import npz_pool
from headway.data.tables import read_table
from headway.observe.folder import write_atomically, writing
from headway.observe.text import console, to_toml
from headway.presets import CROSS_SILO, Preset, preset

MOST_CATEGORIES = 100  # of a text column that becomes features
ROWS_PER_CLIENT = 20


def init_file(
    source: Path, client_column: str | None, target: str | None, out: Path, force: bool, preset_name: str | None = None
) -> None:
    """Looks at the data and writes a run file that trains on them as it is.

    Raises:
        ConfigError: if the place is taken, or an option does not apply.
        DataError: if the data cannot be used; nothing is written then.
    """
    if out.exists() and not force:
        raise ConfigError(f"{out} exists already: choose another place with --out, or write over it with --force.")
    chosen = None if preset_name is None else preset(preset_name)
    look = _npz if source.suffix.lower() == ".npz" else _table
    options, notes = look(source, client_column, target)
    data = load(source, key=Key.root(0), **options)
    relative = os.path.relpath(source.resolve(), out.resolve().parent)
    with writing(out):
        out.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(out, _text(data, {"source": Path(relative).as_posix(), **options}, notes, chosen).encode())
    screen = console()
    kind = "regression" if data.classes is None else f"{data.classes} classes"
    screen.print(f"{out}: {len(data.clients)} clients, {len(data.store)} examples, {kind}.", soft_wrap=True)
    for note in notes:
        screen.print(note, soft_wrap=True, markup=False)
    screen.print(f"Train with: headway run {out}", soft_wrap=True)


def _npz(path: Path, client_column: str | None, target: str | None) -> tuple[dict[str, Any], list[str]]:
    """The options under `[data]`, and what was decided."""
    if target is not None:
        raise ConfigError(f"{path} holds arrays, not columns: its target is the array y, so leave --target out.")
    pool = npz_pool(path, client_column=client_column)
    named = {} if client_column is None else {"client_column": client_column}
    return (named, []) if pool.owners is not None else _dealt(len(pool.targets), "an array named client")


def _table(path: Path, client_column: str | None, target: str | None) -> tuple[dict[str, Any], list[str]]:
    """The options under `[data]`, and what was decided."""
    facts = infer_csv(path, client_column, target)
    options: dict[str, Any] = {"target": facts.target, "task": facts.task, "standardise": "client"}
    notes = [] if target is not None else [f"The target is taken to be {facts.target!r}; say another with --target."]
    dropped = _useless(path, (facts.target, client_column))
    if dropped:
        options["drop"] = dropped
        notes.append(f"Left out, as they name rows rather than describe them: {', '.join(dropped)}.")
    if client_column is not None:
        return options | {"client_column": client_column}, notes
    dealt, more = _dealt(facts.rows, "--client-column")
    return options | dealt, notes + more


def _useless(path: Path, keep: Sequence[str | None]) -> list[str]:
    """Columns that no model can learn from: free text, and numbers that only name the row."""
    found = []
    for name, field in read_table(path).items():
        distinct = len(field.distinct())
        names_rows = field.kind == "integer" and distinct == field.rows and name.lower().endswith("id")
        if name not in keep and ((field.kind == "text" and distinct > MOST_CATEGORIES) or names_rows or distinct == 0):
            found.append(name)
    return found


def _dealt(rows: int, instead: str) -> tuple[dict[str, Any], list[str]]:
    """Clients at random, for data in which nobody says whose row it is."""
    clients = max(2, min(10, rows // ROWS_PER_CLIENT))
    note = f"Nothing says whose row it is, so rows are dealt to {clients} clients at random; {instead} would say it."
    return {"clients": clients, "partition": {"kind": "iid"}}, [note]


def _text(data: FederatedData, options: dict[str, Any], notes: Sequence[str], chosen: Preset | None) -> str:
    """The run file."""
    image = len(data.input_shape) == 3 and min(data.input_shape[1:]) >= 12
    if data.classes is None:
        metrics, trainer = ["mean_absolute_error"], {"lr": 0.01, "clip_gradient": 1.0}
    else:
        metrics = ["balanced_accuracy", *(["auroc"] if data.classes == 2 else []), "accuracy"]
        trainer = {"lr": 0.05}
    scaled = data.classes is None
    lines = [
        *(f"# {' '.join(line.split())}" for line in (data.description or data.name, *notes)),
        "",
        "[run]",
        "rounds = 30",
        "seed = 0                  # decides the split, the initial model and every draw",
        "",
        "[data]                    # a path is relative to this file",
        *_toml(options),
        "test_share = 0.2          # of each client's examples",
        "",
        "[model]                   # mlp, logistic, lenet, cnn, or your own as module:function",
        'name = "lenet"' if image else 'name = "mlp"\nhidden = [32]',
        "",
        "[task]                    # the first metric decides which model is best",
        *_toml({"metrics": metrics}),
        "",
        "[algorithm]               # `headway list` names the recipes and stages",
        'recipe = "fedavg"'
        if chosen is None
        else f'preset = "{chosen.name}"      # what it sets, and why: headway explain',
        "",
        "[algorithm.trainer]" + ("       # gradients are clipped: the target is not scaled" if scaled else ""),
        *_toml(trainer),
        *(["batch_size = 32", "epochs = 1"] if chosen is None else []),
        "",
        "[compare]                 # `headway compare` on this file",
        f"methods = {to_toml((chosen or CROSS_SILO).methods)}",
        "seeds = 5",
        "",
    ]
    return "\n".join(lines)


def _toml(values: Mapping[str, Any]) -> list[str]:
    """A line for each value, lists and tables written inline."""
    return [f"{key} = {to_toml(value)}" for key, value in values.items()]

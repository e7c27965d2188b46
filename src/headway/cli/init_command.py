"""`headway init`: a commented run file for a user's own data."""

from __future__ import annotations

import os
import shlex
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from headway import recipes
from headway.core.errors import ConfigError, DataError
from headway.data import FederatedData, load
from headway.data.dataset.target_summary import target_line
from headway.data.sources.npz import npz_pool
from headway.data.sources.schema_sample import useless_columns
from headway.data.sources.tables import Reading, facts_of, read_table, task_note
from headway.experiment.presets import CROSS_SILO, Preset, preset
from headway.experiment.run import Run
from headway.experiment.runfile import LastData, load_runfile
from headway.numerics.keys import Key
from headway.observe.run_folder import write_atomically, writing
from headway.observe.text import console, to_toml
from headway.training.local_sgd import LocalSGD

ROWS_PER_CLIENT = 20
TRIED_CLIENTS, TRIED_EXAMPLES = 2, 16
CLIENTS_LOOKED_AT = 1000


@dataclass(frozen=True)
class InitOptions:
    """The options about the data; one that is None or empty is guessed, and the guess is printed."""

    client_column: str | None = None
    target: str | None = None
    task: str | None = None
    drop: tuple[str, ...] = ()
    categories: tuple[str, ...] = ()
    gaps: tuple[str, ...] | None = None
    separator: str | None = None
    decimal: str | None = None
    encoding: str | None = None

    def reading(self) -> Reading:
        """The options with which the table is read."""
        text = () if self.client_column is None else (self.client_column,)
        return Reading(self.separator, self.decimal, self.encoding, self.gaps, self.categories, text, self.drop)

    def of_table(self) -> dict[str, Any]:
        """The options of a table that were given, as `[data]` has them."""
        given = {
            "gaps": None if self.gaps is None else list(self.gaps),
            "categories": list(self.categories) or None,
            "separator": self.separator,
            "decimal": self.decimal,
            "encoding": self.encoding,
        }
        return {name: value for name, value in given.items() if value is not None}


def init_file(source: Path, given: InitOptions, out: Path, force: bool, preset_name: str | None = None) -> None:
    """Looks at the data and writes a run file that trains on them as it is: one round on a few examples is tried.

    Raises:
        ConfigError: if the place is taken, or an option does not apply.
        DataError: if the data cannot be used or trained on; nothing is written then.
    """
    if out.exists() and not force:
        raise ConfigError(f"{out} exists already: choose another place with --out, or write over it with --force.")
    chosen = None if preset_name is None else preset(preset_name)
    look = _npz if source.suffix.lower() == ".npz" else _table
    options, notes = look(source, given)
    data = load(source, key=Key.root(0), **options)
    relative = os.path.relpath(source.resolve(), out.resolve().parent)
    try_once(_text(data, {"source": source.resolve().as_posix(), **options}, notes, chosen), data, source)
    with writing(out):
        out.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(out, _text(data, {"source": Path(relative).as_posix(), **options}, notes, chosen).encode())
    screen = console()
    heading, line = target_line(data)
    screen.print(f"{out}: {len(data.clients)} clients, {len(data.store)} examples.", soft_wrap=True, markup=False)
    screen.print(f"{heading.capitalize()} {line}.", soft_wrap=True, markup=False)
    for note in (*notes, *(f"Note: {note}." for note in data.notes)):
        screen.print(note, soft_wrap=True, markup=False)
    screen.print(f"Train with: headway run {shlex.quote(str(out))}", soft_wrap=True, markup=False)


def _npz(path: Path, given: InitOptions) -> tuple[dict[str, Any], list[str]]:
    """The options under `[data]`, and what was decided."""
    if given.target is not None:
        raise ConfigError(f"{path} holds arrays, not columns: its target is the array y, so leave --target out.")
    if given.of_table() or given.drop:
        raise ConfigError(
            f"{path} holds arrays, not columns: leave out --drop, --categories, --gaps, --separator, --decimal and "
            "--encoding."
        )
    options: dict[str, Any] = {} if given.client_column is None else {"client_column": given.client_column}
    if given.task is not None:
        options["task"] = given.task
    pool, notes = npz_pool(path, **options), []
    if isinstance(pool.inputs, Tensor) and not pool.inputs.is_floating_point():
        options["inputs"] = "numbers"
        notes.append(
            "The inputs are whole numbers, read as quantities; if they are tokens, take inputs out of [data] and name "
            "a model of your own that begins with an embedding."
        )
    if pool.owners is not None:
        return options, notes
    divided, more = _divided(len(pool.targets), "an array named client")
    return options | divided, notes + more


def _table(path: Path, given: InitOptions) -> tuple[dict[str, Any], list[str]]:
    """The options under `[data]`, and what was decided."""
    table = read_table(path, given.reading())
    facts = facts_of(path, table, given.client_column, given.target)
    task = given.task or facts.task
    options: dict[str, Any] = {"target": facts.target, "task": task, "standardise": "client"}
    notes = []
    if given.target is None:
        notes.append(f"The target is taken to be {facts.target!r}; choose another with --target.")
    if given.task is None and (doubt := task_note(table.fields[facts.target])):
        notes.append(f"Note: {doubt} (--task).")
    left_out = useless_columns(path, table, (facts.target, given.client_column))
    if left_out:
        notes.append("Left out: " + "; ".join(f"{name!r}, which {why}" for name, why in left_out.items()) + ".")
    if dropped := [*given.drop, *left_out]:
        options["drop"] = dropped
    options |= given.of_table()
    if given.client_column is not None:
        return options | {"client_column": given.client_column}, notes
    divided, more = _divided(facts.rows, "--client-column")
    return options | divided, notes + more


def try_once(text: str, data: FederatedData, source: Path) -> None:
    """Trains and evaluates two clients for a round, on a few examples each, by the run file's task.

    Raises:
        DataError: it failed, so that the run would, too.
    """
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "trial.toml"
        file.write_text(text, encoding="utf-8")
        runfile = load_runfile(str(file))
        last = LastData()
        last.get(runfile.sections.data, runfile.sections.run.seed, lambda: data)
        task = runfile.build(last).task
    clients = data.clients[:TRIED_CLIENTS]
    parts = [{client: held[client][:TRIED_EXAMPLES] for client in clients} for held in (data.train, data.test)]
    central = None if data.central is None else data.central.rows(0, TRIED_EXAMPLES)
    few = replace(data, train=parts[0], test=parts[1], central=central)
    run = None
    try:
        run = Run(recipes.fedavg(trainer=LocalSGD(lr=1e-3, batch_size=8)), few, task, rounds=1)
        next(iter(run))
    except Exception as error:  # any error of torch for a model on these shapes
        shapes = f"inputs {_shape(data.store.inputs)} and targets {_shape(data.store.targets)}"
        cause = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise DataError(
            f"{source}: no model that comes with Headway trains on {shapes} as they are: write a run file with a "
            f"model of your own (model.name = 'module:function') and a loss that fits. What failed: {cause}"
        ) from error
    finally:
        if run is not None:
            run.close()


def _shape(values: Tensor) -> str:
    return f"{list(values.shape)} ({str(values.dtype).removeprefix('torch.')})"


def _divided(rows: int, instead: str) -> tuple[dict[str, Any], list[str]]:
    """Clients at random, for data without a column of clients."""
    clients = max(2, min(10, rows // ROWS_PER_CLIENT))
    note = (
        f"Nothing names the client of a row, so rows are divided among {clients} clients at random; {instead} would "
        "name it."
    )
    return {"clients": clients, "partition": {"kind": "iid"}}, [note]


def _text(data: FederatedData, options: dict[str, Any], notes: Sequence[str], chosen: Preset | None) -> str:
    """The run file."""
    image = len(data.input_shape) == 3 and min(data.input_shape[1:]) >= 12
    auroc = _auroc(data) if data.classes == 2 and data.store.targets.ndim == 1 else []
    task = [f"metrics = {to_toml(['balanced_accuracy', *auroc, 'accuracy'])}"]
    if data.multi_label:
        task = ['loss = "binary_cross_entropy"', 'metrics = ["accuracy"]   # of single labels']
    elif data.classes is None:
        task = [
            'target_scale = "training"  # by the mean and deviation of all training targets, from sums over clients;',
            "                           # metrics (else: mean_absolute_error) are in the units of the target",
        ]
    lines = [
        *(f"# {_comment(line)}" for line in (data.description or data.name, *notes)),
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
        *task,
        "",
        "[algorithm]               # `headway list` names the recipes and stages",
        'recipe = "fedavg"'
        if chosen is None
        else f'preset = "{chosen.name}"      # what it sets, and why: headway explain',
        "",
        "[algorithm.trainer]",
        "lr = 0.05",
        *(["batch_size = 32", "epochs = 1"] if chosen is None else []),
        "",
        "[compare]                 # `headway compare` on this file",
        f"methods = {to_toml((chosen or CROSS_SILO).methods)}",
        "seeds = 5",
        "",
    ]
    return "\n".join(lines)


def _auroc(data: FederatedData) -> list[str]:
    """The area under the curve of each client, or of all together where no client's test part has both classes."""
    both = any(len(data.test_of(client).targets.unique()) == 2 for client in data.clients[:CLIENTS_LOOKED_AT])
    return ["auroc" if both else "pooled_auroc"]


def _comment(line: str) -> str:
    """A line that may stand behind a hash: without line ends and control characters, which names in data may hold."""
    return "".join(each if each.isprintable() else "?" for each in " ".join(line.split()))


def _toml(values: Mapping[str, Any]) -> list[str]:
    """A line for each value, lists and tables written inline."""
    return [f"{key} = {to_toml(value)}" for key, value in values.items()]

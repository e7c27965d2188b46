"""`headway explain`, `headway list`, `headway export`."""

from __future__ import annotations

import inspect
import shlex
import warnings
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import safetensors.torch
from rich.console import Console
from rich.markup import escape
from torch import Tensor

from headway import recipes
from headway.advice.settings import setting_warnings
from headway.client_state.sqlite_versions import read_client
from headway.core.algorithm import State
from headway.core.errors import ConfigError, RunFolderError
from headway.core.explain import COLUMNS
from headway.core.plugins import NamedRegistry
from headway.core.sampler import samplers
from headway.core.stage import stages
from headway.data import PARTITIONERS, SHIFTS, sources
from headway.data.sources.source_registry import SOURCES
from headway.engines import FLEETS
from headway.engines.virtual_clock.device_availability import availabilities
from headway.experiment.presets import PRESETS, Applied
from headway.experiment.runfile import load_runfile
from headway.experiment.runfile_text import examples
from headway.model import zoo as models
from headway.model.flat_module import FlatModule
from headway.model.losses import LOSSES
from headway.model.metrics import METRICS
from headway.model.personal_model import load_model, staying
from headway.numerics.keys import Key
from headway.observe.run_folder import BEST, CONFIG, MEMORY, read_identity, read_tensors, write_atomically, writing
from headway.observe.text import bytes_text, console, plain_table, show_table, to_toml
from headway.training.trainer import trainers

# what other packages may add to, by its title in the list
REGISTRIES: dict[str, NamedRegistry[Any]] = {
    "recipes": recipes.RECIPES,
    "stages": stages.classes,
    "trainers": trainers.classes,
    "samplers": samplers.classes,
    "clocks": FLEETS,
    "availabilities": availabilities.classes,
    "losses": LOSSES,
    "metrics": METRICS,
    "data": SOURCES,
    "partitions": PARTITIONERS,
    "shifts": SHIFTS,
}


def explain_file(name: str, sets: Sequence[str]) -> None:
    """Shows the chain of a run file as a table."""
    runfile = load_runfile(name, sets)
    explanation = runfile.algorithm.explain()
    screen = console()
    screen.print(f"[bold]{runfile.name}[/bold]: {runfile.algorithm.trainer!r}", markup=True, soft_wrap=True)
    screen.print(f"cohort: {runfile.algorithm.sampler!r}\n", soft_wrap=True)
    show_table(screen, plain_table(COLUMNS, explanation.rows, numbers=False))
    for note in explanation.notes:
        screen.print(note)
    for warning in [*explanation.warnings, *setting_warnings(runfile.algorithm, runfile.sections.run.rounds)]:
        screen.print(f"[yellow]warning:[/yellow] {escape(warning)}", soft_wrap=True)
    _show_preset(screen, runfile.preset)


def _show_preset(screen: Console, applied: Applied | None) -> None:
    """What a preset set and why, and what the file says instead."""
    if applied is None:
        return
    rows = [[f"{choice.path} = {to_toml(choice.value)}", choice.why] for choice in applied.used]
    screen.print()
    show_table(
        screen, plain_table([f"set by the preset {applied.preset.name}", "because"], rows, numbers=False, indent=True)
    )
    if applied.overruled:
        said = ", ".join(choice.path for choice in applied.overruled)
        screen.print(f"left to the file, which says otherwise: {said}", soft_wrap=True)


def list_names() -> None:
    """Says what there is, a line each."""
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


def export_model(folder: Path, out: Path | None, best: bool, client: str | None = None) -> None:
    """Writes the global model, or a client's with what stays there, under the module's own names.

    Raises:
        RunFolderError: if the folder holds no such model, or was made in Python.
        ConfigError: if there is no such client, or the best model of one is asked for.
    """
    if best and client is not None:
        raise ConfigError(
            "what clients keep is not kept with the best model, only with the last one: leave out --best or --client."
        )
    read_identity(folder)
    if not (folder / CONFIG).is_file():
        raise RunFolderError(f"{folder} has no {CONFIG}: the run was made in Python; save run.model().state_dict().")
    if best:
        source = folder / BEST
        if not source.exists():
            raise RunFolderError(
                f"{folder} holds no best model, since no evaluation had a value to choose it by: leave out --best for "
                "the last model, or give the run test examples (data.test_share)."
            )
    else:
        found = sorted((folder / "checkpoints").glob("round-*.safetensors"))
        if not found:
            raise RunFolderError(f"{folder} holds no checkpoint yet, so there is no model to export.")
        source = found[-1]
    tensors, notes = read_tensors(source)
    runfile = load_runfile(str(folder / CONFIG))
    experiment = runfile.build()
    flat_module = FlatModule(experiment.task, Key.root(runfile.sections.run.seed))
    kept = State.from_tensors(int(notes["round"]), tensors)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        if client is None:
            flat_module.load(kept.model, None, kept.buffers)
        else:
            memory_of = partial(read_client, folder / MEMORY, kept.round)
            load_model(flat_module, kept, client, experiment.data.clients, memory_of)
    state: dict[str, Tensor] = {name: tensor.contiguous() for name, tensor in flat_module.module.state_dict().items()}
    path = out or folder / _model_name(best, client)
    whose = "the model" if client is None else f"the model of client {client!r}"
    with writing(path):
        write_atomically(path, safetensors.torch.save({name: tensor.clone() for name, tensor in state.items()}))
    screen = console()
    size = bytes_text(path.stat().st_size)
    screen.print(f"{path}: {whose} of round {notes['round']}, {len(state)} tensors, {size}.", soft_wrap=True)
    screen.print("load it with: module.load_state_dict(safetensors.torch.load_file(...))")
    if client is None and (stays := staying(flat_module)):
        screen.print(
            f"The {stays} in it are the initial ones, since each client keeps its own, and no client was evaluated "
            f"with these: headway export {shlex.quote(str(folder))} --client NAME writes a client's model.",
            markup=False,
            soft_wrap=True,
        )
    for warning in said:
        screen.print(str(warning.message), markup=False, soft_wrap=True)


def _model_name(best: bool, client: str | None) -> str:
    """The file that a model is written to; a client's name keeps its letters, digits, dots and dashes."""
    if client is not None:
        plain = "".join(letter if letter.isalnum() or letter in ".-" else "_" for letter in client)
        return f"model-{plain[:80]}.safetensors"
    return "best-model.safetensors" if best else "model.safetensors"

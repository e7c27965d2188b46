"""`headway export`: the model of a run as a plain PyTorch state dict."""

from __future__ import annotations

import contextlib
import shlex
import tomllib
import warnings
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import safetensors.torch
from torch import Tensor

from headway.client_state.sqlite_versions import read_client
from headway.core.algorithm import State
from headway.core.errors import ConfigError, RunFolderError
from headway.experiment.runfile import load_runfile
from headway.model.flat_module import FlatModule
from headway.model.personal_model import load_model, staying
from headway.model.task import Task
from headway.numerics.keys import Key
from headway.observe.run_folder import BEST, CONFIG, MEMORY, read_identity, read_tensors, write_atomically, writing
from headway.observe.text import bytes_text, console


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
    task, clients, seed = _parts(folder)
    flat_module = FlatModule(task, Key.root(seed))
    kept = State.from_tensors(int(notes["round"]), tensors)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        if client is None:
            flat_module.load(kept.model, None, kept.buffers)
        else:
            memory_of = partial(read_client, folder / MEMORY, kept.round)
            if clients is None:
                raise ConfigError(
                    f"what client {client!r} keeps lies at that client, and not at the server, whose run this is: "
                    "leave out --client."
                )
            load_model(flat_module, kept, client, clients, memory_of)
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
    for warning in caught:
        screen.print(str(warning.message), markup=False, soft_wrap=True)


def _parts(folder: Path) -> tuple[Task, Sequence[str] | None, int]:
    """The task of a run, its clients (`None` where they keep their memory themselves), and its seed."""
    path = folder / CONFIG
    if is_federation(path):
        from headway.federation.federation_file import load_federation

        job = load_federation(str(path)).jobs[0]
        return job.task, None, job.seed
    runfile = load_runfile(str(path))
    experiment = runfile.build()
    return experiment.task, experiment.data.clients, runfile.sections.run.seed


def is_federation(path: Path) -> bool:
    """Whether a file is that of a server, with a table [federation]."""
    with path.open("rb") as file, contextlib.suppress(tomllib.TOMLDecodeError, UnicodeDecodeError):
        return "federation" in tomllib.load(file)
    return False


def _model_name(best: bool, client: str | None) -> str:
    """The file that a model is written to; a client's name keeps its letters, digits, dots and dashes."""
    if client is not None:
        plain = "".join(letter if letter.isalnum() or letter in ".-" else "_" for letter in client)
        return f"model-{plain[:80]}.safetensors"
    return "best-model.safetensors" if best else "model.safetensors"

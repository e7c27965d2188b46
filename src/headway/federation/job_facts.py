"""The facts on which a server and its agents must agree before they work together, computed alike at both sides."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from headway.core.facts import EngineFacts
from headway.experiment.identity import frozen_digest, task_numbers
from headway.federation.http_api import PROTOCOL, TaskFacts, Versions
from headway.model.flat_module import FlatModule
from headway.numerics.keys import DRAWS
from headway.protocol import wire

NETWORK = EngineFacts("Network", clock=True, deployed=True)  # the abilities of an engine whose clients are agents


def own_versions() -> Versions:
    """The versions of this installation."""
    from headway import __version__

    torch_version = str(torch.__version__)
    return Versions(headway=__version__, torch=torch_version, protocol=PROTOCOL, wire=wire.VERSION, draws=DRAWS)


def task_facts(flat_module: FlatModule) -> TaskFacts:
    """The facts of the task and the model in a flat module."""
    task, numbers = flat_module.task, task_numbers(flat_module.task)
    averaged = task.buffers == "average" and flat_module.has_statistics
    return TaskFacts(
        layout=flat_module.layout.fingerprint,
        parameters=flat_module.layout.size,
        statistics=flat_module.statistics_layout.size if averaged else 0,
        frozen=frozen_digest(flat_module.frozen) if flat_module.frozen else "",
        loss=numbers["loss"],
        metrics=tuple(numbers["metrics"]),
        dtype=task.dtype,
        buffers=task.buffers,
    )


def version_differences(server: Versions, agent: Versions) -> Iterator[tuple[str, str]]:
    """The versions that must be the same and are not, as the two sides: interface, wire, draws from keys."""
    for name in ("protocol", "wire", "draws"):
        needed, found = getattr(server, name), getattr(agent, name)
        if needed != found:
            yield f"{name} {needed} (Headway {server.headway})", f"{name} {found} (Headway {agent.headway})"


def task_differences(server: TaskFacts, agent: TaskFacts) -> Iterator[tuple[str, str]]:
    """The facts of the task that differ, as the two sides."""
    for name in TaskFacts.model_fields:
        needed, found = getattr(server, name), getattr(agent, name)
        if needed != found:
            yield f"{name} = {_text(needed)}", f"{name} = {_text(found)}"


def _text(value: object) -> str:
    return ", ".join(map(str, value)) or "none" if isinstance(value, tuple) else str(value) or "none"

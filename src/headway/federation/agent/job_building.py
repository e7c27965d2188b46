"""An algorithm and a task from the names and numbers of a server: only what is installed here is found by its name."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

import headway.samplers
import headway.stages  # noqa: F401 (both register what jobs name)
from headway.core.algorithm import Algorithm
from headway.core.chain import Chain
from headway.core.errors import ConfigError
from headway.core.registry import build
from headway.core.sampler import samplers
from headway.data import FederatedData
from headway.experiment.runfile_schema import ModelSection, Sections, TargetScaleSection, TaskSection
from headway.experiment.target_scaling import scaled_task
from headway.experiment.task_section import task_of
from headway.experiment.user_modules import importable
from headway.federation.http_api import JobDescription
from headway.model.task import Task
from headway.protocol.quorum import Quorum
from headway.training.registered_trainers import trainers

PARTS = {"chain", "trainer", "sampler", "quorum"}
MOST_STAGES = 64
MOST_DEPTH = 6  # of tables within tables


def algorithm_of_names(described: Mapping[str, Any]) -> Algorithm:
    """The algorithm of a description by names and numbers, as `experiment.identity.described` makes it.

    Raises:
        ConfigError: for a name that is not installed here, or numbers that do not fit.
        ChainRefused: if the stages do not compose.
    """
    if set(described) != PARTS or not isinstance(described["chain"], list) or len(described["chain"]) > MOST_STAGES:
        raise ConfigError(
            f"an algorithm of a server needs {', '.join(sorted(PARTS))}, found {', '.join(sorted(described))[:200]}."
        )
    for text in _texts(described):
        if ":" in text:
            raise ConfigError(
                f"the job names {text!r}, which is code at the server's place: an agent takes only names that are "
                "installed on its own machine. Install the package that has it, with an entry point, at both sides."
            )
    try:
        return Algorithm(
            Chain.from_config(described["chain"]),
            trainers.build(described["trainer"]),
            samplers.build(described["sampler"]),
            build(Quorum, described["quorum"]),
        )
    except (TypeError, AttributeError, ValueError) as error:
        raise ConfigError(f"the algorithm of the job cannot be read ({error}).") from error


def task_of_names(model: Mapping[str, Any], section: Mapping[str, Any], data: FederatedData) -> Task:
    """The task of a job's model and task sections, on an agent's own data.

    Raises:
        ConfigError: if there is no model, or one that is not Headway's own by its name.
    """
    _check_names(model, section)
    return _task(model, section, data)


def own_task(
    model: Mapping[str, Any], section: Mapping[str, Any], folder: Path
) -> Callable[[JobDescription, FederatedData], Task] | None:
    """The maker of tasks of an agent's own sections, in the place of the job's; `None` where it has neither.

    folder: in which modules of its own are found.
    """
    if not model and not section:
        return None

    def make(job: JobDescription, data: FederatedData) -> Task:
        importable(str(folder))
        _check_names({} if model else job.model, {} if section else job.task_section)
        return _task(model or job.model, section or job.task_section, data)

    return make


def _check_names(model: Mapping[str, Any], section: Mapping[str, Any]) -> None:
    """Refuses code and folders that a server names."""
    for text in (*_texts(model), *_texts(section)):
        if ":" in text:
            raise ConfigError(
                f"the job names {text!r}, which is code that only the server has: name the same in the [model] or "
                "[task] of this agent's configuration, where the code is yours, or give Agent(task=...)."
            )
    if "path" in model:
        raise ConfigError("the job names a folder for its model, and an agent takes no path from a server.")


def _task(model: Mapping[str, Any], section: Mapping[str, Any], data: FederatedData) -> Task:
    """The task of two sections.

    Raises:
        ConfigError: if a key is wrong, or there is no model.
    """
    if not model:
        raise ConfigError(
            "neither the job nor this agent names a model: add [model] to the agent's configuration, or give "
            "Agent(task=...)."
        )
    try:
        sections = Sections.model_construct(
            model=ModelSection.model_validate(dict(model)), task=TaskSection.model_validate(dict(section))
        )
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        raise ConfigError(f"the task of the job: {'.'.join(map(str, first['loc']))}: {first['msg']}.") from error
    if sections.task.target_scale == "training":
        raise ConfigError(
            'task.target_scale is "training", and no client knows the targets of all: let the server name centre and '
            "scale."
        )
    task = task_of(sections, data)
    return (
        scaled_task(task, sections.task, data) if isinstance(sections.task.target_scale, TargetScaleSection) else task
    )


def _texts(value: Any, depth: int = 0) -> Iterator[str]:
    """All texts within tables and lists."""
    if depth > MOST_DEPTH:
        raise ConfigError(f"the job has tables within tables, {MOST_DEPTH} deep and more.")
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for each in value.values():
            yield from _texts(each, depth + 1)
    elif isinstance(value, list | tuple):
        for each in value:
            yield from _texts(each, depth + 1)

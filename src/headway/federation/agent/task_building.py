"""The task of a job at an agent: from the sections of the server, or its own in their place."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from headway.core.errors import ConfigError
from headway.data import ClientData, FederatedData
from headway.experiment.runfile_schema import ModelSection, Sections, TargetScaleSection, TaskSection
from headway.experiment.target_scaling import scaled_task
from headway.experiment.task_section import task_of
from headway.experiment.user_modules import importable
from headway.federation.agent.received_names import texts_in
from headway.federation.http_api import JobDescription
from headway.model.task import Task


def task_of_names(model: Mapping[str, Any], section: Mapping[str, Any], data: ClientData) -> Task:
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
    for text in (*texts_in(model), *texts_in(section)):
        if ":" in text:
            raise ConfigError(
                f"the job names {text!r}, which is code that only the server has: name the same in the [model] or "
                "[task] of this agent's configuration, where the code is yours, or give Agent(task=...)."
            )
    if "path" in model:
        raise ConfigError("the job names a folder for its model, and an agent takes no path from a server.")


def _task(model: Mapping[str, Any], section: Mapping[str, Any], data: ClientData) -> Task:
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

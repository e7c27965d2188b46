"""`task.target_scale` of a run file: by which numbers a regression scales its targets, and the line in the header."""

from __future__ import annotations

from headway.data import ClientData, examples_of
from headway.experiment.runfile_schema import TargetScaleSection, TaskSection
from headway.model.target_scale import TargetScale
from headway.model.task import Task


def scaled_task(task: Task, section: TaskSection, data: ClientData) -> Task:
    """The task with its targets scaled by the section, where it is a regression by the squared error.

    Raises:
        ConfigError: a scale that is not above 0, or as many numbers as do not fit.
    """
    scale = _scale(task, section, data)
    return task if scale is None else scale.apply(task)


def scale_notes(task: Task, section: TaskSection, data: ClientData) -> list[str]:
    """The lines of the header about the scale; none where no scale is asked for.

    task: as it is before it is scaled.
    """
    if section.target_scale is None:
        return []
    scale = _scale(task, section, data)
    if scale is None:
        why = "the targets are classes" if data.classes is not None else f"the loss is {task.loss!r}"
        return [f"task.target_scale changes nothing, since {why}"]
    by = ""
    if section.target_scale == "training":
        by = ", the mean and standard deviation of all training targets (known from sums over the clients)"
    return [f"{scale.summary}{by}; metrics are in the target's units, the loss is of the scaled target"]


def _scale(task: Task, section: TaskSection, data: ClientData) -> TargetScale | None:
    """The scale of the targets: that of the file, or the one of all training targets."""
    option = section.target_scale
    if option is None or data.classes is not None or task.loss != "mean_squared_error":
        return None
    if isinstance(option, TargetScaleSection):
        centre, scale = (tuple(each) if isinstance(each, list) else (each,) for each in (option.centre, option.scale))
        return TargetScale(centre, scale)
    return TargetScale.of(examples_of(data, 'task.target_scale = "training"'))

"""The task of a run file: model, loss and metrics, by name or as functions of one's own, and what follows from the
data."""

from __future__ import annotations

from headway.data import ClientData
from headway.experiment.key_paths import check_model, key_path
from headway.experiment.runfile_schema import Sections
from headway.experiment.user_modules import importable, own_loss, own_metric
from headway.model import zoo as models
from headway.model.losses import LOSSES
from headway.model.task import Task


def task_of(sections: Sections, data: ClientData) -> Task:
    """The task that the sections name.

    Raises:
        ConfigError: if the model cannot be made, or there is no such loss or metric.
    """
    section, model = sections.task, sections.model
    if model.path is not None:
        importable(model.path)
    multi_label = data.held is not None and data.held.multi_label
    several = "binary_cross_entropy" if multi_label else "mean_squared_error"
    loss = section.loss or (several if data.classes is None else "cross_entropy")
    of_quantities = data.classes is None and not multi_label
    usual = "mean_absolute_error" if loss == "mean_squared_error" or (is_own(loss) and of_quantities) else "accuracy"
    metrics = [usual] if section.metrics is None else section.metrics
    with key_path("model", given=model.model_extra):
        check_model(model.name, model.model_extra or {})
        make = models.factory(model.name, data.input_shape, _outputs(data, loss), model.model_extra)
    with key_path("task", Task.__name__):
        return Task(
            model=make,
            loss=own_loss(loss) if ":" in loss else loss,
            metrics=tuple(own_metric(metric) if ":" in metric else metric for metric in metrics),
            shared=None if section.shared is None else tuple(section.shared),
            buffers=section.buffers,
            dtype=section.dtype,
            output=section.output,
            example=data.example,
        )


def is_own(loss: str) -> bool:
    """Whether a loss is the user's or another package's."""
    return ":" in loss or (loss in LOSSES and LOSSES.package(loss) is not None)


def _outputs(known: ClientData, loss: str) -> int:
    """The number of outputs of a model: one for each class, or one for each target of an example; one for a mask.

    Where the examples lie with their clients, an example has one target.
    """
    if (data := known.held) is None:
        return known.classes if known.classes is not None and (loss == "cross_entropy" or is_own(loss)) else 1
    if data.classes is not None and (loss == "cross_entropy" or is_own(loss)):
        return data.classes
    if loss == "cross_entropy" and data.multi_label and not data.store.targets.is_floating_point():
        return 2  # at each place of an example
    return data.store.targets.shape[1] if data.store.targets.ndim == 2 else 1

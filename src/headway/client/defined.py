"""Which metrics the split leaves without a value, known before anything is trained; and which one decides."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from headway.client.losses import METRICS
from headway.client.task import Task
from headway.data import FederatedData

NOTHING = (
    "no client has test examples and there is no central test set (data.test_share, or central_share where the source "
    "has one)"
)
ONE_CLASS = "it needs both classes among the same test examples, and {} has one class"


def undefined_metrics(task: Task, data: FederatedData) -> dict[str, str]:
    """The metrics, the loss among them, that have no value anywhere, each with the reason as a clause.

    A metric is looked at where it decides: on the central test set where there is one, else on the clients' test parts.
    """
    if data.central is None and not bool(data.test_sizes.any()):
        return dict.fromkeys((*task.metric_names, "loss"), NOTHING)
    if task.scorers.get("auroc") is not METRICS["auroc"]:
        return {}
    if data.central is not None:
        whole = _two_classes(data.central.targets)
        return {} if whole else {"auroc": ONE_CLASS.format("the central test set")}
    parts = (data.store.targets[index] for index in data.test.values())
    return {} if any(map(_two_classes, parts)) else {"auroc": ONE_CLASS.format("each client's test part")}


def deciding(task: Task, undefined: Mapping[str, str]) -> str:
    """The metric that decides which model is best: the first that has a value; the task's own if none has."""
    return next((name for name in (*task.metric_names, "loss") if name not in undefined), task.headline)


def _two_classes(targets: Tensor) -> bool:
    """Whether some targets are above 0 and some are not."""
    positive = targets > 0
    return bool(positive.any()) and not bool(positive.all())

"""Metrics that the split leaves without a value, known before training; and the metric that decides."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from headway.data import FederatedData
from headway.model.metrics import POOLED
from headway.model.task import Task

AREA, POOLED_AREA = "auroc", f"{POOLED}auroc"
NAMED = 5  # clients that a sentence names
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
    undefined: dict[str, str] = {}
    parts = [data.store.targets[index] for index in data.test.values() if len(index)] if data.central is None else []
    if POOLED_AREA in task.metrics and data.central is None and not _two_classes(torch.cat(parts)):
        undefined[POOLED_AREA] = ONE_CLASS.format("the test part of all clients together")
    if AREA in task.metrics and data.central is None and not any(map(_two_classes, parts)):
        instead = "" if POOLED_AREA in (*task.metrics, *undefined) else f", {POOLED_AREA} takes all clients' together"
        undefined[AREA] = ONE_CLASS.format("each client's test part") + instead
    if data.central is not None and not _two_classes(data.central.targets):
        undefined |= {
            name: ONE_CLASS.format("the central test set") for name in (AREA, POOLED_AREA) if name in task.metrics
        }
    return undefined


def undefined_at(task: Task, data: FederatedData) -> str | None:
    """The clients at which the area under the curve has no value, in a sentence, where it has one at others."""
    tested = {client: data.store.targets[index] for client, index in data.test.items() if len(index)}
    without = [client for client, targets in tested.items() if not _two_classes(targets)]
    if AREA not in task.metrics or not 0 < len(without) < len(tested):
        return None
    names = ", ".join(without[:NAMED]) + (f" and {len(without) - NAMED} more" if len(without) > NAMED else "")
    return (
        f"{AREA} is not defined at {len(without)} of {len(tested)} clients, whose test parts have one class ({names}): "
        f"the mean is over the others; {POOLED_AREA} takes all clients' examples together"
    )


def deciding(task: Task, undefined: Mapping[str, str]) -> str:
    """The metric that decides which model is best: the first that has a value; the task's own if none has."""
    return next((name for name in (*task.metric_names, "loss") if name not in undefined), task.headline)


def _two_classes(targets: Tensor) -> bool:
    """Whether some targets are above 0 and some are not: of several labels, of one of them at least."""
    labels = targets.reshape(len(targets), -1) if targets.ndim == 2 else targets.reshape(-1, 1)
    positive = labels > 0
    return bool((positive.any(0) & ~positive.all(0)).any())

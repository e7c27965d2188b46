"""The metrics of a model that always gives the same answer, to which a model's metrics are compared."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from headway.client.evaluation import mean_metrics
from headway.core.errors import HeadwayError
from headway.data import FederatedData
from headway.model.metrics import Metric
from headway.model.target_scale import ScaledSquaredError
from headway.model.task import Task

MANY = 1_000  # clients, above which only what can be taken over all examples at once is
AT_ONCE = ("accuracy", "mean_absolute_error", "loss")  # whose mean over clients, by examples, is that over examples
LEAST = 1e-6  # probability of a class that no training example has, so that its loss is finite


@dataclass(frozen=True)
class Constant:
    """The best constant answer, and its metrics.

    answer: in words.  clients: over the clients' own test parts, weighted by examples, as a run reports them.
    central: on the central test set.  All empty where no constant answer is defined.
    """

    answer: str = ""
    clients: Mapping[str, float] = field(default_factory=dict)
    central: Mapping[str, float] = field(default_factory=dict)


def constant_metrics(task: Task, data: FederatedData) -> Constant:
    """The metrics of always answering the commonest class, or the mean of the target.

    The answer is that of all training examples together: log p for cross-entropy, log p / (1 - p) of each label for
    binary cross-entropy, the mean for the squared error.  Metrics and losses of one's own are left out, since what a
    model gives them is not known.
    """
    rows = torch.cat(list(data.train.values()))
    loss = "mean_squared_error" if isinstance(task.loss, ScaledSquaredError) else task.loss
    made = None if not isinstance(loss, str) else _answer(loss, data.store.targets[rows], data)
    if made is None:
        return Constant()
    answer, output = made
    named = {name: metric for name, metric in task.scorers.items() if name in task.metrics}
    pooled = task.pooled_scorers
    parts = [index for index in data.test.values() if len(index)]
    clients: dict[str, float] = {}
    if parts:
        together = _scores(task, {**named, **pooled}, output, data.store.targets[torch.cat(parts)])
        clients = {name: value for name, value in together.items() if name in (*AT_ONCE, *pooled)}
    if len(parts) <= MANY:
        each = {str(at): _scores(task, named, output, data.store.targets[index]) for at, index in enumerate(parts)}
        clients |= mean_metrics(each, {str(at): len(index) for at, index in enumerate(parts)})
    central = {} if data.central is None else _scores(task, {**named, **pooled}, output, data.central.targets)
    return Constant(answer, *({k: v for k, v in found.items() if v == v} for found in (clients, central)))


def _answer(loss: str, targets: Tensor, data: FederatedData) -> tuple[str, Tensor] | None:
    """The answer in words, and the model's output for one example; `None` where a loss has no such answer."""
    if loss == "cross_entropy" and not targets.is_floating_point() and data.classes:
        counts = torch.bincount(targets.flatten().long(), minlength=data.classes).double()
        best = int(counts.argmax())
        names = data.class_names
        named = f"class {names[best]}" if names and best < len(names) else f"class {best}"
        shape = [data.classes, *([1] * (targets.ndim - 1))]
        return f"always {named}", (counts / counts.sum()).clamp_min(LEAST).log().view(shape)
    if loss == "binary_cross_entropy":
        share = targets.double().mean(0).clamp(LEAST, 1 - LEAST)
        word = "always the commonest answer of each label" if targets.ndim > 1 else f"always class {int(share > 0.5)}"
        return word, (share / (1 - share)).log()
    if loss == "mean_squared_error":
        return "always the mean of the target", targets.double().mean(0)
    return None


def _scores(task: Task, scorers: Mapping[str, Metric], output: Tensor, targets: Tensor) -> dict[str, float]:
    """The built-in metrics and the loss of one output for all examples."""
    if targets.ndim > 1 and output.ndim == targets.ndim:  # classes, then the places of a mask
        output = output.expand(output.shape[0], *targets.shape[1:])
    outputs = output.expand(len(targets), *output.shape)
    found = {}
    try:
        for name, metric in scorers.items():
            found[name] = float(metric(outputs, targets))
        found["loss"] = float(task.criterion.per_example(outputs, targets).double().mean())
    except (HeadwayError, RuntimeError, ValueError, IndexError):  # a metric that these targets do not have
        return {}
    return found

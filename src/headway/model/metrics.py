"""Metrics of predictions: one client's, or of all clients' examples pooled.

Three kinds of answers are distinguished by the shapes of outputs and targets:

    classes    outputs `[N, C, ...]`, targets `[N, ...]`: the predicted class is the largest on axis 1, or on the last
               axis where only that fits.  Pixels and positions count as examples.
    binary     outputs `[N]`, `[N, 1]` or as the targets (masks): positive where the logit is above 0.
    labels     outputs `[N, L]`, targets `[N, L]`: L binary answers for each example.  A metric is computed for each
               label, and is the mean over the labels for which it is defined.

`pooled_NAME` is the metric NAME over the test examples of all clients together, where `NAME` is the mean over clients,
weighted by their examples.

Another package adds a metric by an entry point in the group `headway.metrics`, a module of one's own by the decorator
`register_metric`: a function of (outputs, targets) that gives one number.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Literal, TypeGuard

import torch
from torch import Tensor

from headway.core.errors import ConfigError
from headway.core.plugins import NamedRegistry, own_name
from headway.model.losses import aligned, same_but_ones

Metric = Callable[[Tensor, Tensor], float]
POOLED = "pooled_"
NAN = float("nan")


def kind_of(outputs: Tensor, targets: Tensor) -> Literal["classes", "binary", "labels"]:
    """The meaning of outputs and targets of these shapes: see the module.

    Raises:
        ConfigError: if they cannot be paired.
    """
    if outputs.ndim == targets.ndim == 2 and outputs.shape == targets.shape and targets.shape[1] > 1:
        return "labels"
    if same_but_ones(outputs.shape, targets.shape):
        return "binary"
    if class_axes(outputs, targets):
        return "classes"
    raise ConfigError(
        f"outputs {list(outputs.shape)} and targets {list(targets.shape)} are no classes (on axis 1 of the outputs, "
        "one label for each place), and do not pair up one to one either."
    )


def class_axes(outputs: Tensor, targets: Tensor) -> list[int]:
    """The axes of the outputs that may be the classes, in order of preference: axis 1, then the last.

    >>> class_axes(torch.zeros(5, 3, 8, 8), torch.zeros(5, 8, 8)), class_axes(torch.zeros(5, 8, 3), torch.zeros(5, 8))
    ([1], [2])
    """
    axes = sorted({1, outputs.ndim - 1}) if outputs.ndim > 1 and outputs.ndim == targets.ndim + 1 else []
    return [axis for axis in axes if outputs.shape[:axis] + outputs.shape[axis + 1 :] == targets.shape]


def accuracy(outputs: Tensor, targets: Tensor) -> float:
    """The share of right answers: of examples, pixels or labels."""
    predicted, targets = _answers(outputs, targets)
    return float((predicted == targets).double().mean())


def balanced_accuracy(outputs: Tensor, targets: Tensor) -> float:
    """The mean over the classes that occur of the share that is recognised."""
    return _mean_over_labels(outputs, targets, _recognised)


def intersection_over_union(outputs: Tensor, targets: Tensor) -> float:
    """The Jaccard index of a class: places where it is and is predicted, over places with either.

    Of classes: the mean over those that occur in the targets or the predictions, class 0 included.  Of a binary answer:
    of the positive class, NaN where there is none and none is predicted.
    """
    binary = kind_of(outputs, targets) != "classes"
    return _mean_over_labels(outputs, targets, lambda o, t: _overlap(*_answers(o, t), binary))


def auroc(outputs: Tensor, targets: Tensor) -> float:
    """The probability that a positive example scores above a negative one, ties counting half.

    NaN where the targets hold only one class: the area is then not defined.

    Raises:
        ConfigError: if the model has more than two classes.
    """
    return _mean_over_labels(outputs, targets, _area)


def mean_absolute_error(outputs: Tensor, targets: Tensor) -> float:
    """The mean absolute difference, in the units of the target; over all targets of an example."""
    return float((aligned(outputs, targets).double() - targets.double()).abs().mean())


def _as_metric(name: str | None, function: Any) -> tuple[str, Metric]:
    if not callable(function):
        raise ConfigError(
            f"a metric is a function of (outputs, targets), found a value of type {type(function).__name__}."
        )
    name, function = own_name(name, function)
    if name.startswith(POOLED) or name == "loss":
        raise ConfigError(f'a metric cannot be named {name!r}: "{POOLED}NAME" and "loss" have a meaning of their own.')
    return name, function


METRICS: NamedRegistry[Metric] = NamedRegistry("metric", "headway.metrics", _as_metric)
register_metric = METRICS.register
for _metric in (accuracy, balanced_accuracy, intersection_over_union, auroc, mean_absolute_error):
    register_metric(_metric)


def is_known_metric(name: str) -> bool:
    """Whether a metric has this name, `pooled_` before it or not."""
    return name.removeprefix(POOLED) in METRICS


def known_metrics() -> list[str]:
    """The names of all metrics, the pooled ones last."""
    return [*METRICS, *(f"{POOLED}{name}" for name in METRICS)]


def is_pooled(metric: str | Metric) -> TypeGuard[str]:
    """Whether a metric is one over all clients' examples together."""
    return isinstance(metric, str) and metric.startswith(POOLED)


def measured_on(metric: str, central: bool) -> str:
    """The examples that a metric is measured on, as a phrase; central: where there is a central test set.

    >>> measured_on("auroc", central=False), measured_on("pooled_auroc", central=False)
    ("over the clients' own test parts", "over all clients' test examples together")
    """
    if central:
        return "on the central test set"
    return "over all clients' test examples together" if is_pooled(metric) else "over the clients' own test parts"


def named_metric(name: str) -> Metric:
    """The metric of a name."""
    return METRICS[name.removeprefix(POOLED)]


def own_metric(metric: str | Metric) -> Metric | None:
    """The function of a metric that is the user's or another package's; `None` for Headway's metrics."""
    if not isinstance(metric, str):
        return metric
    return None if METRICS.package(metric.removeprefix(POOLED)) is None else named_metric(metric)


def _answers(outputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """The predicted classes, in the shape of the targets, and the targets."""
    if kind_of(outputs, targets) == "classes":
        return outputs.argmax(class_axes(outputs, targets)[0]), targets
    return (aligned(outputs, targets) > 0).to(targets.dtype), targets


def _mean_over_labels(outputs: Tensor, targets: Tensor, metric: Metric) -> float:
    """The metric of the one answer; of several labels the mean over those for which it is defined."""
    if kind_of(outputs, targets) != "labels":
        return metric(outputs, targets)
    each = [metric(o, t) for o, t in zip(outputs.unbind(1), targets.unbind(1), strict=True)]
    return _mean_of_defined(each)


def _recognised(outputs: Tensor, targets: Tensor) -> float:
    predicted, targets = _answers(outputs, targets)
    right = (predicted == targets).double()
    return float(torch.stack([right[targets == label].mean() for label in targets.unique()]).mean())


def _overlap(predicted: Tensor, targets: Tensor, binary: bool) -> float:
    classes = [1] if binary else torch.cat([predicted.unique(), targets.unique()]).unique().tolist()
    shares = []
    for label in classes:
        there, found = targets == label, predicted == label
        either = int((there | found).sum())
        shares.append(int((there & found).sum()) / either if either else NAN)
    return _mean_of_defined(shares)


def _area(outputs: Tensor, targets: Tensor) -> float:
    if kind_of(outputs, targets) == "classes":
        classes = outputs.movedim(class_axes(outputs, targets)[0], 0)
        if len(classes) > 2:
            raise ConfigError(f"the metric 'auroc' is for two classes, and the model has {len(classes)} outputs.")
        scores = (classes[1] - classes[0]).double()
    else:
        scores = aligned(outputs, targets).double()
    scores, positive = scores.flatten(), targets.flatten() > 0
    count, others = int(positive.sum()), int((~positive).sum())
    if count == 0 or others == 0:
        return NAN
    _values, inverse, sizes = scores.unique(return_inverse=True, return_counts=True)
    last = sizes.cumsum(0).double()
    ranks = (last - (sizes.double() - 1) / 2)[inverse]  # equal scores share their mean rank
    return float((ranks[positive].sum() - count * (count + 1) / 2) / (count * others))


def _mean_of_defined(values: Iterable[float]) -> float:
    known = [value for value in values if value == value]
    return sum(known) / len(known) if known else NAN

"""Per-example losses, and metrics of one client's predictions."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from headway.core.errors import ConfigError

PerExample = Callable[[Tensor, Tensor], Tensor]
TALL, NARROW = 256, 16  # rows and columns of a matrix that torch goes through three times as fast by columns


@dataclass(frozen=True)
class Loss:
    """A loss as a value per example `[B]`, and as the mean over a batch where that is cheaper at once."""

    per_example: PerExample
    mean: Callable[[Tensor, Tensor], Tensor]


def _binary(outputs: Tensor, targets: Tensor, reduction: str = "none") -> Tensor:
    logits = outputs.squeeze(-1) if outputs.ndim > targets.ndim else outputs
    return F.binary_cross_entropy_with_logits(logits, targets.to(logits.dtype), reduction=reduction)


def _squared(outputs: Tensor, targets: Tensor) -> Tensor:
    aligned = outputs.squeeze(-1) if outputs.ndim > targets.ndim else outputs
    return (
        ((aligned - targets.to(aligned.dtype)) ** 2).flatten(1).mean(1)
        if aligned.ndim > 1
        else (aligned - targets.to(aligned.dtype)) ** 2
    )


def _cross_entropy(outputs: Tensor, targets: Tensor) -> Tensor:
    """As torch has it, which costs more for many clients side by side: the same bits, but for tall narrow matrices."""
    if targets.is_floating_point():
        return F.cross_entropy(outputs, targets, reduction="none")
    if outputs.ndim == 2 and outputs.is_cpu and len(outputs) >= TALL and outputs.shape[1] <= NARROW:
        logs = F.log_softmax(outputs.T.contiguous(), dim=0).T
    else:
        logs = F.log_softmax(outputs, dim=1)
    return -logs.gather(1, targets.unsqueeze(1)).squeeze(1)


LOSSES: dict[str, Loss] = {
    "cross_entropy": Loss(_cross_entropy, F.cross_entropy),
    "binary_cross_entropy": Loss(_binary, lambda outputs, targets: _binary(outputs, targets, "mean")),
    "mean_squared_error": Loss(_squared, lambda outputs, targets: _squared(outputs, targets).mean()),
}


def _labels(outputs: Tensor, targets: Tensor) -> Tensor:
    """The predicted class: of logits `[N, classes]`, or of one binary logit."""
    if outputs.ndim > targets.ndim and outputs.shape[-1] > 1:
        return outputs.argmax(-1)
    return (outputs.reshape(targets.shape) > 0).to(targets.dtype)


def accuracy(outputs: Tensor, targets: Tensor) -> float:
    """The share of examples whose predicted class is right."""
    return float((_labels(outputs, targets) == targets).double().mean())


def balanced_accuracy(outputs: Tensor, targets: Tensor) -> float:
    """The mean over the classes that occur of the share that is recognised."""
    right = (_labels(outputs, targets) == targets).double()
    return float(torch.stack([right[targets == label].mean() for label in targets.unique()]).mean())


def auroc(outputs: Tensor, targets: Tensor) -> float:
    """The probability that a positive example scores above a negative one, ties counting half.

    NaN where the targets hold only one class: the area is then not defined.

    Raises:
        ConfigError: if the model tells more than two classes apart.
    """
    if outputs.ndim > targets.ndim and outputs.shape[-1] > 2:
        raise ConfigError(f"the metric 'auroc' is for two classes, and the model has {outputs.shape[-1]} outputs.")
    if outputs.ndim > targets.ndim and outputs.shape[-1] == 2:
        scores = (outputs[..., 1] - outputs[..., 0]).double()
    else:
        scores = outputs.reshape(targets.shape).double()
    positive = targets > 0
    count, others = int(positive.sum()), int((~positive).sum())
    if count == 0 or others == 0:
        return float("nan")
    _values, inverse, sizes = scores.unique(return_inverse=True, return_counts=True)
    last = sizes.cumsum(0).double()
    ranks = (last - (sizes.double() - 1) / 2)[inverse]  # equal scores share their mean rank
    return float((ranks[positive].sum() - count * (count + 1) / 2) / (count * others))


def mean_absolute_error(outputs: Tensor, targets: Tensor) -> float:
    """The mean absolute difference, in the units of the target."""
    return float((outputs.reshape(targets.shape).double() - targets.double()).abs().mean())


METRICS: dict[str, Callable[[Tensor, Tensor], float]] = {
    "accuracy": accuracy,
    "balanced_accuracy": balanced_accuracy,
    "auroc": auroc,
    "mean_absolute_error": mean_absolute_error,
}

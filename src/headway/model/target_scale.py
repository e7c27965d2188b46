"""Regression of targets of any size: learned as (y - centre) / scale, predicted and measured in their own units."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from headway.core.errors import ConfigError
from headway.data import FederatedData
from headway.data.dataset.client_index import ClientIndex
from headway.model.losses import LOSSES, aligned
from headway.model.task import Task


@dataclass(frozen=True)
class TargetScale:
    """Targets y are learned as (y - centre) / scale, each of several targets `[N, T]` by its own two numbers.

    centre, scale: one number for each target; a single one is for all.

    Raises:
        ConfigError: different numbers of them, or a scale that is not above 0.

    >>> scale = TargetScale((100.0,), (20.0,))
    >>> task = scale.apply(Task(lambda: nn.Linear(2, 1), "mean_squared_error", ("mean_absolute_error",)))
    >>> task.criterion.per_example(torch.tensor([[140.0]]), torch.tensor([100.0]))
    tensor([4.])
    """

    centre: tuple[float, ...]
    scale: tuple[float, ...]

    def __post_init__(self) -> None:
        if len(self.centre) != len(self.scale) or not all(0 < scale < float("inf") for scale in self.scale):
            raise ConfigError(
                "task.target_scale needs as many centres as scales, and scales above 0, found centre "
                f"{self.centre} and scale {self.scale}."
            )

    @classmethod
    def of(cls, data: FederatedData) -> TargetScale:
        """The mean and standard deviation (1 where it is 0) of all clients' training targets.

        They follow from three sums over the clients (of ones, of y, and of its squared distance to the mean), which a
        federation can add up without seeing any client's own.  Test parts are not looked at.

        Raises:
            ConfigError: the targets are classes.

        >>> data = FederatedData.from_clients({"a": ([[0.0]], [3.0]), "b": ([[1.0], [2.0]], [4.0, 8.0])})
        >>> TargetScale.of(data).centre
        (5.0,)
        """
        targets = data.store.targets
        if data.classes is not None or not targets.is_floating_point():
            raise ConfigError("task.target_scale is for the targets of a regression, and these are classes.")
        columns = targets if targets.ndim == 2 else targets.flatten().unsqueeze(1)
        each = columns.shape[1]
        rows = len(columns) // len(targets)
        blocks = [targets[index].double().reshape(-1, each) for index in ClientIndex.of(data.train).blocks()]
        count = int(data.train_sizes.sum()) * rows
        mean = torch.stack([block.sum(0) for block in blocks]).sum(0) / count
        spread = (torch.stack([((block - mean) ** 2).sum(0) for block in blocks]).sum(0) / count).sqrt()
        return cls(tuple(mean.tolist()), tuple(torch.where(spread > 0, spread, 1.0).tolist()))

    @property
    def summary(self) -> str:
        """The two numbers in words."""
        formulas = [f"(y - {centre:.6g}) / {scale:.6g}" for centre, scale in zip(self.centre, self.scale, strict=True)]
        return f"the target y is learned as {', '.join(formulas[:4])}{', ...' if len(formulas) > 4 else ''}"

    def apply(self, task: Task) -> Task:
        """The task with a model that predicts in the units of the targets, and the loss of the scaled ones.

        Raises:
            ConfigError: the loss is not the squared error, or the task takes a part of the model's output.
        """
        if task.loss != "mean_squared_error":
            raise ConfigError(f'task.target_scale goes with loss = "mean_squared_error", found {task.loss!r}.')
        if task.output is not None:
            raise ConfigError("task.target_scale goes with a model that gives one tensor: leave task.output out.")
        make = task.model
        return replace(task, model=lambda: self._scaled(make), loss=ScaledSquaredError(self))

    def _scaled(self, make: Callable[[], Any]) -> Any:
        made = make()
        if not isinstance(made, nn.Module):
            return made  # which Task refuses
        units = TargetUnits(self.centre, self.scale)
        if type(made) is nn.Sequential:
            scaled = nn.Sequential()
            for name, child in [*made.named_children(), ("target", units)]:
                scaled.add_module(name, child)
            return scaled
        return ScaledModel(made, units)


class TargetUnits(nn.Module):
    """The last layer: outputs, times the scale of the targets, plus their centre; neither is trained."""

    def __init__(self, centre: tuple[float, ...], scale: tuple[float, ...]) -> None:
        super().__init__()
        self.centre = nn.Parameter(torch.tensor(centre), requires_grad=False)  # frozen: in a saved model, never sent
        self.scale = nn.Parameter(torch.tensor(scale), requires_grad=False)

    def forward(self, outputs: Tensor) -> Tensor:
        """Predictions in the units of the targets."""
        if not isinstance(outputs, Tensor):
            raise ConfigError(f"task.target_scale needs a model that gives one tensor, found {type(outputs).__name__}.")
        return outputs * self.scale + self.centre


class ScaledModel(nn.Module):
    """A model, and the units of the targets after it."""

    def __init__(self, net: nn.Module, target: TargetUnits) -> None:
        super().__init__()
        self.net, self.target = net, target

    def forward(self, *inputs: Tensor) -> Tensor:
        """Predictions in the units of the targets."""
        predicted: Tensor = self.target(self.net(*inputs))
        return predicted


@dataclass(frozen=True)
class ScaledSquaredError:
    """The squared error of the scaled targets, ((prediction - y) / scale)^2, per example."""

    target: TargetScale

    def __call__(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """The loss of each example, `[B]`."""
        predicted = aligned(outputs, targets)
        each = self.target.scale
        scale = each[0] if len(each) == 1 else predicted.new_tensor(each)
        return LOSSES["mean_squared_error"].per_example(predicted / scale, targets.to(predicted.dtype) / scale)

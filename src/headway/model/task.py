"""The task: model, loss, metrics, and the parameters that are shared."""

from __future__ import annotations

import copy
import fnmatch
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.parameter import UninitializedBuffer, UninitializedParameter

from headway.core.errors import ConfigError, nearest
from headway.model.losses import LOSSES, Loss, PerExample
from headway.model.metrics import METRICS, Metric, is_known_metric, is_pooled, known_metrics, named_metric, own_metric
from headway.model.random_state import GENERATORS, outside_seeded
from headway.numerics.keys import Key


@dataclass(frozen=True)
class Task:
    """The task that every client trains.

    model: a factory of the module, with the initial weights drawn from the run's key.  What it makes is
        copied, so that it may give one (pretrained) module again and again.
    loss: a name ("cross_entropy", "binary_cross_entropy", "mean_squared_error"), or a function of
        (outputs, targets) that gives one loss per example, `[B]`; where it gives several, `[B, ...]` (labels, pixels),
        an example's loss is their mean.
    metrics: names ("accuracy", "balanced_accuracy", "intersection_over_union", "auroc", "mean_absolute_error"; with
        "pooled_" before it, over all clients' test examples together) or named functions of (outputs, targets) of one
        client.  The first one decides which model is best.  See `headway.model.metrics`.
    output: which part of what the model returns the loss and the metrics take, where that is a dict (its key), a
        tuple (the place) or an object (its field); a tensor is taken as it is.
    shared: patterns of the parameters that are sent; `None` for all.  The others stay with each client.
    buffers: what becomes of floating-point buffers such as BatchNorm's statistics: "local" (never sent) or
        "average".  A model that has some must choose.
    example: one input `[1, ...]` that gives lazy layers (`nn.LazyLinear`) their shapes; a run takes one of its data.
    dtype: the number type of the model; a run converts floating-point inputs and targets to it.

    Raises:
        ConfigError: for an unknown loss or metric, two metrics of one name, a text where a tuple of texts is
            needed, or a model that is no factory.

    >>> Task(model=lambda: nn.Linear(4, 2), metrics=("accuracy",)).metric_names
    ('accuracy',)
    """

    model: Callable[[], nn.Module]
    loss: str | PerExample = "cross_entropy"
    metrics: tuple[str | Metric, ...] = ("accuracy",)
    shared: tuple[str, ...] | None = None
    buffers: Literal["local", "average"] | None = None
    dtype: Literal["float32", "float64"] = "float32"
    output: str | int | None = None
    example: Tensor | None = field(default=None, repr=False, compare=False)

    def __post_init__(self) -> None:
        if isinstance(self.model, nn.Module) or not callable(self.model):
            raise ConfigError(f"Task.model must be a factory, such as lambda: net, found {_kind(self.model)}.")
        for option, value in (("metrics", self.metrics), ("shared", self.shared)):
            if isinstance(value, str):
                raise ConfigError(f"Task.{option} must be a tuple of texts, such as ({value!r},), found {value!r}.")
        if isinstance(self.loss, str) and self.loss not in LOSSES:
            raise ConfigError(f"there is no loss named {self.loss!r}{LOSSES.near(self.loss)}.")
        for metric in self.metrics:
            if isinstance(metric, str) and not is_known_metric(metric):
                near = METRICS.near(metric, known_metrics())
                raise ConfigError(f"there is no metric named {metric!r}{near}.")
        names = [function_name(metric) for metric in self.metrics]
        if twice := [name for name in names if names.count(name) > 1]:
            raise ConfigError(f"two metrics are named {twice[0]!r}; keep one, or give each function its own name.")
        if self.buffers not in (None, "local", "average"):
            raise ConfigError(f'Task.buffers must be "local" or "average", found {self.buffers!r}.')
        if self.dtype not in ("float32", "float64"):
            raise ConfigError(f'Task.dtype must be "float32" or "float64", found {self.dtype!r}.')
        if self.output is not None and (isinstance(self.output, bool) or not isinstance(self.output, (str, int))):
            raise ConfigError(f"Task.output must be a name or a place, found {self.output!r}.")

    @cached_property
    def criterion(self) -> Loss:
        """The loss per example and over a batch."""
        if isinstance(self.loss, str):
            return LOSSES[self.loss]
        return Loss.of(self.loss)

    @cached_property
    def scorers(self) -> dict[str, Metric]:
        """The metrics of one client by name."""
        return {function_name(metric): self._scorer(metric) for metric in self.metrics if not is_pooled(metric)}

    @cached_property
    def pooled_scorers(self) -> dict[str, Metric]:
        """The metrics of all clients' examples together, by name."""
        return {metric: self._scorer(metric) for metric in self.metrics if is_pooled(metric)}

    def _scorer(self, metric: str | Metric) -> Metric:
        """A metric as it is called; those by name take the likeliest class where targets are probabilities."""
        if not isinstance(metric, str):
            return metric
        named = named_metric(metric)
        if self.loss != "cross_entropy":
            return named

        def score(outputs: Tensor, targets: Tensor) -> float:
            return named(outputs, targets.argmax(1) if self.has_class_probabilities(outputs, targets) else targets)

        return score

    def has_class_probabilities(self, outputs: Tensor, targets: Tensor) -> bool:
        """Whether the targets are a probability for each class, such as one-hot vectors."""
        return self.loss == "cross_entropy" and targets.is_floating_point() and targets.shape == outputs.shape

    @property
    def own_functions(self) -> tuple[Callable[..., Any], ...]:
        """The loss and metrics that are functions of the user or of another package."""
        functions = [self.criterion.function, *map(own_metric, self.metrics)]
        return tuple(function for function in functions if function is not None)

    @property
    def metric_names(self) -> tuple[str, ...]:
        """The names of the metrics, the deciding one first."""
        return tuple(function_name(metric) for metric in self.metrics)

    @property
    def headline(self) -> str:
        """The metric that decides which model is best: the first one, or the loss where there is none."""
        return (*self.metric_names, "loss")[0]

    @property
    def number(self) -> torch.dtype:
        """The torch number type."""
        return torch.float64 if self.dtype == "float64" else torch.float32

    def build(self, key: Key) -> nn.Module:
        """The module with its initial weights, a pure function of the key.

        Raises:
            ConfigError: if nothing is trainable or shared, a pattern matches nothing, or the model has statistics
                and no policy for them.
        """
        with GENERATORS, torch.random.fork_rng(devices=[]):
            torch.manual_seed(key.derive("model").seed())
            with outside_seeded(key.derive("model").seed()):
                made = self.model()
            if not isinstance(made, nn.Module):
                raise ConfigError(f"Task.model must make a torch.nn.Module, found {_kind(made)}.")
            module = copy.deepcopy(without_graph(completed(made, self.example))).to(self.number)
        if not shared_parameters(module, self.shared):
            what = "has no trainable parameter" if self.shared is None else f"has no parameter like {self.shared}"
            raise ConfigError(f"the model {type(module).__name__} {what}, so there is nothing to learn together.")
        for pattern in self.shared or ():
            if not shared_parameters(module, (pattern,)):
                names = [name for name, _ in module.named_parameters()]
                raise ConfigError(f"Task.shared: no parameter is like {pattern!r}{nearest(pattern, names)}.")
        if self.buffers is None and floating_buffers(module):
            norms = sorted({type(m).__name__ for m in module.modules() if isinstance(m, _NormBase)})
            raise ConfigError(
                f"the model keeps floating-point buffers ({', '.join(norms) or ', '.join(floating_buffers(module))}), "
                'and clients that differ have different ones: choose buffers = "local" (each client keeps its own, '
                'they are never sent) or buffers = "average".'
            )
        return module


def shared_parameters(module: nn.Module, patterns: tuple[str, ...] | None) -> dict[str, nn.Parameter]:
    """The trainable parameters that are sent."""
    return {
        name: parameter
        for name, parameter in module.named_parameters()
        if parameter.requires_grad
        and parameter.is_floating_point()
        and (patterns is None or any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns))
    }


def floating_buffers(module: nn.Module) -> dict[str, Tensor]:
    """The persistent buffers that can be averaged; integer ones (counters) never are, and frozen ones do not move."""
    saved = module.state_dict(keep_vars=True)
    still = {id(buffer) for part in still_norms(module) for buffer in part.buffers()}
    return {
        name: buffer
        for name, buffer in module.named_buffers()
        if name in saved and buffer.is_floating_point() and id(buffer) not in still
    }


def frozen_tensors(module: nn.Module) -> dict[str, Tensor]:
    """The parameters that are not trained, and the floating-point buffers of frozen normalising layers."""
    still = {id(buffer) for part in still_norms(module) for buffer in part.buffers() if buffer.is_floating_point()}
    buffers = {name: buffer for name, buffer in module.named_buffers() if id(buffer) in still}
    return {name: p.detach() for name, p in module.named_parameters() if not p.requires_grad} | buffers


def still_norms(module: nn.Module) -> list[nn.Module]:
    """The normalising layers with statistics all of whose parameters are frozen: their statistics stay as they are."""
    norms = [part for part in module.modules() if isinstance(part, _NormBase) and part.track_running_stats]
    return [p for p in norms if (own := list(p.parameters())) and not any(each.requires_grad for each in own)]


def completed(module: nn.Module, example: Tensor | None) -> nn.Module:
    """The module itself, its lazy layers (`nn.LazyLinear`) given their shapes by a call on one input `[1, ...]`.

    Raises:
        ConfigError: if there is none, or the model fails on it.
    """
    state = [*module.named_parameters(), *module.named_buffers()]
    lazy = [name for name, tensor in state if isinstance(tensor, UninitializedParameter | UninitializedBuffer)]
    if not lazy:
        return module
    if example is None:
        raise ConfigError(
            f"the model has lazy layers whose shapes are not known yet ({lazy[0]}): give Task.example one input "
            "[1, ...], or call the model once in its factory."
        )
    inputs = example.to(torch.get_default_dtype()) if example.is_floating_point() else example
    try:
        with torch.no_grad():
            module.eval()(inputs.clone())
    except Exception as error:
        raise ConfigError(
            f"the model has lazy layers ({lazy[0]}), and fails on the input of shape {list(example.shape)} that should "
            f"give them their shapes, with {type(error).__name__}: {error}."
        ) from error
    return module.train()


def without_graph(module: nn.Module) -> nn.Module:
    """The module itself, with tensors that torch has computed from its parameters and keeps in attributes (such as the
    weight that `weight_norm` makes) cut from the graph of gradients, since that cannot be copied."""
    for part in module.modules():
        for name, value in vars(part).items():
            if isinstance(value, Tensor) and not value.is_leaf:
                vars(part)[name] = value.detach()
    return module


def _kind(thing: object) -> str:
    return f"a value of type {type(thing).__name__}"


def function_name(function: str | Callable[..., object]) -> str:
    """The name of a loss or metric."""
    return function if isinstance(function, str) else getattr(function, "__name__", type(function).__name__)

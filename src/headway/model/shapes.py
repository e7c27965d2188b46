"""Checks of the shapes of outputs and targets against the loss and the metrics, made once, before training."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.func import functional_call

from headway.core.errors import ConfigError
from headway.data import Examples
from headway.data.dataset.blocks import blocks_of
from headway.model.broadcasting import broadcasts
from headway.model.flat_module import FlatModule
from headway.model.losses import shape_text
from headway.model.metrics import POOLED, class_axes, kind_of, own_metric
from headway.model.outputs import check_is_tensor
from headway.model.task import function_name

TRIED, FEWER = 7, 5  # examples: numbers that seldom are a shape's own
COMPARED = ("accuracy", "balanced_accuracy", "intersection_over_union")


def check_shapes(flat_module: FlatModule, parts: Sequence[Examples]) -> None:
    """Refuses a task whose loss or metrics would pair outputs and targets in a way that was not meant.

    parts: the store of the clients' examples first, and a central test set.  A model or function that fails is left to
    the place where it fails for a client, which is named there.

    Raises:
        ConfigError: saying what was found and what is needed.
    """
    batch = tried_batch(flat_module, parts[0])
    for training in (True, False):
        outputs = tried_outputs(flat_module, batch.inputs, training)
        if outputs is None:
            continue
        if outputs.shape[:1] != (TRIED,):
            raise ConfigError(
                f"the model gives outputs of shape {list(outputs.shape)} for {TRIED} examples: the first axis must be "
                "the examples, [N, ...]."
            )
        _check_loss(flat_module, outputs, batch.targets)
        if not training:
            _check_metrics(flat_module, outputs.cpu(), batch.targets.cpu())
            for part in parts:
                _check_values(flat_module, outputs, batch.targets, part.targets)


def metric_line(flat_module: FlatModule, store: Examples) -> str:
    """The answers that metrics by name are means over, where an example has several, as a phrase; empty elsewhere."""
    batch = tried_batch(flat_module, store)
    targets, outputs = batch.targets, tried_outputs(flat_module, batch.inputs, training=False)
    if outputs is None or not any(_of_classes(metric, "auroc") for metric in flat_module.task.metrics):
        return ""
    if flat_module.task.has_class_probabilities(outputs, targets):
        return "the likeliest class of each target counts as its label"
    kind = kind_of(outputs, targets)
    if kind == "labels":
        return f"of each of the {targets.shape[1]} labels, and the mean over those for which it is defined"
    places = targets.shape[1:].numel()
    return "" if places == 1 else f"over all {places} places of an example ({' x '.join(map(str, targets.shape[1:]))})"


def tried_batch(flat_module: FlatModule, store: Examples) -> Examples:
    """A few examples, where the flat module is; the first ones again where there are too few."""
    return flat_module.site.take(store, torch.arange(TRIED) % len(store))


def tried_outputs(flat_module: FlatModule, inputs: Tensor, training: bool) -> Tensor | None:
    """The outputs of the model for a few examples, in training or evaluation mode; `None` if it fails.

    Its statistics, torch's generator and the inputs are left as they are.

    Raises:
        ConfigError: if that is no tensor, or `Task.output` names none of its parts.
    """
    site, module = flat_module.site, flat_module.module
    before, mode = site.rng_state(), module.training
    module.train(training)
    flat_module.draws.at(0, 0)
    try:
        with torch.no_grad(), site.training() if training else site.evaluating():
            buffers = {name: buffer.clone() for name, buffer in module.named_buffers()}
            returned: Any = functional_call(module, buffers, (flat_module.to_memory_format(inputs.clone()),))
    except ConfigError:
        raise
    except Exception:  # whatever a model may raise; where it is trained or evaluated, it is raised with names
        return None
    finally:
        module.train(mode)
        site.set_rng_state(before)
    return check_is_tensor(returned)


def _check_loss(flat_module: FlatModule, outputs: Tensor, targets: Tensor) -> None:
    criterion = flat_module.task.criterion
    if (trouble := criterion.accepts(outputs, targets)) is not None:
        raise ConfigError(f'loss = "{flat_module.task.loss}": {trouble}')
    if (loss := criterion.function) is None:
        return
    own = function_name(flat_module.task.loss)
    if broadcasts(loss, outputs, targets):
        raise ConfigError(_broadcast(f"the loss {own}", outputs, targets))
    try:
        with torch.no_grad():
            shapes = [loss(outputs[:count], targets[:count]).shape[1:] for count in (TRIED, FEWER)]
    except Exception:  # whatever a function of one's own may raise
        return
    criterion.per_example(outputs, targets)
    if shapes[0] != shapes[1]:
        raise ConfigError(
            f"the loss {own} gives each example as many numbers as there are examples in the batch, "
            f"{[TRIED, *shapes[0]]} for {TRIED} and {[FEWER, *shapes[1]]} for {FEWER}, from outputs "
            f"{shape_text(outputs)} and targets {shape_text(targets)}: outputs and targets are broadcast against each "
            "other; give both one shape, for example by outputs.squeeze(1)."
        )


def _check_metrics(flat_module: FlatModule, outputs: Tensor, targets: Tensor) -> None:
    task = flat_module.task
    for metric in task.metrics:
        if (own := own_metric(metric)) is not None:
            if broadcasts(own, outputs, targets):
                raise ConfigError(_broadcast(f"the metric {function_name(metric)}", outputs, targets))
            continue
        try:
            {**task.scorers, **task.pooled_scorers}[function_name(metric)](outputs, targets)
        except ConfigError as error:
            raise ConfigError(f"the metric {metric!r}: {error}") from error
    if (
        task.criterion.function is not None
        and len(class_axes(outputs, targets)) > 1
        and any(map(_of_classes, task.metrics))
    ):
        raise ConfigError(
            f"outputs {shape_text(outputs)} and targets {shape_text(targets)} do not determine on which axis the "
            "classes are, as both would fit, and a loss of one's own does not either: have the model give them on axis "
            '1 and set loss = "cross_entropy", or measure with a function of your own.'
        )


def _check_values(flat_module: FlatModule, outputs: Tensor, few: Tensor, targets: Tensor) -> None:
    """Refuses metrics of answers where the targets are quantities; few: those of the outputs."""
    task = flat_module.task
    checked = [str(metric) for metric in task.metrics if _of_classes(metric)]
    if not checked or kind_of(outputs, few) == "classes" or task.has_class_probabilities(outputs, few):
        return
    low, high, whole = _range(targets)
    if not whole or low < 0 or high > 1:
        raise ConfigError(
            f"the metric {checked[0]!r} takes an output as a binary answer, which needs targets 0 and 1, found targets "
            f"from {low:g} to {high:g}{'' if whole else ', not all of them whole'}: for quantities choose "
            'metrics = ["mean_absolute_error"].'
        )


def _range(targets: Tensor) -> tuple[float, float, bool]:
    """The smallest and the largest target, and whether all are whole numbers."""
    ranges = []
    for _, block in blocks_of(targets):
        low, high = (float(value) for value in block.aminmax())
        whole = not block.is_floating_point() or bool((block == block.round()).all())
        ranges.append((low, high, whole))
    lows, highs, wholes = zip(*ranges, strict=True)
    return min(lows), max(highs), all(wholes)


def _of_classes(metric: object, *more: str) -> bool:
    """Whether this is a metric of answers, by name, that compares them with the targets; more: or one of these."""
    return isinstance(metric, str) and metric.removeprefix(POOLED) in (*COMPARED, *more)


def _broadcast(what: str, outputs: Tensor, targets: Tensor) -> str:
    return (
        f"{what} broadcasts outputs {shape_text(outputs)} against targets {shape_text(targets)}, so that targets are "
        "compared with outputs that are not theirs: give both one shape, for example by outputs.squeeze(1), or let the "
        "model have an output for each target."
    )

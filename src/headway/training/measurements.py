"""Measurements of a client at the start of a round, before it trains: named tensors that a stage asks for in `connect`
with `flow.measure(self, name)`, and reads as `ctx.measurements[name]`.

A new one is a function of a `RoundStart` under `@measurement`, here or in a module of your own.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cached_property

import torch
from torch import Tensor

from headway.core.errors import ConfigError
from headway.data import Examples, batch_bounds
from headway.model.metrics import class_axes, kind_of
from headway.numerics.keys import Key
from headway.training.sgd_options import held_out_count
from headway.training.training_inputs import TrainingInputs

EVALUATION_BATCH = 1024
HELD_OUT = frozenset({"validation_loss"})  # measurements over held-out examples


class RoundStart:
    """One client before it trains, with the broadcast model in the flat module; each part is computed when first read.

    work: its inputs, with the examples that it trains on.  held_out: examples that it never trains on; the training
    examples, where its only example cannot be held out.
    """

    def __init__(self, work: TrainingInputs, held_out: Examples) -> None:
        self.work, self.examples = work, work.examples
        self.held_out = held_out if len(held_out) else work.examples

    @cached_property
    def over_training(self) -> tuple[float, Tensor | None]:
        """The mean loss over the training examples, and its gradient where a stage asks for that."""
        return _loss(self.work, self.examples, "initial_gradient" in self.work.flows[-1].needs)


Measurement = Callable[[RoundStart], float | Tensor]
MEASUREMENTS: dict[str, Measurement] = {}


def measurement(function: Measurement) -> Measurement:
    """Makes a measurement known by the name of its function; it returns a number, or a vector `[P]`.

    Raises:
        ConfigError: if another one has the name, or it is that of the local steps.
    """
    name = function.__name__
    if name == "steps" or MEASUREMENTS.get(name, function) is not function:
        raise ConfigError(f"there is a measurement {name!r} already: rename one of them.")
    MEASUREMENTS[name] = function
    return function


@measurement
def initial_loss(start: RoundStart) -> float:
    """The mean loss of w_t over the training examples."""
    return start.over_training[0]


@measurement
def initial_gradient(start: RoundStart) -> Tensor:
    """The mean gradient of the loss at w_t over the training examples, `[P]`."""
    gradient = start.over_training[1]
    assert gradient is not None
    return gradient


@measurement
def validation_loss(start: RoundStart) -> float:
    """The mean loss of w_t over the examples held out."""
    return _loss(start.work, start.held_out, False)[0]


@measurement
def label_entropy(start: RoundStart) -> float:
    """The entropy of the labels of the training examples, as a share of its maximum, in [0, 1]."""
    flat_module = start.work.flat_module
    first = flat_module.site.examples(start.examples.rows(0, 1))
    with torch.no_grad():
        outputs = flat_module.module(flat_module.to_memory_format(first.inputs))
    return entropy_of(start.examples.targets, outputs, first.targets)


def hold_out(examples: Examples, share: float) -> tuple[Examples, Examples]:
    """The examples to train on and those to hold out: at least one of each, where there are two.

    Which ones is a function of their number alone, so that they are the same in every round.
    """
    if not share:
        return examples, examples.rows(0, 0)
    kept, held = divided(len(examples), share)
    return examples.take(kept), examples.take(held)


def divided(count: int, share: float) -> tuple[Tensor, Tensor]:
    """Which of so many examples are trained on and which are held out, both ascending."""
    held = held_out_count(count, share)
    order = Key.root(0).derive("held out").permutation(count)
    return order[held:].sort().values, order[:held].sort().values


def asked(work: TrainingInputs) -> list[str]:
    """The measurements that the stages ask for."""
    needs = work.flows[-1].needs
    return [name for name in MEASUREMENTS if name in needs]


def measure(work: TrainingInputs, held_out: Examples) -> dict[str, Tensor]:
    """The measurements that the stages ask for, with the broadcast model in the flat module; numbers are float64."""
    names = asked(work)
    if not names:
        return {}
    work.flat_module.module.eval()
    start = RoundStart(work, held_out)
    values = {name: MEASUREMENTS[name](start) for name in names}
    return {
        name: value if isinstance(value, Tensor) else torch.tensor(value, dtype=torch.float64)
        for name, value in values.items()
    }


def entropy_of(targets: Tensor, outputs: Tensor, few: Tensor) -> float:
    """Of the labels, as many as the outputs of a few of them have classes; of several labels the mean over them."""
    kind = kind_of(outputs, few)
    if kind == "labels":
        return sum(normalised_entropy(label, 1) for label in targets.unbind(1)) / targets.shape[1]
    return normalised_entropy(targets, outputs.shape[class_axes(outputs, few)[0]] if kind == "classes" else 1)


def normalised_entropy(targets: Tensor, outputs: int) -> float:
    """`-sum_k p_k log p_k / log K`, p being the shares of the K labels; one output distinguishes two classes.

    Raises:
        ConfigError: if the targets are no classes.

    >>> normalised_entropy(torch.tensor([0, 0, 1, 1]), 4)
    0.5
    """
    targets = targets.reshape(-1).cpu()
    classes, labels = max(outputs, 2), targets.long()
    if not bool((labels == targets).all()) or int(labels.min()) < 0 or int(labels.max()) >= classes:
        raise ConfigError(
            f"the entropy of labels needs targets that are classes from 0 to {classes - 1}, found numbers from "
            f'{float(targets.min()):g} to {float(targets.max()):g}: weigh by="validation" or by="alignment" instead.'
        )
    shares = torch.bincount(labels).double() / len(labels)
    entropy = float(torch.special.entr(shares).sum()) / math.log(classes)
    return min(entropy, 1.0)


def _loss(work: TrainingInputs, examples: Examples, with_gradient: bool) -> tuple[float, Tensor | None]:
    """The mean loss over the examples, and its gradient with respect to the shared parameters."""
    flat_module = work.flat_module
    total, gradient = flat_module.shared.new_zeros((), dtype=torch.float64), torch.zeros_like(flat_module.shared)
    parameters = flat_module.parameters[: flat_module.shared_count]
    for start, stop in batch_bounds(len(examples), EVALUATION_BATCH):
        batch = flat_module.site.examples(examples.rows(start, stop))
        work.trace.enter("the model, at the start of the round", inputs=batch.inputs, targets=batch.targets)
        with torch.set_grad_enabled(with_gradient):
            loss = flat_module.task.criterion.per_example(
                flat_module.module(flat_module.to_memory_format(batch.inputs)), batch.targets
            ).sum()
        total += loss.detach()
        if with_gradient:
            grads = torch.autograd.grad(loss, parameters, materialize_grads=True)
            gradient += torch.cat([grad.reshape(-1) for grad in grads])
    return float(total) / len(examples), gradient / len(examples) if with_gradient else None

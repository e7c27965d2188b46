"""What a client finds out before it trains: how the model of all serves it, and what its labels are."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from headway.core.errors import ConfigError
from headway.data import Examples, batch_bounds
from headway.model.metrics import class_axes, kind_of
from headway.numerics.keys import Key
from headway.training.trainer import TrainingInputs
from headway.vectorized.client_batch import ClientBatch

EVALUATION_BATCH = 1024
MEASURED = {"initial_loss", "initial_gradient", "validation_loss", "label_entropy"}


@dataclass(frozen=True, slots=True)
class StartMeasurements:
    """What was asked for of: the mean loss and gradient of w_t over the training examples, its mean loss over
    those held out, and the labels' entropy as a share of its maximum."""

    initial_loss: float | None = None
    initial_gradient: Tensor | None = None
    validation_loss: float | None = None
    label_entropy: float | None = None


def held_out_count(examples: int, share: float) -> int:
    """How many of a client's examples are held out: at least one where there are two, and never all.

    >>> held_out_count(10, 0.25), held_out_count(2, 0.1), held_out_count(1, 0.9), held_out_count(10, 0.0)
    (2, 1, 0, 0)
    """
    return min(max(1, int(share * examples)), examples - 1) if share else 0


def hold_out(examples: Examples, share: float) -> tuple[Examples, Examples]:
    """The examples to train on and those to hold out: at least one of each, where there are two.

    Which ones is a function of their number alone, so that they are the same in every round.
    """
    if not share:
        return examples, examples.rows(0, 0)
    kept, held = _divided(len(examples), share)
    return examples.take(kept), examples.take(held)


def _divided(count: int, share: float) -> tuple[Tensor, Tensor]:
    """Which of so many examples are trained on and which are held out, both ascending."""
    held = held_out_count(count, share)
    order = Key.root(0).derive("held out").permutation(count)
    return order[held:].sort().values, order[:held].sort().values


def held_out_rows(crew: ClientBatch, share: float) -> tuple[ClientBatch, ClientBatch]:
    """`hold_out` for each client of a crew; nobody holds anything out if the share is zero."""
    if not share:
        return crew, replace(crew, rows=crew.rows[:0], sizes=torch.zeros_like(crew.sizes))
    divided = [[rows[part] for part in _divided(len(rows), share)] for rows in crew.rows.split(crew.sizes.tolist())]
    kept, held = (
        replace(crew, rows=torch.cat(parts), sizes=torch.tensor([len(rows) for rows in parts]))
        for parts in zip(*divided, strict=True)
    )
    return kept, held


def measure_each(work: TrainingInputs, crew: ClientBatch, held_out: ClientBatch) -> dict[str, Tensor]:
    """`measure` for each client of a crew: what was asked for, `[C, ...]`, by the names of `StartMeasurements`."""
    if not work.flows[-1].needs & MEASURED:
        return {}
    models = work.ctx.global_params.expand(len(crew), -1)
    each: list[StartMeasurements] = []
    for model, examples, held in zip(models, crew.examples(), held_out.examples(), strict=True):
        if not each or work.ctx.global_params.ndim > 1:
            work.flat_module.load(model, None, None)
        each.append(measure(replace(work, examples=examples), held))
    found: dict[str, Tensor] = {}
    for name in ("initial_loss", "initial_gradient", "validation_loss", "label_entropy"):
        values = [getattr(start, name) for start in each]
        if isinstance(values[0], Tensor):
            found[name] = torch.stack(values)
        elif values[0] is not None:
            found[name] = torch.tensor(values, dtype=torch.float64)
    return found


def measure(work: TrainingInputs, held_out: Examples) -> StartMeasurements:
    """What the stages need to know of the client, with the broadcast model in the flat module.

    A client whose only example cannot be held out is measured on that.
    """
    needs = work.flows[-1].needs
    if not needs & MEASURED:
        return StartMeasurements()
    work.flat_module.module.eval()
    loss, gradient, validation, entropy = None, None, None, None
    if needs & {"initial_loss", "initial_gradient"}:
        loss, gradient = _loss(work, work.examples, "initial_gradient" in needs)
    if "validation_loss" in needs:
        validation, _ = _loss(work, held_out if len(held_out) else work.examples, False)
    if "label_entropy" in needs:
        first = work.flat_module.site.examples(work.examples.rows(0, 1))
        with torch.no_grad():
            outputs = work.flat_module.module(work.flat_module.to_memory_format(first.inputs))
        entropy = entropy_of(work.examples.targets, outputs, first.targets)
    return StartMeasurements(loss, gradient, validation, entropy)


def entropy_of(targets: Tensor, outputs: Tensor, few: Tensor) -> float:
    """Of the labels, as many as the outputs of a few of them have classes; of several labels the mean over them."""
    kind = kind_of(outputs, few)
    if kind == "labels":
        return sum(label_entropy(label, 1) for label in targets.unbind(1)) / targets.shape[1]
    return label_entropy(targets, outputs.shape[class_axes(outputs, few)[0]] if kind == "classes" else 1)


def label_entropy(targets: Tensor, outputs: int) -> float:
    """`-sum_k p_k log p_k / log K`, p being the shares of the K labels; one output tells two classes apart.

    Raises:
        ConfigError: if the targets are no classes.

    >>> label_entropy(torch.tensor([0, 0, 1, 1]), 4)
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

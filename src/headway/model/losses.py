"""Per-example losses, and the rules for the shapes of outputs and targets.

`B` examples have outputs `[B, ...]` and targets `[B, ...]`.  A loss is one number per example, `[B]`: where a function
gives several, one for each label or pixel, an example's loss is their mean (`of_examples`).  Nothing is ever broadcast
between outputs and targets (`aligned`), and classes are on axis 1, where cross-entropy has them.

Another package adds a loss by an entry point in the group `headway.losses`, a module of one's own by the decorator
`register_loss`: a function of (outputs, targets) that gives one loss per example.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch.nn.functional as F
from torch import Tensor

from headway.core.errors import ConfigError
from headway.core.plugins import NamedRegistry, own_name

PerExample = Callable[[Tensor, Tensor], Tensor]
TALL, NARROW = 256, 16  # rows and columns of a matrix that torch goes through three times as fast by columns


@dataclass(frozen=True)
class Loss:
    """A loss as a value per example `[B]`, and as the mean over a batch where that is cheaper at once.

    accepts: what is wrong with the shapes of outputs and targets, as a sentence; `None` if nothing is.
    function: the function of one's own that it calls; `None` for Headway's losses.  summary: a line on it.
    """

    per_example: PerExample
    mean: Callable[[Tensor, Tensor], Tensor]
    accepts: Callable[[Tensor, Tensor], str | None] = lambda outputs, targets: None
    function: PerExample | None = None
    summary: str = ""

    @classmethod
    def of(cls, function: PerExample) -> Loss:
        """The loss of a function of one's own, whose results are checked to be one or more numbers per example."""

        def per_example(outputs: Tensor, targets: Tensor) -> Tensor:
            losses = function(outputs, targets.clone())  # it may write into them
            if losses.shape[:1] != targets.shape[:1]:
                raise ConfigError(
                    f"Task.loss must give one loss per example, of shape {list(targets.shape[:1])}, found "
                    f'{list(losses.shape)}: leave out its mean (reduction="none" in torch).'
                )
            return of_examples(losses)

        def mean(outputs: Tensor, targets: Tensor) -> Tensor:
            return per_example(outputs, targets).mean()

        line = (inspect.getdoc(function) or "").partition("\n")[0]
        return cls(per_example, mean, function=function, summary=line)


def of_examples(losses: Tensor) -> Tensor:
    """The loss of each example, `[B]` from `[B, ...]`: the mean over all other axes.

    >>> of_examples(Tensor([[1, 3], [0, 0]]))
    tensor([2., 0.])
    """
    return losses if losses.ndim == 1 else losses.flatten(1).mean(1)


def aligned(outputs: Tensor, targets: Tensor) -> Tensor:
    """The outputs in the shape of the targets; axes of length one may be missing or too many.

    Raises:
        ConfigError: if one of them would have to be broadcast.

    >>> aligned(Tensor(4, 1), Tensor(4)).shape
    torch.Size([4])
    """
    if outputs.shape == targets.shape:
        return outputs
    if not same_but_ones(outputs.shape, targets.shape):
        raise ConfigError(_one_output_each(outputs, targets))
    return outputs.reshape(targets.shape)


def same_but_ones(one: Sequence[int], other: Sequence[int]) -> bool:
    """Whether two shapes `[B, ...]` are one, but for axes of length one after the first.

    >>> same_but_ones((4, 1, 8), (4, 8)), same_but_ones((4, 1), (4, 3))
    (True, False)
    """
    return one[:1] == other[:1] and [n for n in one[1:] if n != 1] == [n for n in other[1:] if n != 1]


def shape_text(tensor: Tensor) -> str:
    """A shape with N in the place of the examples.

    >>> shape_text(Tensor(7, 3))
    '[N, 3]'
    """
    return f"[{', '.join(['N', *map(str, tensor.shape[1:])])}]"


def _one_output_each(outputs: Tensor, targets: Tensor) -> str | None:
    """The reason why outputs and targets do not pair up one to one, as a sentence."""
    if outputs.ndim and same_but_ones(outputs.shape, targets.shape):
        return None
    wanted = targets.shape[1:].numel()
    have = f"{wanted} outputs, as the targets do" if wanted > 1 else "one output"
    return (
        f"one output is needed for each target, found outputs {shape_text(outputs)} and targets "
        f"{shape_text(targets)}: let the model have {have}, or choose other targets."
    )


def _class_outputs(outputs: Tensor, targets: Tensor) -> str | None:
    """The reason why these are no classes on axis 1 with their labels, as a sentence."""
    found = f"found outputs {shape_text(outputs)} and targets {shape_text(targets)}"
    if targets.is_floating_point():
        if outputs.ndim > 1 and outputs.shape == targets.shape:
            return None
        return (
            f"targets of floating-point numbers are the probabilities of the classes, in the shape of the outputs, "
            f'{found}: make labels whole numbers, or choose loss = "mean_squared_error" for quantities.'
        )
    if outputs.ndim > 1 and (outputs.shape[:1] + outputs.shape[2:]) == targets.shape:
        return None
    if outputs.ndim > 1 and outputs.shape == targets.shape:
        return (
            f"each example has one class, by outputs [N, classes] and targets [N], {found}: for several labels "
            'of an example, each 0 or 1, choose loss = "binary_cross_entropy".'
        )
    spots = ", ".join(["N", *map(str, targets.shape[1:])])
    wanted = ", ".join(["N", "classes", *map(str, targets.shape[1:])])
    return f"outputs [{wanted}] are needed for targets [{spots}], the classes on axis 1, {found}: change the model."


def _binary(outputs: Tensor, targets: Tensor, reduction: str = "none") -> Tensor:
    logits = aligned(outputs, targets)
    return F.binary_cross_entropy_with_logits(logits, targets.to(logits.dtype), reduction=reduction)


def _squared(outputs: Tensor, targets: Tensor) -> Tensor:
    predicted = aligned(outputs, targets)
    return of_examples((predicted - targets.to(predicted.dtype)) ** 2)


def _cross_entropy(outputs: Tensor, targets: Tensor) -> Tensor:
    """Cross-entropy, cheaper than torch's for many clients in one batch: the same bits but for tall matrices."""
    if targets.is_floating_point():
        return of_examples(F.cross_entropy(outputs, targets, reduction="none"))
    if outputs.ndim == 2 and outputs.is_cpu and len(outputs) >= TALL and outputs.shape[1] <= NARROW:
        logs = F.log_softmax(outputs.T.contiguous(), dim=0).T
    else:
        logs = F.log_softmax(outputs, dim=1)
    return of_examples(-logs.gather(1, targets.unsqueeze(1)).squeeze(1))


def _as_loss(name: str | None, thing: Any) -> tuple[str, Loss]:
    if not callable(thing) and not isinstance(thing, Loss):
        raise ConfigError(f"a loss is a function of (outputs, targets), found a value of type {type(thing).__name__}.")
    name, thing = own_name(name, thing)
    return name, thing if isinstance(thing, Loss) else Loss.of(thing)


LOSSES: NamedRegistry[Loss] = NamedRegistry("loss", "headway.losses", _as_loss)
register_loss = LOSSES.register
register_loss("cross_entropy")(
    Loss(
        _cross_entropy,
        F.cross_entropy,
        _class_outputs,
        summary="of scores of classes (logits) on axis 1, and labels or probabilities",
    )
)
register_loss("binary_cross_entropy")(
    Loss(
        lambda outputs, targets: of_examples(_binary(outputs, targets)),
        lambda outputs, targets: _binary(outputs, targets, "mean"),
        _one_output_each,
        summary="of one logit for each target, which is 0 or 1",
    )
)
register_loss("mean_squared_error")(
    Loss(
        _squared,
        lambda outputs, targets: _squared(outputs, targets).mean(),
        _one_output_each,
        summary="of predicted quantities",
    )
)

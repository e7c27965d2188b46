"""How often a model gives a backdoor's answer."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from headway.attacks.poisoned_data import Backdoor
from headway.data import Examples
from headway.model.metrics import kind_of

BATCH = 1024


def success_rate(model: nn.Module, backdoor: Backdoor, examples: Examples) -> float:
    """The share of examples of another class that the model takes for the target once they have the trigger.

    Formula: `#{i : y_i != target, f(trigger(x_i)) = target} / #{i : y_i != target}`; NaN where no example is of another
    class, or the model's outputs are no classes.  A model without a backdoor has a rate above zero as well: that of the
    examples that the trigger alone makes look like the target.

    Reference: Bagdasaryan et al., arXiv 1807.00459, section 5 (backdoor accuracy).

    >>> always = nn.Linear(2, 3)
    >>> _ = always.load_state_dict({"weight": torch.zeros(3, 2), "bias": torch.tensor([1.0, 0.0, 0.0])})
    >>> success_rate(always, Backdoor(target=0), Examples(torch.zeros(4, 2), torch.tensor([0, 1, 2, 1])))
    1.0
    """
    others = examples.take(torch.nonzero(examples.targets.reshape(len(examples), -1)[:, 0] != backdoor.target)[:, 0])
    if not len(others) or examples.targets.is_floating_point():
        return math.nan
    there = next((parameter.device for parameter in model.parameters()), torch.device("cpu"))
    training, taken = model.training, 0
    model.eval()
    try:
        with torch.no_grad():
            for start in range(0, len(others), BATCH):
                inputs = backdoor.stamped(others.inputs[start : start + BATCH])
                taken += int((_predicted(model(inputs.to(there)), len(inputs)) == backdoor.target).sum())
    finally:
        model.train(training)
    return taken / len(others)


def _predicted(outputs: Tensor, count: int) -> Tensor:
    """The predicted class of each example `[N]`."""
    if kind_of(outputs, torch.zeros(count, dtype=torch.int64)) == "binary":
        return (outputs.reshape(count) > 0).long()
    return outputs.argmax(1)

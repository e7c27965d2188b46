"""Gradients of a step as functions of the parameters: of one client, and of many at once."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor
from torch.func import functional_call, grad_and_value, vmap

from headway.model.flat_module import FlatModule

Gradients = tuple[dict[str, Tensor], Tensor]  # by name, and the loss; of lanes, with a first axis of clients
Function = Callable[..., Gradients]
BatchFunction = Callable[[dict[str, Tensor], Tensor, Tensor, Tensor, Tensor, Tensor], Gradients]


def single_gradients(flat_module: FlatModule) -> Function:
    """Gradients and loss of one client: of the parameters and buffers by name, the batch, dropout's key and step.

    Buffers are arguments because a gradient's function may not change any others.
    """
    module, mean, draws = flat_module.module, flat_module.task.criterion.mean, flat_module.draws

    def loss(
        parameters: dict[str, Tensor],
        buffers: dict[str, Tensor],
        inputs: Tensor,
        targets: Tensor,
        key: Tensor,
        step: Tensor,
    ) -> Tensor:
        with draws.during(key, step):
            outputs = functional_call(module, (parameters, buffers), (inputs,))
        return mean(outputs, targets)

    gradients: Function = grad_and_value(loss)
    return gradients


def batch_gradients(flat_module: FlatModule) -> BatchFunction:
    """Gradients and losses of all lanes: of parameters `[C, *shape]`, batches `[C, B, ...]` and weights `[C, B]`, keys
    of dropout `[C]`, and the number of the step."""
    module, per_example, draws = flat_module.module, flat_module.task.criterion.per_example, flat_module.draws

    def loss(
        parameters: dict[str, Tensor], inputs: Tensor, targets: Tensor, weights: Tensor, key: Tensor, step: Tensor
    ) -> Tensor:
        with draws.during(key, step):
            outputs = functional_call(module, parameters, (inputs,))
        return (per_example(outputs, targets) * weights).sum()

    gradients: BatchFunction = vmap(grad_and_value(loss), in_dims=(0, 0, 0, 0, 0, None))
    return gradients

"""Gradients of single examples by `torch.func`, written down, and their clipped sums; of one client or of many."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.func import functional_call, grad_and_value, vmap

from headway.model.flat_module import FlatModule

ExampleGradients = Callable[..., tuple[dict[str, Tensor], Tensor]]


@dataclass(frozen=True, slots=True)
class ExampleBatches:
    """The examples of a sum of clipped gradients, of C clients with parameters of their own.

    Shapes: parameters `[C, *shape]`, inputs and targets `[C, B, ...]`, weights `[C, B]`, keys of dropout `[C]`, the
    number of the step `[]`.  first: the place in the step's batch of the first example.
    """

    parameters: Mapping[str, Tensor]
    inputs: Tensor
    targets: Tensor
    weights: Tensor
    keys: Tensor
    step: Tensor
    first: int = 0

    def part(self, lanes: slice | Tensor, places: slice) -> ExampleBatches:
        """The same of some clients, and of the examples in some places."""
        parameters = {name: each[lanes] for name, each in self.parameters.items()}
        inputs, targets, weights = (each[lanes, places] for each in (self.inputs, self.targets, self.weights))
        return ExampleBatches(parameters, inputs, targets, weights, self.keys[lanes], self.step, places.start)


def written_sums(
    gradients: ExampleGradients, batch: ExampleBatches, clip_norm: float
) -> tuple[dict[str, Tensor], Tensor]:
    """The sums by the parameters' names, `[C, *shape]`, and the losses `[C, B]`, from gradients written down."""
    places = torch.arange(batch.first, batch.first + batch.inputs.shape[1], device=batch.weights.device)
    found, losses = gradients(dict(batch.parameters), batch.inputs, batch.targets, batch.keys, batch.step, places)
    with torch.no_grad():
        return clipped_sums(found, batch.weights, clip_norm), losses.detach()


def clipped_sums(gradients: Mapping[str, Tensor], weights: Tensor, clip_norm: float) -> dict[str, Tensor]:
    """`sum_b weight_b g_b min(1, C / ||g_b||)` of gradients `[C, B, *shape]`, by name `[C, *shape]`; the norm is that
    of all of an example's gradients together."""
    flats = {name: each.flatten(2) for name, each in gradients.items()}
    norms = torch.linalg.vector_norm(torch.stack([torch.linalg.vector_norm(f, dim=2) for f in flats.values()]), dim=0)
    factors, finite = clip_factors(norms, weights, clip_norm)
    if not bool(finite.all()):
        flats = {name: torch.where(finite.unsqueeze(2), flat, 0.0) for name, flat in flats.items()}
    return {
        name: (factors.unsqueeze(1) @ flat).squeeze(1).view(len(flat), *gradients[name].shape[2:])
        for name, flat in flats.items()
    }


def clip_factors(norms: Tensor, weights: Tensor, clip_norm: float) -> tuple[Tensor, Tensor]:
    """`weight min(1, C / norm)` of each example, zero where the norm is not finite; and where it is finite."""
    finite = torch.isfinite(norms)
    factors = weights * (clip_norm / norms).clamp_max(1.0)
    return torch.where(finite, factors, 0.0), finite


def example_gradients(flat_module: FlatModule) -> ExampleGradients:
    """Gradients `[C, B, *shape]` by name, and losses `[C, B]`, of parameters `[C, *shape]`, inputs and targets
    `[C, B, ...]`, keys of dropout `[C]`, the number of the step and the examples' places in the batch `[B]`."""
    module, per_example, draws = flat_module.module, flat_module.task.criterion.per_example, flat_module.draws

    def loss(parameters: dict[str, Tensor], x: Tensor, y: Tensor, key: Tensor, step: Tensor, place: Tensor) -> Tensor:
        with draws.during(key, step, place):
            outputs = functional_call(module, parameters, (x.unsqueeze(0),))
        return per_example(outputs, y.unsqueeze(0)).sum()

    of_examples = vmap(grad_and_value(loss), in_dims=(None, 0, 0, None, None, 0))
    gradients: ExampleGradients = vmap(of_examples, in_dims=(0, 0, 0, 0, None, None))
    return gradients

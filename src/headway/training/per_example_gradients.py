"""Gradients of single examples by `torch.func`, written down, and their clipped sums; of one client or of many."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor
from torch.func import functional_call, grad_and_value, vmap

from headway.model.flat_module import FlatModule

ExampleGradients = Callable[..., tuple[dict[str, Tensor], Tensor]]


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

"""Sums of clipped gradients of single examples, by `torch.func`, of one client or of many at once."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor
from torch.func import functional_call, grad_and_value, vmap

from headway.model.flat_module import FlatModule

AT_A_TIME = 1 << 23  # numbers of single gradients that are held at once
ExampleGradients = Callable[..., tuple[dict[str, Tensor], Tensor]]


class ClippedGradients:
    """The sums of the clipped gradients of a model's examples.

        sum_b weight_b g_b min(1, C / ||g_b||),    g_b the gradient of the loss of example b alone

    An example whose gradient has a norm that is not finite counts nothing.  Examples go through the model one by one,
    in one batched program, so that no gradient depends on another example; they are taken some at a time, which bounds
    the memory and leaves the sum as it is, to rounding.

    clip_norm: C.  at_a_time: how many numbers the single gradients that are held at once may have.
    """

    def __init__(self, flat_module: FlatModule, clip_norm: float, at_a_time: int = AT_A_TIME) -> None:
        self.clip_norm, self.at_a_time = clip_norm, at_a_time
        self.flat_module = flat_module
        self.gradients = example_gradients(flat_module)

    def __call__(
        self,
        parameters: Mapping[str, Tensor],
        inputs: Tensor,
        targets: Tensor,
        weights: Tensor,
        keys: Tensor,
        step: Tensor,
    ) -> tuple[dict[str, Tensor], Tensor]:
        """The sums by the parameters' names, `[C, *shape]`, and the mean losses of the examples with a weight, `[C]`.

        Shapes: parameters `[C, *shape]`, inputs and targets `[C, B, ...]`, weights `[C, B]`, keys of dropout `[C]`,
        the number of the step `[]`.
        """
        sums = {name: torch.zeros_like(each) for name, each in parameters.items()}
        total = weights.new_zeros(len(weights), dtype=torch.float64)
        for lanes, examples in self._parts(parameters, *weights.shape):
            weighed = weights[lanes, examples]
            places = torch.arange(examples.start, examples.stop, device=weights.device)
            part = {name: each[lanes] for name, each in parameters.items()}
            gradients, losses = self.gradients(
                part, inputs[lanes, examples], targets[lanes, examples], keys[lanes], step, places
            )
            with torch.no_grad():
                clipped = clipped_sums(gradients, weighed, self.clip_norm)
                for name, each in clipped.items():
                    sums[name][lanes] += each
                total[lanes] += torch.where(weighed > 0, losses.detach(), 0.0).sum(1, dtype=torch.float64)
        return sums, total / (weights > 0).sum(1).clamp_min(1)

    def _parts(self, parameters: Mapping[str, Tensor], lanes: int, width: int) -> list[tuple[slice, slice]]:
        """Which lanes and examples are taken at a time."""
        size = sum(each[0].numel() for each in parameters.values())
        many = max(1, self.at_a_time // max(size, 1))
        wide = min(width, many)
        high = max(1, many // max(width, 1))
        return [
            (slice(lane, min(lane + high, lanes)), slice(place, min(place + wide, width)))
            for lane in range(0, lanes, high)
            for place in range(0, width, max(wide, 1))
        ]


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


def parts_of(vector: Tensor, shapes: Sequence[torch.Size]) -> list[Tensor]:
    """A vector `[..., P]` as tensors of these shapes `[..., *shape]`."""
    front, pieces = vector.shape[:-1], vector.split([shape.numel() for shape in shapes], dim=-1)
    return [piece.reshape(*front, *shape) for piece, shape in zip(pieces, shapes, strict=True)]

"""Gradient inversion: inputs are sought whose gradient points where an update points."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from headway.model.flat_module import FlatModule

CLEAR_PSNR = 20.0  # decibels from which a picture counts as reconstructed
DECAYS = (3 / 8, 5 / 8, 7 / 8)  # of the iterations, after which the step is a tenth


@dataclass(frozen=True, slots=True)
class InversionEffort:
    """How long inputs are sought.

    iterations: of Adam.  restarts: from other starting points, of which the best fit counts.  smoothness: the weight
    of the total variation.
    """

    iterations: int = 400
    restarts: int = 1
    smoothness: float = 1e-3
    lr: float = 0.1


@dataclass(frozen=True, slots=True)
class Inverted:
    """Inputs that fit an update.

    inputs: `[m, ...]`.  fit: the cosine of their gradient with the update, 1 at best.
    """

    inputs: Tensor
    fit: float


def invert(
    flat_module: FlatModule,
    delta: Tensor,
    targets: Tensor,
    span: tuple[float, float],
    generator: torch.Generator,
    effort: InversionEffort,
) -> Inverted:
    """Inputs with these targets `[m, ...]` whose gradient at the loaded model fits an update.

    Formula: minimise `1 - <grad L(x), -delta> / (||grad L(x)|| ||delta||) + a TV(x)` by Adam on the signs of the
    gradients of x.
    span: the smallest and largest value of an input.

    Reference: Geiping et al., arXiv 2003.14053, section 4.
    Differs from the paper: the attacker is given the targets, which makes the attack stronger.
    """
    example = flat_module.task.example
    assert example is not None
    module, shape = flat_module.module, tuple(example.shape[1:])
    parameters = flat_module.parameters[: flat_module.shared_count]
    wanted = -delta.to(flat_module.shared.dtype)
    wanted = wanted / wanted.norm().clamp_min(1e-30)
    best: Inverted | None = None
    with StillModel(module, parameters):
        for _ in range(effort.restarts):
            start = torch.rand((len(targets), *shape), generator=generator, dtype=wanted.dtype)
            inputs = (span[0] + (span[1] - span[0]) * start).requires_grad_()
            found = _descend(inputs, _objective(flat_module, parameters, targets, wanted), span, effort)
            if best is None or found.fit > best.fit:
                best = found
    assert best is not None
    return best


def _objective(
    flat_module: FlatModule, parameters: list[nn.Parameter], targets: Tensor, wanted: Tensor
) -> Callable[[Tensor], Tensor]:
    """The cosine of the gradient of inputs with what is wanted."""
    loss = flat_module.task.criterion.per_example

    def cosine(inputs: Tensor) -> Tensor:
        outputs = flat_module.module(flat_module.to_memory_format(inputs) if inputs.ndim != 4 else inputs)
        grads = torch.autograd.grad(loss(outputs, targets).mean(), parameters, create_graph=True)
        flat = torch.cat([grad.reshape(-1) for grad in grads])
        found: Tensor = flat @ wanted / flat.norm().clamp_min(1e-30)
        return found

    return cosine


def _descend(
    inputs: Tensor, cosine: Callable[[Tensor], Tensor], span: tuple[float, float], effort: InversionEffort
) -> Inverted:
    low, high = span
    optimizer = torch.optim.Adam([inputs], lr=effort.lr * (high - low))
    kept, fit = inputs.detach().clone(), -math.inf
    drops = {int(share * effort.iterations) for share in DECAYS}
    for number in range(effort.iterations):
        if number in drops:
            for group in optimizer.param_groups:
                group["lr"] /= 10
        found = cosine(inputs)
        if (now := float(found.detach())) > fit:
            kept, fit = inputs.detach().clone(), now
        loss = 1 - found + effort.smoothness * total_variation(inputs) / (high - low)
        (grad,) = torch.autograd.grad(loss, inputs)
        inputs.grad = grad.sign()
        optimizer.step()
        with torch.no_grad():
            inputs.clamp_(low, high)
    return Inverted(kept, fit)


def total_variation(inputs: Tensor) -> Tensor:
    """The mean absolute difference of neighbours, of pictures `[m, C, H, W]`; 0 of anything else."""
    if inputs.ndim != 4:
        return inputs.new_zeros(())
    across, down = inputs.diff(dim=-1).abs().mean(), inputs.diff(dim=-2).abs().mean()
    return across + down


class StillModel:
    """Within, a model computes gradients that can be differentiated, and moves none of its statistics."""

    def __init__(self, module: nn.Module, parameters: list[nn.Parameter]) -> None:
        self.module, self.parameters = module, parameters
        self.modes = [(part, part.training) for part in module.modules()]
        self.wanted = [parameter.requires_grad for parameter in parameters]

    def __enter__(self) -> None:
        self.module.eval()
        for parameter in self.parameters:
            parameter.requires_grad_()

    def __exit__(self, *_: object) -> None:
        for part, mode in self.modes:
            part.training = mode
        for parameter, wanted in zip(self.parameters, self.wanted, strict=True):
            parameter.requires_grad_(wanted)


def psnr(one: Tensor, other: Tensor, span: float) -> Tensor:
    """The peak signal-to-noise ratio of pictures in decibels, `[m]` for `[m, ...]` and `[m, ...]`.

        PSNR = 10 log10(span^2 / mean squared error)

    >>> float(psnr(torch.zeros(1, 4), torch.full((1, 4), 0.5), 5.0))
    20.0
    """
    error = (one.double() - other.double()).flatten(1).square().mean(1).clamp_min(1e-12)
    return 10 * torch.log10(span**2 / error)


def matched(found: Tensor, records: Tensor, span: float) -> tuple[Tensor, Tensor]:
    """For each record `[N, ...]` the ratio with the found input that comes closest, `[N]`, and which that is."""
    if not len(found):
        return torch.full((len(records),), -math.inf, dtype=torch.float64), torch.zeros(len(records), dtype=torch.int64)
    table = torch.stack([psnr(records, each.expand_as(records), span) for each in found], dim=1)
    best, which = table.max(1)
    return best, which

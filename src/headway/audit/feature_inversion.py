"""Feature inversion: pictures sought whose features, the inputs of a layer, are given."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from headway.audit.dense_inversion import DenseLayer
from headway.audit.gradient_inversion import DECAYS, StillModel, total_variation
from headway.model.flat_module import FlatModule

ITERATIONS, RATE, SMOOTHNESS, START = 300, 0.1, 0.6, 0.3


def invert_features(
    flat_module: FlatModule,
    layer: DenseLayer,
    wanted: Tensor,
    shape: Sequence[int],
    span: tuple[float, float],
    generator: torch.Generator,
) -> Tensor:
    """Pictures `[m, *shape]` whose inputs of the layer come close to those wanted, `[m, D]`.

    Formula: minimise `||h(x) - h||^2 / ||h||^2 + a TV(x)` by Adam, from noise.

    Reference: Mahendran and Vedaldi, arXiv 1412.0035, section 2.
    """
    low, high = span
    module, part = flat_module.module, flat_module.module.get_submodule(layer.module)
    caught: list[Tensor] = []
    handle = part.register_forward_pre_hook(lambda _, given: caught.append(given[0]))
    start = START * torch.rand((len(wanted), *shape), generator=generator, dtype=flat_module.shared.dtype)
    inputs = (low + (high - low) * start).requires_grad_()
    wanted = wanted.to(inputs.dtype)
    scale = wanted.square().sum(-1).clamp_min(1e-12)
    optimizer = torch.optim.Adam([inputs], lr=RATE * (high - low))
    drops = {int(share * ITERATIONS) for share in DECAYS}
    try:
        with StillModel(module, []):
            for number in range(ITERATIONS):
                if number in drops:
                    for group in optimizer.param_groups:
                        group["lr"] /= 10
                caught.clear()
                module(inputs)
                misfit = ((caught[0].flatten(1) - wanted).square().sum(-1) / scale).sum()
                smooth = total_variation(inputs) * len(wanted) / (high - low)
                (inputs.grad,) = torch.autograd.grad(misfit + SMOOTHNESS * smooth, inputs)
                optimizer.step()
                with torch.no_grad():
                    inputs.clamp_(low, high)
    finally:
        handle.remove()
    return inputs.detach()

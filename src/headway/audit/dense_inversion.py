"""Analytic inversion: the inputs of a model's first dense layer, read off an update.

For a layer z = W x + b and one record, dL/dW_i = (dL/dz_i) x and dL/db_i = dL/dz_i, so that
`dL/dW_i / dL/db_i = x`: exact for every neuron that is active for one record alone.  An update is a sum of such
gradients, and each ratio of its parts is a candidate for a record.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from headway.core.layout import Layout

RECOVERED = 0.1  # the largest relative error of a record that counts as recovered
TINY = 1e-9  # of a bias's movement, relative to the largest


@dataclass(frozen=True, slots=True)
class DenseLayer:
    """The first dense layer of a model: its module's name, and those of its parameters in the layout.

    raw: whether its inputs are the examples themselves; else they are features that earlier layers compute.
    flat: whether an example is one row of its inputs; else there are several, such as the places of a sequence.
    """

    module: str
    weight: str
    bias: str
    raw: bool
    flat: bool = True


@dataclass(frozen=True, slots=True)
class Recovery:
    """The records that candidates come close to.

    of: how many records there are.  errors: of each record, the relative error of the nearest candidate, `[N]`;
    nearest: which candidate that is, int64 `[N]`.  candidates: `[M, D]`.
    """

    of: int
    errors: Tensor
    nearest: Tensor
    candidates: Tensor

    @property
    def recovered(self) -> Tensor:
        """Which records are recovered, bool `[N]`."""
        return self.errors <= RECOVERED

    @property
    def count(self) -> int:
        """How many records are recovered."""
        return int(self.recovered.sum())

    @property
    def share(self) -> float:
        """The share of the records that is recovered."""
        return self.count / self.of if self.of else 0.0

    def best(self, most: int) -> list[int]:
        """The records that candidates come closest to, the closest first."""
        return torch.argsort(self.errors, stable=True)[:most].tolist()


def first_dense_layer(module: nn.Module, layout: Layout, example: Tensor) -> DenseLayer | None:
    """The first layer with weight and bias that multiplies its input by a matrix, if both are shared.

    example: inputs `[1, ...]`, by which the layers are called in their order.
    """
    calls: list[tuple[str, Tensor]] = []

    def hook(name: str) -> object:
        return lambda _, given: calls.append((name, given[0].detach()))

    handles = [
        part.register_forward_pre_hook(hook(name))  # type: ignore[arg-type]
        for name, part in module.named_modules()
        if isinstance(part, nn.Linear) and part.bias is not None
    ]
    try:
        with torch.no_grad():
            module(example.clone())
    finally:
        for handle in handles:
            handle.remove()
    for name, given in calls:
        weight, bias = f"{name}.weight".lstrip("."), f"{name}.bias".lstrip(".")
        if weight in layout.names and bias in layout.names:
            flat = example.flatten(1)
            raw = given.shape == flat.shape and bool(torch.equal(given, flat.to(given.dtype)))
            return DenseLayer(name, weight, bias, raw, given.ndim == 2)
    return None


def layer_inputs(module: nn.Module, layer: DenseLayer, inputs: Tensor) -> Tensor:
    """The layer's inputs for these examples, `[N, D]`, or `[N, ..., D]` where an example has several rows."""
    caught: list[Tensor] = []
    part = module.get_submodule(layer.module)
    handle = part.register_forward_pre_hook(lambda _, given: caught.append(given[0].detach().clone()))
    training = module.training
    module.eval()
    try:
        with torch.no_grad():
            for block in inputs.split(1024):
                module(block.clone())
    finally:
        handle.remove()
        module.train(training)
    return torch.cat(caught)


def candidates(layout: Layout, delta: Tensor, layer: DenseLayer) -> Tensor:
    """The ratio of each neuron's movements of weights and bias, `[M, D]`: neurons whose bias has not moved are left
    out."""
    views = layout.views(delta.to(torch.float64))
    weight, bias = views[layer.weight], views[layer.bias]
    size = bias.abs()
    moved = size > TINY * size.max().clamp_min(torch.finfo(torch.float64).tiny)
    found = weight[moved] / bias[moved].unsqueeze(-1)
    return found[torch.isfinite(found).all(-1)]


def recover(found: Tensor, records: Tensor, spread: float) -> Recovery:
    """The records `[N, D]`, or `[N, ..., D]`, that the candidates `[M, D]` come close to; of several rows, in any one.

    spread: the root mean square distance of records from their mean, which errors are relative to: 1 is no better than
    the mean of all records.
    """
    if not len(found):
        errors = torch.full((len(records),), torch.inf, dtype=torch.float64)
        return Recovery(len(records), errors, torch.zeros(len(records), dtype=torch.int64), found)
    rows = records.double().reshape(-1, found.shape[-1])
    distances = torch.cdist(rows, found.double(), compute_mode="donot_use_mm_for_euclid_dist") / spread
    errors, nearest = distances.min(1)
    several = len(rows) // max(len(records), 1)
    if several > 1:
        errors, row = errors.view(-1, several).min(1)
        nearest = nearest.view(-1, several).gather(1, row.unsqueeze(1)).squeeze(1)
    return Recovery(len(records), errors, nearest, found)


def spread_of(records: Tensor) -> float:
    """The root mean square distance of records `[N, D]`, or of their rows `[N, ..., D]`, from their mean.

    >>> spread_of(torch.tensor([[0.0, 0.0], [2.0, 0.0]]))
    1.0
    """
    flat = records.double().reshape(-1, records.shape[-1])
    return float((flat - flat.mean(0)).square().sum(1).mean().sqrt().clamp_min(1e-12))


def pooled(parts: Sequence[Recovery]) -> tuple[int, int]:
    """How many records are recovered, and of how many, over several clients."""
    return sum(part.count for part in parts), sum(part.of for part in parts)

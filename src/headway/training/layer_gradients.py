"""Sums of clipped gradients of single examples from what goes into layers, and the errors that come back.

The gradient of an example with respect to a layer's weight is a product of its input and its error, so that its norm,
and the clipped sum of a batch, are found without writing it down.  The examples of many clients go through the model as
one batch, in which each layer with parameters takes each client's rows with that client's own.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from headway.model.flat_module import FlatModule
from headway.training.layer_rules import CalledTwice, LayerRule, calling, rule_for
from headway.training.per_example_gradients import ExampleBatches, clip_factors


class LayerGradients:
    """The clipped sums of a model all of whose layers with parameters have a rule.

    Formula, x_b and e_b being an example's input and error at a layer: `sum_b f_b e_b x_b^T`, with
    `f_b = weight_b min(1, C / ||g_b||)`, and `||g_b||` from the layers' norms, such as `||e_b|| ||x_b||`.

    Reference: Goodfellow, arXiv 1510.01799; Bu et al., arXiv 2210.00038 (one backward pass).
    """

    def __init__(self, flat_module: FlatModule, clip_norm: float, rules: Sequence[LayerRule]) -> None:
        self.flat_module, self.clip_norm, self.rules = flat_module, clip_norm, rules

    @property
    def held(self) -> int:
        """About how many numbers are held for each example."""
        return sum(rule.held for rule in self.rules)

    def __call__(self, batch: ExampleBatches) -> tuple[dict[str, Tensor], Tensor]:
        """The sums by the parameters' names, `[C, *shape]`, and the losses `[C, B]`."""
        front = batch.inputs.shape[:2]
        with torch.enable_grad():
            outputs, given, returned = self._forward(batch)
            losses = self.flat_module.task.criterion.per_example(outputs, batch.targets.flatten(0, 1))
            errors = torch.autograd.grad(losses.sum(), [returned[rule.name] for rule in self.rules])
        with torch.no_grad():
            kept = [
                rule.prepare(given[rule.name].unflatten(0, front), e.unflatten(0, front))
                for rule, e in zip(self.rules, errors, strict=True)
            ]
            parts = [norm for rule, each in zip(self.rules, kept, strict=True) for norm in rule.norms(each)]
            norms = torch.linalg.vector_norm(torch.stack(parts), dim=0)
            factors, finite = clip_factors(norms, batch.weights, self.clip_norm)
            if not bool(finite.all()):
                kept = [tuple(_zeroed(each, finite) for each in tensors) for tensors in kept]
            sums: dict[str, Tensor] = {}
            for rule, each in zip(self.rules, kept, strict=True):
                sums |= zip(rule.names, rule.sums(each, factors), strict=True)
        return {name: sums[name] for name in batch.parameters}, losses.detach().unflatten(0, front)

    def _forward(self, batch: ExampleBatches) -> tuple[Tensor, dict[str, Tensor], dict[str, Tensor]]:
        """The model's outputs, and each layer's inputs, as it keeps them, and outputs, `[C * B, ...]`; of a single
        client where there is dropout."""
        flat_module, lanes = self.flat_module, len(batch.inputs)
        given: dict[str, Tensor] = {}
        returned: dict[str, Tensor] = {}
        rules = {rule.name: rule for rule in self.rules}

        def call(name: str, part: nn.Module, x: Tensor) -> Tensor:
            rule = rules[name]
            kept, out = rule.forward(x.unflatten(0, (lanes, -1)), [batch.parameters[each] for each in rule.names])
            given[name], out = kept.detach().flatten(0, 1), out.flatten(0, 1)
            returned[name] = out if out.requires_grad else out.requires_grad_()
            return returned[name]

        layers = {rule.name: rule.part for rule in self.rules}
        with flat_module.draws.during(batch.keys[0], batch.step, torch.tensor(batch.first)), calling(layers, call):
            outputs: Tensor = flat_module.module(batch.inputs.flatten(0, 1))
        return outputs, given, returned


def rules_of(flat_module: FlatModule, inputs: Tensor, channels_last: bool = True) -> list[LayerRule] | None:
    """The rule of each layer with parameters, for a model given inputs like these `[B, ...]`; `None` if there is none
    for one of them, or a layer is not called exactly once.  channels_last: how the outputs of convolutions lie."""
    module = flat_module.module
    layers = {n: part for n, part in module.named_modules() if any(True for _ in part.parameters(recurse=False))}
    places = [parameter for _, parameter in module.named_parameters(remove_duplicate=False)]
    if len(places) != len(flat_module.parameters) or not all(parameter.requires_grad for parameter in places):
        return None
    seen: dict[str, tuple[torch.Size, torch.Size]] = {}

    def call(name: str, part: nn.Module, x: Tensor) -> Tensor:
        if name in seen:
            raise CalledTwice(name)
        returned: Tensor = type(part).forward(part, x)
        seen[name] = x.shape, returned.shape
        return returned

    with calling(layers, call), torch.no_grad():
        try:
            module(inputs)
        except CalledTwice:
            return None
    rules = [
        rule_for(name, part, *seen[name], channels_last) if name in seen else None for name, part in layers.items()
    ]
    return [rule for rule in rules if rule is not None] if None not in rules else None


def _zeroed(each: Tensor, finite: Tensor) -> Tensor:
    """Numbers `[C, B, ...]` with zeros for the examples whose gradients are not finite."""
    return torch.where(finite.view(*finite.shape, *(1,) * (each.ndim - 2)), each, 0.0)

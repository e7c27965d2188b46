"""Sums of clipped gradients of single examples, of one client or of many at once."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from headway.core.errors import ConfigError
from headway.model.flat_module import FlatModule
from headway.training.layer_gradients import LayerGradients, rules_of
from headway.training.layer_rules import LayerRule
from headway.training.per_example_gradients import ExampleBatches, example_gradients, written_sums

AT_A_TIME = 1 << 22  # numbers that are held at once
FEW = 4  # examples on which the two ways are compared
ALIKE = 1e-3  # of its largest output, to which what a model gives is the same
SMALL = 1e-6  # a clip norm by which every gradient is clipped
AGREE = {torch.float64: 1e-9, torch.float32: 1e-3}

RULES: WeakKeyDictionary[FlatModule, list[LayerRule] | None] = WeakKeyDictionary()
"""Of each model that has been tried: the rules of its layers, `None` where single gradients are written down."""


class ClippedGradients:
    """The sums of the clipped gradients of a model's examples.

        sum_b weight_b g_b min(1, C / ||g_b||),    g_b the gradient of the loss of example b alone

    An example whose gradient has a norm that is not finite counts nothing.  Where all of the model's layers with
    parameters are linear, convolutions or norms of single examples, the sum comes from their inputs and errors
    (`LayerGradients`), if that gives the same for a few examples; else single gradients are written down.  Examples are
    taken some at a time, which bounds the memory and leaves the sum as it is, to rounding.

    clip_norm: C.  at_a_time: how many numbers may be held at once.  written: whether single gradients are written down
    in any case.
    """

    def __init__(
        self, flat_module: FlatModule, clip_norm: float, at_a_time: int = AT_A_TIME, written: bool = False
    ) -> None:
        self.flat_module, self.clip_norm, self.at_a_time = flat_module, clip_norm, at_a_time
        self.gradients = example_gradients(flat_module)
        self.layers: LayerGradients | None = None
        self.chosen = written

    def __call__(
        self,
        parameters: Mapping[str, Tensor],
        inputs: Tensor,
        targets: Tensor,
        weights: Tensor,
        keys: Tensor,
        step: Tensor,
    ) -> tuple[dict[str, Tensor], Tensor]:
        """The sums by the parameters' names, `[C, *shape]`, and the mean losses of the examples with a weight, `[C]`;
        arguments as `ExampleBatches` has them.

        Raises:
            ConfigError: if the model's outputs for an example depend on the others of the batch.
        """
        batch = ExampleBatches(parameters, inputs, targets, weights, keys, step)
        if not self.chosen and weights.numel():
            self._choose(batch)
        order, reach = self._order(weights)
        chunks = list(self._lanes(reach)) or [(slice(0), 0)]
        if len(chunks) == 1 and order is None:
            return self._sums(batch, *chunks[0])
        sums = {name: each.new_empty(each.shape) for name, each in parameters.items()}
        losses = weights.new_empty(len(weights), dtype=torch.float64)
        for lanes, most in chunks:
            here = lanes if order is None else order[lanes]
            made, losses[here] = self._sums(batch, here, most)
            for name, each in made.items():
                sums[name][here] = each
        return sums, losses

    def _order(self, weights: Tensor) -> tuple[Tensor | None, list[int]]:
        """The order in which the lanes are taken, `None` being their own, and how many places each has to the last one
        with a weight, in this order: the longest batches first, where the padding that this leaves out is more than the
        parameters that are copied for it."""
        if not weights.numel():
            return None, [0] * len(weights)
        places = torch.arange(1, weights.shape[1] + 1, device=weights.device)
        reach = torch.where(weights > 0, places, 0).amax(1)
        counts: list[int] = reach.tolist()
        padding = weights.numel() - sum(counts)
        copied = len(counts) * sum(p.numel() for p in self.flat_module.parameters)
        if weights.numel() * self._held <= self.at_a_time or padding * self._held <= 2 * copied:
            return None, counts
        order = torch.argsort(reach, descending=True, stable=True)
        return order, sorted(counts, reverse=True)

    def _sums(self, batch: ExampleBatches, lanes: slice | Tensor, most: int) -> tuple[dict[str, Tensor], Tensor]:
        """The same of some of the lanes, whose batches have at most so many examples."""
        weights, width = batch.weights[lanes], max(1, self.at_a_time // self._held)
        total = weights.new_zeros(len(weights), dtype=torch.float64)
        if not most:
            return {name: torch.zeros_like(each[lanes]) for name, each in batch.parameters.items()}, total
        sums: dict[str, Tensor] = {}
        for start in range(0, most, width):
            part = batch.part(lanes, slice(start, min(start + width, most)))
            if self.layers:
                made, losses = self.layers(part)
            else:
                made, losses = written_sums(self.gradients, part, self.clip_norm)
            sums = made if not sums else {name: sums[name] + made[name] for name in made}
            total += torch.where(part.weights > 0, losses, 0.0).sum(1, dtype=torch.float64)
        return sums, total / (weights > 0).sum(1).clamp_min(1)

    def _lanes(self, reach: Sequence[int]) -> Iterator[tuple[slice, int]]:
        """The lanes that are taken at a time, and their largest reach."""
        start = 0
        while start < len(reach):
            stop, most = start + 1, reach[start]
            while stop < len(reach) and not (self.layers and self.flat_module.draws.layers):  # each has its own dropout
                wider = max(most, reach[stop])
                if (stop + 1 - start) * wider * self._held > self.at_a_time:
                    break
                stop, most = stop + 1, wider
            yield slice(start, stop), most
            start = stop

    @property
    def _held(self) -> int:
        """About how many numbers are held for each example."""
        return max(self.layers.held if self.layers else sum(p.numel() for p in self.flat_module.parameters), 1)

    def _choose(self, batch: ExampleBatches) -> None:
        """Chooses one of the two ways, by a trial on a few examples of the first lane."""
        flat_module, self.chosen = self.flat_module, True
        if flat_module not in RULES:
            few = batch.part(slice(0, 1), slice(0, FEW))
            _check_apart(flat_module, few.inputs[0])
            weights = torch.arange(1, few.inputs.shape[1] + 1, device=few.inputs.device).to(flat_module.shared.dtype)
            parameters = {name: each.detach() for name, each in few.parameters.items()}
            RULES[flat_module] = self._tried(replace(few, parameters=parameters, weights=weights.unsqueeze(0)))
        if (rules := RULES[flat_module]) is not None:
            self.layers = LayerGradients(flat_module, self.clip_norm, rules)

    def _tried(self, batch: ExampleBatches) -> list[LayerRule] | None:
        """The rules of the model's layers, if they give what gradients that are written down give, all of which are
        clipped.

        Raises:
            ConfigError: if the model cannot be called for one example by itself.
        """
        flat_module = self.flat_module
        try:
            wanted, _ = written_sums(self.gradients, batch, SMALL)
        except Exception as error:  # whatever the model or torch may raise
            first = next(iter(str(error).strip().splitlines()), "")
            raise ConfigError(
                "DPSGD needs the gradient of each example by itself, by torch.func, found that "
                f"{type(flat_module.module).__name__} fails in it with {type(error).__name__}: {first}. Use layers "
                "that torch.func.vmap maps over; recurrent layers, and layers that change their buffers, are none."
            ) from error
        close = AGREE[flat_module.shared.dtype]
        for channels_last in (True, False):  # a model may need its channels first
            try:
                rules = rules_of(flat_module, flat_module.to_memory_format(batch.inputs[0]), channels_last)
                if rules is None:
                    return None
                made, _ = LayerGradients(flat_module, SMALL, rules)(batch)
            except Exception:  # whatever the model or torch may raise: single gradients are written down
                continue
            if all(
                torch.allclose(made[name], each, rtol=close, atol=close * float(each.abs().max()))
                for name, each in wanted.items()
            ):
                return rules
        return None


def _check_apart(flat_module: FlatModule, inputs: Tensor) -> None:
    """Refuses a model whose outputs for an example depend on the others of a batch.

    Raises:
        ConfigError: if they do.
    """
    if len(inputs) < 2:
        return
    mode = flat_module.module.training
    flat_module.module.eval()  # without dropout
    with torch.no_grad():
        together, alone = (
            flat_module.module(flat_module.to_memory_format(inputs[:count]))[0].double() for count in (2, 1)
        )
    flat_module.module.train(mode)
    if together.shape != alone.shape or bool((together - alone).abs().max() > ALIKE * alone.abs().max()):
        raise ConfigError(
            "DPSGD needs a model in which no example depends on the others of its batch, since the noise is sized for "
            f"one example's gradient, found that {type(flat_module.module).__name__} gives other outputs for an "
            "example when another is beside it: leave out what it computes over the first axis (a mean or a softmax "
            "over the batch, for instance)."
        )

"""Local training of many clients whose models differ from the broadcast one by few outer products.

Under plain SGD, a linear layer's weights on a client are, after some steps,

    W = W_0 - sum_r u_r x_r^T,    b = b_0 - sum_r u_r

over the examples r that it has seen, x_r being what came into the layer and u_r the learning rate times the gradient
of the mean loss with respect to what came out.  So no client has weights of its own: what comes out is

    W x + b = (W_0 x + b_0) - sum_r (x_r . x + 1) u_r

where the first part is one product for all clients, and the second is small while a client sees few examples.  The
weighted sum of all clients' deltas is one more product, and the length of a delta follows from inner products:

    sum_c f_c (W_c - W_0) = - sum_c f_c sum_r u_r x_r^T
    ||W_c - W_0||^2 + ||b_c - b_0||^2 = sum_r sum_s (x_r . x_s + 1) (u_r . u_s)

It is exact, up to the order of its sums; the lanes of `lanes.py` are its reference.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from headway.client.lanes import Plan
from headway.client.sgd import LocalSGD
from headway.client.trainer import Work
from headway.client.workbench import Workbench
from headway.core.chain import Chain
from headway.core.flow import Flow
from headway.core.layout import Layout
from headway.data import Examples

FEW = 2  # times a layer's outputs: examples beyond which weights of one's own are cheaper
LEAST = 32


def suits(trainer: LocalSGD, bench: Workbench, chain: Chain, flow: Flow) -> bool:
    """Whether training is plain SGD of a model of linear layers, and no stage looks at a single client's vector."""
    plain = not (trainer.momentum or trainer.weight_decay or trainer.clip_gradient is not None)
    looks = any(stage.has(hook) for stage in chain for hook in ("step", "combine", "send", "decode"))
    if not plain or looks or flow.needs or chain.aggregator.whole_cohort or flow.server_sees == "sum":
        return False
    layers = [part for part in bench.module.modules() if type(part) is nn.Linear and "forward" not in vars(part)]
    held = [id(parameter) for layer in layers for parameter in layer.parameters()]
    return len(set(held)) == len(held) and set(held) == {id(parameter) for parameter in bench.parameters}


@dataclass(frozen=True, slots=True)
class Summed:
    """What the training of many clients did, without a vector for each.

    count, loss, norms: steps, mean loss and length of the delta, `[C]`.
    """

    layers: list[_Layer]
    layout: Layout
    count: Tensor
    loss: Tensor
    norms: Tensor

    def total(self, factors: Tensor) -> Tensor:
        """`sum_c f_c delta_c` as a vector `[P]`, from factors `[C]`."""
        named: dict[str, Tensor] = {}
        for layer in self.layers:
            named |= layer.summed(factors)
        return self.layout.flatten(named)


class LowRank:
    """Trains groups of clients on a workbench whose model is never moved."""

    def __init__(self, bench: Workbench) -> None:
        self.bench = bench
        self.layers = {name: part for name, part in bench.module.named_modules() if type(part) is nn.Linear}
        self.widest = max(layer.out_features for layer in self.layers.values())

    def probe(self, store: Examples) -> bool:
        """Whether the model calls each layer once, on a row for each example: tried on two clients and two steps."""
        index = torch.tensor([0, len(store) - 1])
        two = self.bench.site.take(store, index)
        inputs, targets = two.inputs, two.targets
        layers = [_Layer(name, part, lanes=2, rows=2) for name, part in self.layers.items()]
        self.bench.module.train()
        try:
            with _in_place(layers):
                for seen in (0, 1):
                    for layer in layers:
                        layer.expect(2, seen, 1)
                    losses = self.bench.task.criterion.per_example(self.bench.module(inputs), targets)
                    self._learn(layers, losses.sum(), losses.new_ones(2, 1, 1), (2, 1))
        except Exception:  # whatever a model may raise; in the run it is raised with client and stage
            return False
        return True

    def pays(self, plan: Plan) -> bool:
        """Whether no client sees more examples than outer products are good for."""
        return int(plan.table.sizes.sum(1).max()) <= max(FEW * self.widest, LEAST)

    def train(self, work: Work, plan: Plan) -> Summed:
        """What the clients' training did; all start from the model in the context.

        Raises:
            Exception: whatever a model raises that calls a layer on no batch of rows, or more than once.
        """
        self.bench.load(work.ctx.global_params, None, None)
        self.bench.module.train()
        table, rows = plan.table, sum(plan.table.widths())
        lanes = len(table.counts)
        layers = [_Layer(name, part, lanes, rows) for name, part in self.layers.items()]
        served = table.served(work.examples, self.bench.site, self.bench.shared.dtype)
        losses = self.bench.shared.new_zeros(table.sizes.shape, dtype=torch.float64)
        per_example = self.bench.task.criterion.per_example
        seen = 0
        with _in_place(layers):
            for number, (active, width) in enumerate(zip(table.active(), table.widths(), strict=True)):
                for layer in layers:
                    layer.expect(active, seen, width)
                batch = served.batch(active, number, width)
                each = per_example(self.bench.module(batch.inputs), batch.targets).view(active, width)
                mean = (each * served.weights[:active, number, :width]).sum(1)
                rates = served.rates[:active, number].to(mean.dtype).view(-1, 1, 1)
                self._learn(layers, mean.sum(), rates, (active, width))
                losses[:active, number] = mean.detach().double()
                seen += width
        squares = torch.stack([layer.squares for layer in layers]).sum(0)
        norms = squares.clamp_min(0).sqrt().cpu()
        return Summed(layers, self.bench.layout, table.counts, table.mean_losses(losses), norms)

    @staticmethod
    def _learn(layers: list[_Layer], loss: Tensor, rates: Tensor, batch: tuple[int, int]) -> None:
        """One step of every layer, from the sum of the lanes' losses; rates: `[C, 1, 1]`."""
        grads = torch.autograd.grad(loss, [layer.out() for layer in layers])
        for layer, grad in zip(layers, grads, strict=True):
            layer.learn(rates * grad.view(*batch, -1))


class _Layer:
    """One linear layer of all clients: what came into it, `[C, n, in]`, and u of each example, `[C, n, out]`."""

    def __init__(self, name: str, part: nn.Linear, lanes: int, rows: int) -> None:
        self.name, self.part = name, part
        weight = part.weight.detach()
        self.inputs = weight.new_zeros(lanes, rows, part.in_features)
        self.errors = weight.new_zeros(lanes, rows, part.out_features)
        self.squares = weight.new_zeros(lanes, dtype=torch.float64)
        self.one = 0.0 if part.bias is None else 1.0
        self.inner = self.inputs

    def expect(self, active: int, seen: int, width: int) -> None:
        """The next batch is of the first lanes, of this width, after so many rows."""
        self.active, self.seen, self.width = active, seen, width
        self._out: Tensor | None = None

    def __call__(self, x: Tensor) -> Tensor:
        """What comes out for `[C * B, in]`, each lane's rows by its own weights."""
        if x.ndim != 2 or len(x) != self.active * self.width or self._out is not None:
            raise RuntimeError(f"the layer {self.name} is not called once, on a row for each example")
        bias = None if self.part.bias is None else self.part.bias.detach()
        base = functional.linear(x, self.part.weight.detach(), bias) if x.requires_grad else self._fixed(x, bias)
        lanes, start, stop = slice(self.active), self.seen, self.seen + self.width
        own = x.view(self.active, self.width, -1)
        self.inputs[lanes, start:stop] = own.detach()
        inner = own @ self.inputs[lanes, :stop].mT + self.one
        self.inner = inner.detach()
        if start:
            moved = inner[..., :start] @ self.errors[lanes, :start]
            base = base - moved.view(len(x), -1)
        self._out = base if base.requires_grad else base.requires_grad_()
        return self._out

    def _fixed(self, x: Tensor, bias: Tensor | None) -> Tensor:
        out = product(x, self.part.weight.detach())
        return out if bias is None else out.add_(bias)

    def out(self) -> Tensor:
        """What came out of the last call."""
        if self._out is None:
            raise RuntimeError(f"the layer {self.name} is not called")
        return self._out

    def learn(self, errors: Tensor) -> None:
        """Takes u `[C, B, out]` of the batch."""
        lanes, start, stop = slice(self.active), self.seen, self.seen + self.width
        self.errors[lanes, start:stop] = errors
        inner = (errors @ self.errors[lanes, :stop].mT).mul_(self.inner)
        before = inner[..., :start].sum((1, 2), dtype=torch.float64)
        self.squares[lanes] += 2 * before + inner[..., start:].sum((1, 2), dtype=torch.float64)
        self._out = None

    def summed(self, factors: Tensor) -> dict[str, Tensor]:
        """The weighted sums of the changes of weight and bias, by the parameters' names."""
        errors = (self.errors * -factors.to(self.errors).view(-1, 1, 1)).flatten(0, 1)
        prefix = f"{self.name}." if self.name else ""
        changes = {f"{prefix}weight": product(errors.T, self.inputs.flatten(0, 1).T)}
        return changes if self.part.bias is None else {**changes, f"{prefix}bias": errors.sum(0)}


@contextmanager
def _in_place(layers: list[_Layer]) -> Iterator[None]:
    """The model calls these instead of its own layers."""
    for layer in layers:
        layer.part.forward = layer  # type: ignore[method-assign, assignment]
    try:
        yield
    finally:
        for layer in layers:
            del layer.part.forward


def product(one: Tensor, other: Tensor) -> Tensor:
    """`A B^T` of matrices `[m, k]` and `[n, k]`, by whichever library is faster; without gradients.

    In single precision oneDNN has more than twice the speed of MKL on processors that are not Intel's; torch has no
    public name for it, so where it is not found, or refuses, the usual product is taken.
    """
    if one.dtype == torch.float32 and one.device.type == "cpu" and torch.backends.mkldnn.is_available():
        try:
            return cast(Tensor, torch.ops.mkldnn._linear_pointwise(one, other, None, "none", [], ""))
        except (AttributeError, RuntimeError):
            pass
    return one @ other.T

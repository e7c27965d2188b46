"""Local training of many clients whose models differ from the broadcast one by few outer products.

Under SGD, a linear layer's weights on a client are, after some steps,

    W = W_0 - sum_r a_r u_r x_r^T,    b = b_0 - sum_r a_r u_r

over the examples r that it has seen, x_r being what came into the layer, u_r the gradient of the batch's mean loss with
respect to what came out, and a_r what the step of r counts (`motion.py`; the learning rate, if there is no momentum and
no pull).  So no client has weights of its own: what comes out is

    W x + b = (W_0 x + b_0) - sum_r (x_r . x + 1) a_r u_r

where the first part is one product for all clients, and the second is small while a client sees few examples.  The
weighted sum of all clients' deltas is one more product, and inner products of any two steps' gradients follow from

    <g_s, g_t> = sum_{r in s} sum_{q in t} (x_r . x_q + 1) (u_r . u_q)

which tell the length of a delta, and the Gram matrix of the steps to a stage that combines them.

Clients of a model that has other parameters too, such as convolutions, have weights of their own for those, and train
one after another by plain SGD; their large layers are still never written.

It is exact, up to the order of its sums; clients trained alone are its reference.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from headway.client.lanes import Plan
from headway.client.motion import Motion
from headway.client.sgd import LocalSGD
from headway.client.trainer import Work
from headway.client.workbench import Workbench
from headway.core.chain import Chain
from headway.core.flow import Flow
from headway.core.keys import Keys
from headway.core.layout import Layout
from headway.data import Examples

FEW = 2  # times a layer's outputs: examples beyond which weights of one's own are cheaper
LEAST = 32
MOST_BYTES = 256 * 2**20  # of what came into the layers and of the errors


def suits(trainer: LocalSGD, bench: Workbench, chain: Chain, flow: Flow) -> bool:
    """Whether steps are linear in gradients of a model with linear layers, and no stage looks at a client's vector."""
    linear = not trainer.weight_decay and trainer.clip_gradient is None
    looks = any(stage.has(hook) for stage in chain for hook in ("send", "decode"))
    looks = looks or not all(stage.only_pulls for _, stage in chain.step_rules)
    if not linear or looks or chain.aggregator.whole_cohort or flow.server_sees == "sum":
        return False
    if flow.needs and (flow.needs != {"steps"} or trainer.steps_kept not in ("auto", "full")):
        return False
    held = {id(parameter) for layer in _linear(bench).values() for parameter in layer.parameters()}
    everything = {id(parameter) for parameter in bench.parameters}
    if not held or not held <= everything:
        return False
    if held == everything:
        return not bench.draws.layers  # in one batch, each lane's draws would be those of all
    return not (trainer.momentum or chain.step_rules or flow.needs)


def _linear(bench: Workbench) -> dict[str, nn.Linear]:
    """The plain linear layers by name."""
    parts = bench.module.named_modules()
    return {name: part for name, part in parts if type(part) is nn.Linear and "forward" not in vars(part)}


@dataclass(frozen=True, slots=True)
class Summed:
    """What the training of many clients did, without a vector for each.

    own: how the parameters moved that are in no linear layer, `[C, *shape]` by name.
    moved: what each step's gradient counts in the delta, `[C, K]`; changes: what each step added to that, `[C, K, K]`.
    inner: inner products of the steps' gradients, `[C, K, K]`.  steps: the step of each row of the layers.
    count, loss: steps and mean loss, `[C]`.
    """

    layers: list[_Layer]
    own: dict[str, Tensor]
    layout: Layout
    moved: Tensor
    changes: Tensor
    inner: Tensor
    steps: Tensor
    count: Tensor
    loss: Tensor

    def gram(self) -> Tensor:
        """The Gram matrix of the local steps, float64 `[C, K, K]`."""
        return self.changes @ self.inner @ self.changes.mT

    def combined(self, coefficients: Tensor) -> Summed:
        """The same with the deltas `sum_l a_l s_l` of the steps s_l, from coefficients `[C, K]`."""
        return replace(self, moved=(coefficients.unsqueeze(1) @ self.changes).squeeze(1))

    def norms(self) -> Tensor:
        """The lengths of the deltas, float64 `[C]`."""
        moved = self.moved.unsqueeze(1)
        squares = (moved @ self.inner @ moved.mT).flatten().clamp_min(0)
        for own in self.own.values():
            squares = squares + own.flatten(1).double().square().sum(1).cpu()
        return squares.sqrt()

    def total(self, factors: Tensor) -> Tensor:
        """`sum_c f_c delta_c` as a vector `[P]`, from factors `[C]`."""
        named = {name: torch.tensordot(factors.to(moved), moved, 1) for name, moved in self.own.items()}
        weights = (self.moved * -factors.double().unsqueeze(1))[:, self.steps]
        for layer in self.layers:
            named |= layer.summed(weights)
        return self.layout.flatten(named)


class LowRank:
    """Trains groups of clients on a workbench whose linear layers are never moved.

    own: the parameters that are in none of them, by name.  Without any, the clients train side by side.
    """

    def __init__(self, trainer: LocalSGD, bench: Workbench) -> None:
        self.trainer, self.bench = trainer, bench
        self.layers = _linear(bench)
        self.widest = max(layer.out_features for layer in self.layers.values())
        lowered = {id(parameter) for layer in self.layers.values() for parameter in layer.parameters()}
        named = dict(bench.module.named_parameters())
        chosen = {entry.name: named[entry.name] for entry in bench.layout.entries}
        self.own = {name: parameter for name, parameter in chosen.items() if id(parameter) not in lowered}

    def probe(self, store: Examples) -> bool:
        """Whether the model calls each layer once, on a row for each example: tried on two clients and two steps."""
        index = torch.tensor([0, len(store) - 1])
        two = self.bench.site.take(store, index)
        inputs, targets = two.inputs, two.targets
        layers = [_Layer(name, part, lanes=2, rows=2) for name, part in self.layers.items()]
        counts = self.bench.shared.new_ones(2, 1, dtype=torch.float64)
        self.bench.module.train()
        try:
            with _in_place(layers):
                for seen in (0, 1):
                    for layer in layers:
                        layer.expect(slice(2), seen, 1, counts[:, :seen])
                    losses = self.bench.task.criterion.per_example(self.bench.module(inputs), targets)
                    _learn(layers, [], losses.sum())
        except Exception:  # whatever a model may raise; in the run it is raised with client and stage
            return False
        return True

    def pays(self, plan: Plan) -> bool:
        """Whether no client sees more examples than outer products are good for, and all of them fit in memory."""
        sizes = plan.table.sizes
        rows = sum(plan.table.widths())
        numbers = len(sizes) * rows * sum(layer.in_features + layer.out_features for layer in self.layers.values())
        fits = numbers * self.bench.shared.dtype.itemsize <= MOST_BYTES
        return fits and int(sizes.sum(1).max()) <= max(FEW * self.widest, LEAST)

    def train(self, work: Work, plan: Plan) -> Summed:
        """What the clients' training did; all start from the model in the context.

        Raises:
            Exception: whatever a model raises that calls a layer on no batch of rows, or more than once.
        """
        self.bench.load(work.ctx.global_params, None, None)
        self.bench.module.train()
        program = _Program(self, work, plan)
        with _in_place(program.layers):
            return program.run()


class _Program:
    """The steps of some lanes, those with most steps first.

    The model, the rows, the losses and the inner products lie where the clients train, and are read at the end; what
    each row counts follows from the learning rates, which the processor knows, and is sent there.
    """

    def __init__(self, lowrank: LowRank, work: Work, plan: Plan) -> None:
        self.bench, self.own, self.table = lowrank.bench, lowrank.own, plan.table
        self.site, shared = self.bench.site, self.bench.shared
        lanes, count = self.table.sizes.shape
        widths = torch.tensor(self.table.widths())
        self.steps = torch.repeat_interleave(torch.arange(count), widths)
        self.steps_there = self.site.put(self.steps)
        self.starts = (widths.cumsum(0) - widths).tolist()  # of each step's rows
        self.layers = [_Layer(name, part, lanes, len(self.steps)) for name, part in lowrank.layers.items()]
        self.own_moved = {name: value.detach().new_empty(lanes, *value.shape) for name, value in self.own.items()}
        self.served = self.table.served(work.examples, self.site, shared.dtype)
        self.losses = shared.new_zeros(lanes, count, dtype=torch.float64)
        trainer = lowrank.trainer
        self.motion = Motion(lanes, count, trainer.momentum, trainer.nesterov, work.flows[-1].proximal)
        self.inner = shared.new_zeros(lanes, count, count, dtype=torch.float64)
        assert isinstance(work.key, Keys)
        self.dropout = work.key.derive("dropout").seeds().tolist() if self.bench.draws.layers else [0] * lanes

    def run(self) -> Summed:
        """All steps: of all lanes together, or of one lane after another."""
        lanes = len(self.table.counts)
        if not self.own:
            self._steps(slice(lanes))
        start = {name: parameter.detach().clone() for name, parameter in self.own.items()}
        for lane in range(lanes if self.own else 0):
            self._steps(slice(lane, lane + 1))
            for name, parameter in self.own.items():
                torch.sub(parameter.detach(), start[name], out=self.own_moved[name][lane])
                parameter.detach().copy_(start[name])
        inner = self.inner.cpu()
        inner = inner + inner.tril(-1).mT
        losses = self.table.mean_losses(self.losses)
        return Summed(
            layers=self.layers,
            own=self.own_moved,
            layout=self.bench.layout,
            moved=self.motion.moved,
            changes=self.motion.changes,
            inner=inner,
            steps=self.steps,
            count=self.table.counts,
            loss=losses,
        )

    def _steps(self, lanes: slice) -> None:
        """All steps of these lanes."""
        first = lanes.start or 0
        made = zip(self.table.active(lanes), self.table.widths(lanes), strict=True)
        for number, (active, width) in enumerate((active, width) for active, width in made if active):
            front, seen = slice(first, first + active), self.starts[number]
            counts = self.site.put(self.motion.moved[front][:, self.steps[:seen]])
            for layer in self.layers:
                layer.expect(front, seen, width, counts)
            self.bench.draws.at(self.dropout[first], number)
            self._step(front, number, width)

    def _step(self, lanes: slice, number: int, width: int) -> None:
        """One step of these lanes."""
        batch = self.served.batch(lanes, number, width)
        outputs = self.bench.module(self.bench.arranged(batch.inputs))
        each = self.bench.task.criterion.per_example(outputs, batch.targets).view(-1, width)
        mean = (each * self.served.weights[lanes, number, :width]).sum(1)
        rates = self.served.rates[lanes, number]
        inner, grads = _learn(self.layers, list(self.own.values()), mean.sum())
        self._add(self.inner[lanes, number], inner)
        self.motion.step(lanes, number, self.table.rates[lanes, number])
        for parameter, grad in zip(self.own.values(), grads, strict=True):  # of a single lane
            parameter.detach().sub_(rates.to(grad.dtype) * grad)
        self.losses[lanes, number] = mean.detach().double()

    def _add(self, products: Tensor, rows: Tensor) -> None:
        """Adds what each row seen so far gives, `[C, n]`, to its step's number of `[C, K]`."""
        steps = self.steps_there[: rows.shape[1]]
        if self.site.on_gpu:  # which adds by an index in no fixed order
            products += rows @ functional.one_hot(steps, products.shape[1]).to(rows)
        else:
            products.index_add_(1, steps, rows)


def _learn(layers: list[_Layer], own: list[nn.Parameter], loss: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
    """Gives every layer its gradients, of the sum of the lanes' losses; the inner products of this step's gradient with
    what each row seen so far gives, float64 `[C, n]`, and the gradients of the other parameters."""
    grads = torch.autograd.grad(loss, [*(layer.out() for layer in layers), *own], materialize_grads=True)
    inner = [layer.learn(grad) for layer, grad in zip(layers, grads, strict=False)]
    return torch.stack(inner).sum(0), grads[len(layers) :]


class _Layer:
    """One linear layer of all clients: what came into it, `[C, n, in]`, and u of each example, `[C, n, out]`."""

    def __init__(self, name: str, part: nn.Linear, lanes: int, rows: int) -> None:
        self.name, self.part = name, part
        weight = part.weight.detach()
        self.inputs = weight.new_zeros(lanes, rows, part.in_features)
        self.errors = weight.new_zeros(lanes, rows, part.out_features)
        self.one = 0.0 if part.bias is None else 1.0
        self.inner = self.inputs

    def expect(self, lanes: slice, seen: int, width: int, counts: Tensor) -> None:
        """The next batch is of these lanes, of this width, after so many rows, which count as much `[C, seen]`."""
        self.lanes, self.seen, self.width = lanes, seen, width
        self.counts = counts.to(self.errors.dtype).unsqueeze(1)
        self.active = lanes.stop - (lanes.start or 0)
        self._out: Tensor | None = None

    def __call__(self, x: Tensor) -> Tensor:
        """What comes out for `[C * B, in]`, each lane's rows by its own weights."""
        if x.ndim != 2 or len(x) != self.active * self.width or self._out is not None:
            raise RuntimeError(f"the layer {self.name} is not called once, on a row for each example")
        bias = None if self.part.bias is None else self.part.bias.detach()
        base = functional.linear(x, self.part.weight.detach(), bias) if x.requires_grad else self._fixed(x, bias)
        lanes, start, stop = self.lanes, self.seen, self.seen + self.width
        own = x.view(self.active, self.width, -1)
        self.inputs[lanes, start:stop] = own.detach()
        inner = own @ self.inputs[lanes, :stop].mT + self.one
        self.inner = inner.detach()
        if start:
            moved = (inner[..., :start] * self.counts) @ self.errors[lanes, :start]
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

    def learn(self, errors: Tensor) -> Tensor:
        """Takes u `[C * B, out]` of the batch; inner products of its gradient with each row's, float64 `[C, n]`."""
        lanes, start, stop = self.lanes, self.seen, self.seen + self.width
        own = errors.view(self.active, self.width, -1)
        self.errors[lanes, start:stop] = own
        inner = (own @ self.errors[lanes, :stop].mT).mul_(self.inner)
        self._out = None
        return inner.sum(1, dtype=torch.float64)

    def summed(self, weights: Tensor) -> dict[str, Tensor]:
        """The weighted sums of all rows' outer products, by the parameters' names; weights: `[C, n]`."""
        errors = (self.errors * weights.to(self.errors).unsqueeze(2)).flatten(0, 1)
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

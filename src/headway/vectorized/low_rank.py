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

which give the length of a delta, and the Gram matrix of the steps to a stage that combines them.

Where steps are plain, a layer whose matrix takes no more room than the rows of a batch is held as a matrix
(`layers.py`), and so is every layer of clients that see more examples than outer products are good for.

Clients of a model that has other parameters too, such as convolutions, have weights of their own for those, and train
one after another by plain SGD; their large layers are still never written.

It is exact, up to the order of its sums; clients trained one at a time are its reference.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from headway.core import stopping
from headway.core.chain import Chain
from headway.core.flow import Flow
from headway.core.layout import Layout
from headway.data import Examples
from headway.model.flat_module import FlatModule
from headway.numerics.keys import Keys
from headway.training.loop_plan import LoopPlan
from headway.training.optimizers import SGD
from headway.training.training_inputs import TrainingInputs
from headway.vectorized.batch_schedule import DeviceSchedule, PrefetchedBatches
from headway.vectorized.batched_sgd import BatchPlan
from headway.vectorized.low_rank_layers import DenseDelta, Layer, OuterProductDelta, Reached, Stop, in_place
from headway.vectorized.momentum import MomentumCoefficients

FEW = 2  # times a layer's outputs: examples beyond which weights of one's own are cheaper
LEAST = 32
DENSE = 0.8  # of the rows are examples: what is beyond that is not worth working with padding
MOST_BYTES = 256 * 2**20  # of what came into the layers and of the errors


def not_suited(loop: LoopPlan, flat_module: FlatModule, chain: Chain, flow: Flow) -> str | None:
    """The reason why clients cannot train in low-rank form, as a phrase; `None` if they can: steps are linear in
    gradients of a model with linear layers, and no stage looks at a client's vector."""
    if loop.privacy is not None:
        return "each example's gradient is clipped"
    if not isinstance(loop.optimizer, SGD):
        return f"steps of {type(loop.optimizer).__name__} are not linear in the gradients"
    if loop.optimizer.weight_decay or loop.options.clip_gradient is not None:
        return "weight decay and clipped gradients need each client's weights"
    looks = [label for label, stage in chain.labelled if any(stage.has(hook) for hook in ("send", "decode"))]
    looks += [label for label, stage in chain.step_rules if not stage.is_proximal]
    if chain.aggregator.whole_cohort or flow.server_sees != "each":
        looks.append(type(chain.aggregator).__name__)
    if looks:
        return f"{looks[0]} looks at each client's update"
    if flow.needs and (flow.needs != {"steps"} or loop.options.steps_kept not in ("auto", "full")):
        return f"a stage needs more of each client ({', '.join(sorted(flow.needs))})"
    held = {id(parameter) for layer in _linear(flat_module).values() for parameter in layer.parameters()}
    everything = {id(parameter) for parameter in flat_module.parameters}
    if not held or not held <= everything:
        return "the model has no linear layer that is trained whole"
    if held == everything:
        # in one batch, each lane would have the draws of all
        return "dropout draws for each client apart" if flat_module.draws.layers else None
    return None if plain_steps(loop, chain, flow) else "clients with other parameters too train by plain SGD only"


def plain_steps(loop: LoopPlan, chain: Chain, flow: Flow) -> bool:
    """Whether a step is the learning rate times a gradient, and no stage needs to know it."""
    return not (loop.momentum_rule[0] or chain.step_rules or flow.needs)


def _linear(flat_module: FlatModule) -> dict[str, nn.Linear]:
    """The plain linear layers by name."""
    parts = flat_module.module.named_modules()
    return {name: part for name, part in parts if type(part) is nn.Linear and "forward" not in vars(part)}


@dataclass(frozen=True, slots=True)
class Summed:
    """The result of the training of many clients, without a vector for each.

    own: how the parameters moved that are in no linear layer, `[C, *shape]` by name.
    moved: what each step's gradient counts in the delta, `[C, K]`; changes: what each step added to that, `[C, K, K]`.
    inner: inner products of the steps' gradients, `[C, K, K]`, of all layers that do not know how far they moved.
    count, loss: steps and mean loss, `[C]`.
    """

    layers: list[Layer]
    own: dict[str, Tensor]
    layout: Layout
    moved: Tensor
    changes: Tensor
    inner: Tensor
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
        for layer in self.layers:
            if (known := layer.squares()) is not None:
                squares = squares + known.cpu()
        return squares.sqrt()

    def total(self, factors: Tensor) -> Tensor:
        """`sum_c f_c delta_c` as a vector `[P]`, from factors `[C]`."""
        named = {name: torch.tensordot(factors.to(moved), moved, 1) for name, moved in self.own.items()}
        for layer in self.layers:
            named |= layer.summed(self.moved, factors.double())
        return self.layout.flatten(named)


class LowRank:
    """Trains groups of clients in a flat module whose linear layers are never moved.

    plain: whether a client's steps are plain SGD, and no stage looks at them.
    own: the parameters that are in no linear layer, by name.  Without any, the clients train at once.
    """

    def __init__(self, loop: LoopPlan, flat_module: FlatModule, plain: bool = False) -> None:
        self.loop, self.flat_module, self.plain = loop, flat_module, plain
        self.layers = _linear(flat_module)
        self.widest = max(layer.out_features for layer in self.layers.values())
        lowered = {id(parameter) for layer in self.layers.values() for parameter in layer.parameters()}
        named = dict(flat_module.module.named_parameters())
        chosen = {entry.name: named[entry.name] for entry in flat_module.layout.entries}
        self.own = {name: parameter for name, parameter in chosen.items() if id(parameter) not in lowered}

    def probe(self, store: Examples) -> str | None:
        """Why the model does not call each layer once, on a row for each example, as a phrase: tried on two clients and
        two steps; `None` if it does."""
        index = torch.tensor([0, len(store) - 1])
        two = self.flat_module.site.take(store, index)
        inputs, targets = two.inputs, two.targets
        layers: list[Layer] = [
            OuterProductDelta(name, part, 2, (1, 1), self.room) for name, part in self.layers.items()
        ]
        moved, rates = (
            self.flat_module.site.put(torch.ones(2, 2, dtype=torch.float64)),
            self.flat_module.shared.new_ones(2),
        )
        self.flat_module.module.train()
        try:
            with in_place(layers):
                for number in (0, 1):
                    _expect(layers, slice(2), number, 1, moved)
                    losses = self.flat_module.task.criterion.per_example(self.flat_module.module(inputs), targets)
                    _learn(layers, [], losses.sum(), rates)
        except Exception as error:  # whatever a model may raise; in the run it is raised with client and stage
            return f"the model does not take rows in that form ({type(error).__name__}: {error})"
        return None

    def pays(self, plan: BatchPlan) -> bool:
        """Whether no client sees more examples than outer products are good for, or needs none; and all that is held
        fits in memory."""
        table, written = plan.table, self._written(plan)
        if len(written) < len(self.layers) and self._many(plan):
            return False
        rows = sum(table.widths())
        numbers = sum(
            part.weight.numel() if name in written else rows * (part.in_features + part.out_features)
            for name, part in self.layers.items()
        )
        return len(table.sizes) * numbers * self.flat_module.shared.dtype.itemsize <= MOST_BYTES

    def held(self, plan: BatchPlan) -> list[Layer]:
        """The layers of the clients of this plan, which have learned nothing yet."""
        lanes, widths, written = len(plan.table.sizes), plan.table.widths(), self._written(plan)
        return [
            DenseDelta(name, part, lanes, self.room)
            if name in written
            else OuterProductDelta(name, part, lanes, widths, self.room)
            for name, part in self.layers.items()
        ]

    def room(self, purpose: str, shape: Sequence[int], number: torch.dtype) -> Tensor:
        """Memory that the next batch writes over; torch itself does not give back that of a GPU."""
        if self.flat_module.site.on_gpu:
            return torch.empty(tuple(shape), dtype=number, device=self.flat_module.site.device)
        return self.flat_module.scratch(purpose, shape, number)

    def _written(self, plan: BatchPlan) -> set[str]:
        """The layers that are held as matrices: small ones, or all if they see more rows than pays otherwise."""
        if not self.plain:
            return set()
        if self._many(plan) and not self.own:
            return set(self.layers)
        width = max(plan.table.widths())
        return {
            name
            for name, part in self.layers.items()
            if part.weight.numel() <= width * (part.in_features + part.out_features)
        }

    def _many(self, plan: BatchPlan) -> bool:
        """Whether a client sees more examples than outer products are good for."""
        return int(plan.table.sizes.sum(1).max()) > max(FEW * self.widest, LEAST)

    def train(self, work: TrainingInputs, plan: BatchPlan) -> Summed:
        """The result of the clients' training; all start from the model in the context.

        Raises:
            Exception: whatever a model raises that calls a layer on no batch of rows, or more than once.
        """
        self.flat_module.load(work.ctx.global_params, None, None)
        self.flat_module.module.train()
        loop = LowRankLoop(self, work, plan)
        loop.look_ahead()
        with in_place(loop.layers):
            return loop.run()


class LowRankLoop:
    """The steps of some lanes, those with most steps first.

    The model, the rows, the losses and the inner products lie where the clients train, and are read at the end; what
    each row counts follows from the learning rates, which the processor knows, and is sent there.
    """

    def __init__(self, lowrank: LowRank, work: TrainingInputs, plan: BatchPlan) -> None:
        self.flat_module, self.own, self.table = lowrank.flat_module, lowrank.own, plan.table
        self.site, shared = self.flat_module.site, self.flat_module.shared
        lanes, count = self.table.sizes.shape
        self.layers, self.room = lowrank.held(plan), lowrank.room
        self.own_moved = {name: value.detach().new_empty(lanes, *value.shape) for name, value in self.own.items()}
        self.served = self.table.served(work.examples, self.site, shared.dtype)
        self.batches: DeviceSchedule | PrefetchedBatches = self.served
        self.losses = shared.new_zeros(lanes, count, dtype=torch.float64)
        self.motion = MomentumCoefficients(lanes, count, *lowrank.loop.momentum_rule, work.flows[-1].proximal)
        self.inner = shared.new_zeros(lanes, count, count, dtype=torch.float64)
        assert isinstance(work.key, Keys)
        self.dropout = work.key.derive("dropout").seeds().tolist() if self.flat_module.draws.layers else [0] * lanes

    def look_ahead(self) -> None:
        """Brings all batches at once, and has the first layer make the products of all that will come into it, where
        there is little padding."""
        widths = self.table.widths()
        padded = int(self.table.sizes.sum()) < DENSE * len(self.table.sizes) * sum(widths)
        if self.own or padded or not any(isinstance(layer, OuterProductDelta) for layer in self.layers):
            return
        self.batches = fetched = self.served.fetched(widths, self.room)
        try:
            with in_place([Stop(layer) for layer in self.layers]):
                self.flat_module.module(self.flat_module.to_memory_format(fetched.examples.inputs))
        except Reached as reached:
            if isinstance(reached.layer, OuterProductDelta):
                reached.layer.foresee(reached.rows)

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
            layout=self.flat_module.layout,
            moved=self.motion.moved,
            changes=self.motion.changes,
            inner=inner,
            count=self.table.counts,
            loss=losses,
        )

    def _steps(self, lanes: slice) -> None:
        """All steps of these lanes."""
        first = lanes.start or 0
        made = zip(self.table.active(lanes), self.table.widths(lanes), strict=True)
        for number, (active, width) in enumerate((active, width) for active, width in made if active):
            stopping.check()
            front = slice(first, first + active)
            _expect(self.layers, front, number, width, self.site.put(self.motion.moved[front]))
            self.flat_module.draws.at(self.dropout[first], number)
            self._step(front, number, width)

    def _step(self, lanes: slice, number: int, width: int) -> None:
        """One step of these lanes."""
        batch = self.batches.batch(lanes, number, width)
        outputs = self.flat_module.module(self.flat_module.to_memory_format(batch.inputs))
        each = self.flat_module.task.criterion.per_example(outputs, batch.targets).view(-1, width)
        mean = (each * self.served.weights[lanes, number, :width]).sum(1)
        rates = self.served.rates[lanes, number]
        inner, grads = _learn(self.layers, list(self.own.values()), mean.sum(), rates)
        if inner is not None:
            self.inner[lanes, number, : number + 1] = inner
        self.motion.step(lanes, number, self.table.rates[lanes, number])
        for parameter, grad in zip(self.own.values(), grads, strict=True):  # of a single lane
            parameter.detach().sub_(rates.to(grad.dtype) * grad)
        self.losses[lanes, number] = mean.detach().double()


def _expect(layers: list[Layer], lanes: slice, number: int, width: int, moved: Tensor) -> None:
    """Prepares every layer for the next batch; moved: the weight of each step's gradient by now, `[C, K]`."""
    for layer in layers:
        layer.expect(lanes, number, width)
        if isinstance(layer, OuterProductDelta):
            layer.count(moved)


def _learn(
    layers: list[Layer], own: list[nn.Parameter], loss: Tensor, rates: Tensor
) -> tuple[Tensor | None, tuple[Tensor, ...]]:
    """Gives every layer its gradients, of the sum of the lanes' losses; the inner products of this step's gradient with
    those so far, float64 `[C, K']`, if any layer needs them, and the gradients of the other parameters."""
    grads = torch.autograd.grad(loss, [*(layer.out() for layer in layers), *own], materialize_grads=True)
    learned = [layer.learn(grad, rates) for layer, grad in zip(layers, grads, strict=False)]
    inner = [products for products in learned if products is not None]
    return torch.stack(inner).sum(0) if inner else None, grads[len(layers) :]

"""Local training of many clients as one batched program: a lane per client, parameters stacked `[C, P]`.

Gradients come from `torch.func`: `vmap` over the gradient of one client's loss.  Clients need not be alike: batches
are padded to the longest, padding has weight zero, and lanes are sorted by their number of steps, so that
finished ones are left behind and never trained on.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from headway.core import stopping
from headway.data import Examples
from headway.model.flat_module import FlatModule
from headway.numerics.keys import Keys
from headway.protocol.messages import Ask
from headway.training.loop_plan import LoopPlan
from headway.training.trainer import Trained
from headway.training.training_inputs import TrainingInputs
from headway.training.update_rule import UpdateRule
from headway.vectorized.batch_measurements import held_out_rows, measure_each
from headway.vectorized.batch_schedule import BatchSchedule, DeviceSchedule
from headway.vectorized.batched_privacy import gradients_of, noise_of, schedule_of
from headway.vectorized.client_batch import ClientBatch
from headway.vectorized.compiled_gradients import BatchedGradients

ALIKE = 1e-3  # of its largest output, to which what a model gives is the same, in any precision


class BatchedSGD:
    """Trains groups of clients in a flat module whose model is never moved: it is called with stacked parameters."""

    def __init__(self, loop: LoopPlan, flat_module: FlatModule) -> None:
        self.loop, self.flat_module = loop, flat_module
        self.gradients = gradients_of(loop, flat_module)

    def plan(self, batch: ClientBatch, ask: Ask) -> tuple[ClientBatch, BatchPlan]:
        """The batch in the order of its lanes, and the work of each lane."""
        training, held_out = held_out_rows(batch, self.loop.options.validation)
        rounds = ask.rounds(batch.clients)
        places = enumerate(batch.clients if ask.steps else ())
        steps = {place: ask.steps[client] for place, client in places if client in ask.steps}
        table = schedule_of(self.loop, training, rounds, steps)
        return batch.chosen(table.lanes), BatchPlan(table, training.chosen(table.lanes), held_out.chosen(table.lanes))

    def probe(self, examples: Examples) -> str | None:
        """The reason why the model cannot be a batched program, as a phrase, from a trial on these examples; `None` if
        it can."""
        views = self.flat_module.layout.views(self.flat_module.shared.expand(2, -1).clone())
        examples = self.flat_module.site.examples(examples)
        inputs, targets = (t.unsqueeze(0).expand(2, *t.shape) for t in (examples.inputs, examples.targets))
        weights = self.flat_module.shared.new_full((2, len(examples)), 1 / len(examples))
        keys = self.flat_module.site.put(torch.zeros(2, dtype=torch.int64))
        self.flat_module.module.train()
        try:
            self.gradients(views, inputs, targets, weights, keys, keys[0])
        except Exception as error:  # whatever the model may raise; one at a time, it is raised with client and stage
            return f"{type(error).__name__} in a batched program"
        return self._mixes(examples)

    def _mixes(self, examples: Examples) -> str | None:
        """The result for an example that depends on the others in a batch, such as padding, as a phrase: of the model,
        or of the loss; `None` if neither does."""
        flat_module, first = self.flat_module, [0] * len(examples)
        made = []
        for batch in (examples, Examples(examples.inputs[first], examples.targets[first])):
            flat_module.draws.at(0, 0)
            with torch.no_grad():
                outputs = flat_module.module(flat_module.to_memory_format(batch.inputs))
                losses = flat_module.task.criterion.per_example(outputs, batch.targets)
            made.append((outputs[0].double(), losses[0].double()))
        whole = zip(*made, strict=True)
        outputs_differ, losses_differ = (bool((a - b).abs().max() > ALIKE * a.abs().max()) for a, b in whole)
        if outputs_differ:
            return "what it makes of an example depends on the others in a batch"
        return "the loss of an example depends on the others in a batch" if losses_differ else None

    def fits(self, plan: BatchPlan, keeps_steps: bool) -> bool:
        """Whether the steps of all lanes can be kept in full within the trainer's budget."""
        if not keeps_steps or self.loop.options.steps_kept not in ("auto", "full"):
            return not keeps_steps
        lanes, steps = plan.table.sizes.shape
        layout = self.flat_module.layout
        return lanes * steps * layout.size * layout.dtype.itemsize <= self.loop.options.steps_budget

    def train(self, work: TrainingInputs, plan: BatchPlan, compiled: BatchedGradients | None = None) -> Trained:
        """The outcome of the clients' training, `[C, ...]`; compiled: what gives the gradients of full batches of
        clients, where these are compiled."""
        measurements = measure_each(work, plan.training, plan.held_out)
        loop = BatchedLoop(self, work, plan.table, compiled)
        loop.run()
        return replace(loop.result(), measurements=measurements)


@dataclass(frozen=True, slots=True)
class BatchPlan:
    """The work of the lanes of a batch of clients: their schedule; the clients with the examples that they train on,
    and with held-out ones."""

    table: BatchSchedule
    training: ClientBatch
    held_out: ClientBatch


class BatchedLoop:
    """The steps of some lanes, those with most steps first."""

    def __init__(
        self,
        lanes: BatchedSGD,
        work: TrainingInputs,
        table: BatchSchedule,
        compiled: BatchedGradients | None = None,
    ) -> None:
        self.loop, self.flat_module, self.gradients = lanes.loop, lanes.flat_module, lanes.gradients
        self.work, self.table, self.compiled = work, table, compiled
        needs_steps = "steps" in work.flows[-1].needs
        self.measure = work.measure and not needs_steps
        self.start = work.ctx.global_params
        lane_count, steps = table.sizes.shape
        if self.compiled is not None and not self.compiled.takes(lane_count, max(table.widths())):
            self.compiled = None
        places = lane_count if self.compiled is None else self.compiled.lanes
        room = self.start.new_empty(places, self.start.shape[-1])
        room[lane_count:] = 0
        self.vectors, self.everywhere = room[:lane_count].copy_(self.start), self.flat_module.layout.views(room)
        self.steps = self.vectors.new_zeros(lane_count, steps, self.vectors.shape[1]) if needs_steps else None
        self.served = table.served(work.examples, self.flat_module.site, self.vectors.dtype)
        if self.compiled is not None:
            self.served = _padded(self.served, places, self.compiled.width)
        self.losses = self.vectors.new_zeros(lane_count, steps, dtype=torch.float64)
        self.squares = torch.zeros_like(self.losses) if self.measure else None
        assert isinstance(work.key, Keys)
        seeds = torch.zeros(places, dtype=torch.int64)
        if self.flat_module.draws.layers:
            seeds[:lane_count] = work.key.derive("dropout").seeds()
        self.dropout = self.flat_module.site.put(seeds)
        self.active = lane_count
        self._look_at_front()
        layout = self.flat_module.layout
        self.noise = noise_of(self.loop, work.ctx.private, table)
        self.update_rule = UpdateRule(self.loop, work, list(self.views.values()), layout.slices(self.vectors), True)

    def run(self) -> None:
        """All steps."""
        if not self.flat_module.module.training:
            self.flat_module.module.train()
        for number, (active, width) in enumerate(zip(self.table.active(), self.table.widths(), strict=True)):
            stopping.check()
            if active < self.active:
                self.active = active
                self._look_at_front()
                self.update_rule.keep_front(active)
                self.update_rule.attend(_front(self.work, active))
            self._step(number, width)

    def _look_at_front(self) -> None:
        self.views = self.flat_module.layout.views(self.vectors[: self.active])

    def _step(self, number: int, width: int) -> None:
        """One step of every active lane."""
        table, front = self.table, slice(self.active)
        grads, losses = self._gradients(number, width)
        before = self.vectors[front].clone() if self.steps is not None else None
        rates, here = table.rates[front, number], self.served.rates[front, number]
        if self.noise is not None:
            grads = self.noise.added(grads, number)
        with torch.no_grad():
            directions = self.update_rule.directions(grads)
            for view, direction in zip(self.views.values(), directions, strict=True):
                _descend(view, direction, rates, here)
            if self.squares is not None:
                lengths = self.update_rule.lengths(directions, self.flat_module.shared_count)
                self.squares[front, number] = lengths.double().square().sum(0) * here.square()
            if self.steps is not None and before is not None:
                torch.sub(self.vectors[front], before, out=self.steps[front, number])
        self.losses[front, number] = losses.detach().double()

    def _gradients(self, number: int, width: int) -> tuple[list[Tensor], Tensor]:
        """The gradients of the active lanes in a step, `[C, *shape]` each, and their losses; compiled where nearly all
        places of a full batch are taken."""
        made, compiled = None, self.compiled
        if compiled is not None and compiled.takes(self.active, width):
            made = compiled.run(self.everywhere, *self._arguments(compiled.lanes, number, compiled.width))
        if made is None:
            made = self.gradients(self.views, *self._arguments(self.active, number, width))
        return [made[0][name][: self.active] for name in self.views], made[1][: self.active]

    def _arguments(self, lanes: int, number: int, width: int) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """The arguments of the gradients of the first lanes, but for their parameters."""
        front = slice(lanes)
        batch = self.served.batch(front, number, width)
        inputs, targets = (t.unflatten(0, (lanes, width)) for t in (batch.inputs, batch.targets))
        weights = self.served.weights[front, number, :width].contiguous()
        return inputs, targets, weights, self.dropout[front], torch.tensor(number)

    def result(self) -> Trained:
        """The outcome, `[C, ...]`."""
        rule, table, proximal = self.loop.momentum_rule, self.table, self.work.flows[-1].proximal
        made = table.made
        return Trained(
            movement=self.vectors.sub_(self.start),
            count=table.counts,
            effective_lr=table.effective_lrs(rule, proximal),
            free_effective_lr=table.effective_lrs(rule, 0.0) if proximal else None,
            lr_sum=torch.where(made, table.rates, 0.0).sum(1),
            loss=table.mean_losses(self.losses),
            steps=self.steps,
            squares=None if self.squares is None else self.squares.cpu(),
        )


def _front(work: TrainingInputs, count: int) -> TrainingInputs:
    """The inputs of the step rules of the first lanes."""
    memory = {label: {name: tensor[:count] for name, tensor in kept.items()} for label, kept in work.memory.items()}
    assert isinstance(work.ctx.key, Keys)
    ctx, broadcast = replace(work.ctx, key=work.ctx.key[:count], examples=work.ctx.examples[:count]), work.broadcast
    if ctx.global_params.ndim > 1:  # each was asked with a model of its own
        ctx = replace(ctx, global_params=ctx.global_params[:count])
        broadcast = {
            label: {name: tensor[:count] for name, tensor in each.items()} for label, each in broadcast.items()
        }
    return replace(work, ctx=ctx, memory=memory, broadcast=broadcast)


def _padded(served: DeviceSchedule, lanes: int, width: int) -> DeviceSchedule:
    """The same with more lanes and wider batches, which count nothing: examples that are there are seen again."""
    held, _, wide = served.index.shape
    rows = torch.arange(lanes, device=served.index.device).clamp_max(held - 1)
    columns = torch.arange(max(width, wide), device=served.index.device).clamp_max(wide - 1)
    weights = served.weights.new_zeros(lanes, served.weights.shape[1], len(columns))
    weights[:held, :, :wide] = served.weights
    return replace(served, index=served.index[rows][:, :, columns], weights=weights)


def _descend(view: Tensor, direction: Tensor, rates: Tensor, here: Tensor) -> None:
    """`w <- w - lr direction`, each lane by its own learning rate `[C]`, which is read; here: the same, where w
    lies."""
    first = float(rates[0])
    if bool((rates == first).all()):
        view.add_(direction, alpha=-first)
        return
    view.sub_(direction * here.to(view.dtype).view(-1, *(1,) * (view.ndim - 1)))

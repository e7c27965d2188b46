"""The local loop of one client."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from headway.core import stopping
from headway.core.update import Tensors
from headway.data import Examples
from headway.numerics.keys import Key
from headway.training.loop_plan import LoopPlan
from headway.training.measurements import hold_out, measure
from headway.training.step_storage import StepRecorder, Steps, keep_steps
from headway.training.trainer import Trained
from headway.training.training_inputs import TrainingInputs
from headway.training.update_rule import StepStatistics, UpdateRule


def train_by(plan: LoopPlan, work: TrainingInputs) -> Trained:
    """Runs the loop of a plan; the flat module's model ends trained."""
    examples, held_out = hold_out(work.examples, plan.options.validation)
    work = replace(work, examples=examples)
    measurements, key = measure(work, held_out), work.key
    work.flat_module.attributes.restore()
    assert isinstance(key, Key)
    count = plan.options.step_count(key, len(examples)) if work.steps is None else work.steps

    def run(recorder: StepRecorder | None) -> LocalLoop:
        loop = LocalLoop(plan, work, recorder)
        for batch, lr in batches_of(plan, work, count):
            stopping.check()
            loop.step(batch, lr)
        return loop

    steps: Tensor | Steps | None = None
    if "steps" in work.flows[-1].needs:
        kept = plan.options.step_plan(count, work.flat_module.layout)
        steps, loop = keep_steps(kept, work.flat_module, run)
    else:
        loop = run(None)
    return replace(loop.result(measurements), steps=steps)


def batches_of(plan: LoopPlan, work: TrainingInputs, count: int) -> Iterator[tuple[Examples, float]]:
    """The batches of so many steps of this round, each with its learning rate."""
    examples, site, key = work.examples, work.flat_module.site, work.key
    assert isinstance(key, Key)
    for order, cuts in plan.options.epochs_of(len(examples), key, count, int(work.ctx.round)):
        shuffled = examples if order is None else examples.take(site.index_on_store_device(examples, order))
        for start, stop, lr in cuts:
            yield site.examples(shuffled.rows(start, stop)), lr


class LocalLoop:
    """The state of one client's local loop; a recorder takes in the model after each step."""

    def __init__(self, plan: LoopPlan, work: TrainingInputs, recorder: StepRecorder | None) -> None:
        self.plan, self.work, self.flat_module, self.recorder = plan, work, work.flat_module, recorder
        if not self.flat_module.module.training:
            self.flat_module.module.train()
        self.mean_loss = self.flat_module.task.criterion.mean
        assert isinstance(work.key, Key)
        self.dropout = work.key.derive("dropout").seed()
        self.forward = None if plan.loss_term is None else plan.loss_term.begin(work)
        self.start = work.ctx.global_params
        shared = self.flat_module.layout.slices(self.flat_module.shared)
        self.update_rule = UpdateRule(plan, work, self.flat_module.parameters, shared)
        proximal = work.flows[-1].proximal
        self.statistics = StepStatistics(plan.momentum_rule, proximal)
        self.free = StepStatistics(plan.momentum_rule, 0.0) if proximal else self.statistics
        self.losses: list[Tensor] = []
        self.measure = work.measure and recorder is None  # from a recorder, the Gram matrix has them
        self.lengths: list[Tensor] = []
        self.lrs: list[float] = []

    def step(self, batch: Examples, lr: float) -> None:
        """One local step."""
        parameters = self.flat_module.parameters
        grads, loss = self._gradients(batch)
        with torch.no_grad():
            directions = self.update_rule.directions(grads)
            for parameter, direction in zip(parameters, directions, strict=True):
                parameter.add_(direction, alpha=-lr)
            if self.measure:
                self.lrs.append(lr)
                self.lengths.append(self.update_rule.lengths(directions, self.flat_module.shared_count))
        self.losses.append(loss.detach())
        self.statistics.step(len(batch), lr)
        if self.free is not self.statistics:
            self.free.step(len(batch), lr)
        if self.recorder is not None:
            self.recorder.add(self.flat_module.shared)

    def _gradients(self, batch: Examples) -> tuple[list[Tensor], Tensor]:
        """The gradients of a batch, and its loss, by the function that the work brings, where that takes the batch."""
        inputs, trace, step = self.flat_module.to_memory_format(batch.inputs), self.work.trace, self.statistics.count
        given = self.work.gradients
        if given is not None and (made := given(inputs, batch.targets, self.dropout, step)) is not None:
            return made
        trace.enter("the model's forward pass", inputs=inputs)
        term: Tensor | None = None
        self.flat_module.draws.at(self.dropout, step)
        if self.forward is None:
            outputs = self.flat_module.module(inputs)
        else:
            outputs, term = self.forward(inputs)
        trace.enter("the loss", outputs=outputs, targets=batch.targets)
        loss = self.mean_loss(outputs, batch.targets)
        trace.enter("the backward pass", inputs=inputs, targets=batch.targets, loss=loss, term=term)
        whole = loss if term is None else loss + term
        return list(torch.autograd.grad(whole, self.flat_module.parameters, materialize_grads=True)), loss

    def result(self, measurements: Tensors) -> Trained:
        """The outcome of the steps so far."""
        term = self.plan.loss_term
        return Trained(
            movement=self.flat_module.shared - self.start,
            count=self.statistics.count,
            effective_lr=self.statistics.effective_lr,
            free_effective_lr=self.free.effective_lr,
            lr_sum=self.statistics.lr_sum,
            loss=self.statistics.mean_loss(torch.stack(self.losses).tolist()),
            measurements=measurements,
            keep={} if term is None else term.keep(self.flat_module),
            squares=step_squares(self.lengths, self.lrs) if self.measure else None,
        )


def step_squares(lengths: Sequence[Tensor], lrs: Sequence[float]) -> Tensor:
    """The squared length of each step, float64 `[K]`, from the lengths `[tensors]` of each tensor's direction."""
    squares = torch.stack(list(lengths)).double().square().sum(1).cpu()
    return squares * torch.tensor(lrs, dtype=torch.float64).square()

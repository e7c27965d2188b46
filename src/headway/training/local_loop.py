"""The local loop of one client."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from operator import mul
from typing import Protocol

import torch
from torch import Tensor

from headway.core import stopping
from headway.core.context import NOTHING
from headway.core.update import Tensors
from headway.data import epoch_order
from headway.numerics.keys import Key
from headway.training.client_steps import ClientSteps, steps_of
from headway.training.loop_plan import LoopPlan
from headway.training.measurements import hold_out, measure
from headway.training.step_storage import StepRecorder, keep_steps
from headway.training.trainer import Trained
from headway.training.training_inputs import TrainingInputs
from headway.training.update_rule import UpdateRule


class HasPlan(Protocol):
    """A trainer with a plan of a local loop."""

    @property
    def plan(self) -> LoopPlan:
        """The plan."""


def train_by_plan(trainer: HasPlan, work: TrainingInputs) -> Trained:
    """Runs the local loop of a trainer; the flat module's model ends trained."""
    plan, needs, measurements = trainer.plan, work.flows[-1].needs, NOTHING
    if plan.options.validation or needs:
        examples, held_out = hold_out(work.examples, plan.options.validation)
        work = replace(work, examples=examples)
        measurements = measure(work, held_out)
        work.flat_module.attributes.restore()
    steps = work.client_steps or _alone(plan, work)
    if "steps" not in needs:
        return _run(plan, work, steps, None).result(measurements)
    kept = plan.options.step_plan(steps.count, work.flat_module.layout)
    single_steps, loop = keep_steps(kept, work.flat_module, partial(_run, plan, work, steps))
    return replace(loop.result(measurements), steps=single_steps)


def _alone(plan: LoopPlan, work: TrainingInputs) -> ClientSteps:
    """The steps of a client for which they were not worked out with others'; work: with the examples to train on."""
    options, examples, key = plan.options, len(work.examples), work.key
    assert isinstance(key, Key)
    count = options.step_count(key, examples) if work.steps is None else work.steps
    return steps_of(options, plan.momentum_rule, work.flows[-1].proximal, examples, count, int(work.ctx.round))


def _run(plan: LoopPlan, work: TrainingInputs, steps: ClientSteps, recorder: StepRecorder | None) -> LocalLoop:
    """All steps; a recorder takes in the model after each."""
    loop = LocalLoop(plan, work, steps, recorder)
    for inputs, targets, lr in batches_of(work, steps):
        if stopping.flag.number is not None or stopping.flag.interrupted:
            stopping.check()
        loop.step(inputs, targets, lr)
    return loop


def batches_of(work: TrainingInputs, steps: ClientSteps) -> Iterator[tuple[Tensor, Tensor, float]]:
    """The inputs and targets of each step, where the model is, and its learning rate."""
    site, key, count = work.flat_module.site, work.key, len(work.examples.inputs)
    moves = work.flat_module.moves
    for epoch, batches in enumerate(steps.epochs):
        inputs, targets = work.examples.inputs, work.examples.targets
        if steps.mixed:
            assert isinstance(key, Key)
            order = (
                steps.orders[epoch][:count] if steps.orders else epoch_order(count, key.derive("epoch", epoch), True)
            )
            order = site.index_on_store_device(work.examples, order) if moves else order
            inputs, targets = inputs[order], targets[order]
        for start, stop, lr in batches:
            x, y = inputs[start:stop], targets[start:stop]
            yield (site.put(x), site.put(y), lr) if moves else (x, y, lr)


class LocalLoop:
    """The state of one client's local loop; a recorder takes in the model after each step."""

    def __init__(self, plan: LoopPlan, work: TrainingInputs, steps: ClientSteps, recorder: StepRecorder | None) -> None:
        self.plan, self.work, self.flat_module, self.recorder = plan, work, work.flat_module, recorder
        self.steps, self.count = steps, 0
        if not self.flat_module.module.training:
            self.flat_module.module.train()
        self.mean_loss = self.flat_module.task.criterion.mean
        self.forward = None if plan.loss_term is None else plan.loss_term.begin(work)
        self.start = work.ctx.global_params
        self.update_rule = UpdateRule(plan, work, self.flat_module.parameters, self.flat_module.shared_slices)
        self.losses: list[Tensor] = []
        self.measure = work.measure and recorder is None  # from a recorder, the Gram matrix has them
        self.lengths: list[Tensor] = []
        self.lrs: list[float] = []

    def step(self, inputs: Tensor, targets: Tensor, lr: float) -> None:
        """One local step."""
        parameters = self.flat_module.parameters
        grads, loss = self._gradients(inputs, targets)
        with torch.no_grad():
            directions = self.update_rule.directions(grads)
            for parameter, direction in zip(parameters, directions, strict=True):
                parameter.add_(direction, alpha=-lr)
            if self.measure:
                self.lrs.append(lr)
                self.lengths.append(self.update_rule.lengths(directions, self.flat_module.shared_count))
        self.losses.append(loss.detach())
        self.count += 1
        if self.recorder is not None:
            self.recorder.add(self.flat_module.shared)

    def _gradients(self, inputs: Tensor, targets: Tensor) -> tuple[list[Tensor], Tensor]:
        """The gradients of a batch, and its loss, by the function that the work brings, where that takes the batch."""
        flat_module, trace, dropout = self.flat_module, self.work.trace, self.work.dropout
        if flat_module.channels_last:
            inputs = flat_module.to_memory_format(inputs)
        given = self.work.gradients
        if given is not None and (made := given(inputs, targets, dropout, self.count)) is not None:
            return made
        trace.where, trace.inputs = "the model's forward pass", {"inputs": inputs}
        term: Tensor | None = None
        if flat_module.draws.layers:
            flat_module.draws.at(dropout, self.count)
        if self.forward is None:
            outputs = flat_module.module(inputs)
        else:
            outputs, term = self.forward(inputs)
        trace.where, trace.inputs = "the loss", {"outputs": outputs, "targets": targets}
        loss = self.mean_loss(outputs, targets)
        trace.where, trace.inputs = (
            "the backward pass",
            {"inputs": inputs, "targets": targets, "loss": loss, "term": term},
        )
        whole = loss if term is None else loss + term
        return list(torch.autograd.grad(whole, flat_module.parameters, materialize_grads=True)), loss

    def result(self, measurements: Tensors) -> Trained:
        """The outcome of the steps."""
        term, made, free = self.plan.loss_term, self.steps.statistics, self.steps.free_statistics
        return Trained(
            movement=self.flat_module.shared - self.start,
            count=self.count,
            effective_lr=made.effective_lr,
            free_effective_lr=free.effective_lr,
            lr_sum=made.lr_sum,
            loss=sum(map(mul, torch.stack(self.losses).tolist(), made.sizes)) / (sum(made.sizes) or 1),
            measurements=measurements,
            keep={} if term is None else term.keep(self.flat_module),
            squares=step_squares(self.lengths, self.lrs) if self.measure else None,
        )


def step_squares(lengths: Sequence[Tensor], lrs: Sequence[float]) -> Tensor:
    """The squared length of each step, float64 `[K]`, from the lengths `[tensors]` of each tensor's direction."""
    squares = torch.stack(list(lengths)).double().square().sum(1).cpu()
    return squares * torch.tensor(lrs, dtype=torch.float64).square()

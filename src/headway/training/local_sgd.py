"""LocalSGD: the default local trainer."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal, final

import torch
from torch import Tensor

from headway.core import stopping
from headway.core.errors import ConfigError
from headway.core.fields import at_least, between, positive
from headway.core.flow import TrainerFacts
from headway.core.layout import Layout
from headway.core.registry import Plain
from headway.core.update import Tensors
from headway.data import Examples, batch_bounds, epoch_order
from headway.data.dataset.batches import LastBatch
from headway.model.flat_module import FlatModule
from headway.numerics.keys import Key
from headway.numerics.units import bytes_of
from headway.training.loss_terms import LossTerm
from headway.training.measurements import HELD_OUT, MEASUREMENTS, held_out_count, hold_out, measure
from headway.training.step_storage import StepPlan, StepRecorder, Steps, keep_steps, plan_steps
from headway.training.trainer import Trained, Trainer, TrainingInputs, trainers
from headway.training.update_rule import StepStatistics, UpdateRule

PART = "For part of an epoch say how many local steps: `steps`, in a run file algorithm.trainer.steps."


@dataclass(frozen=True)
class Schedule(Plain):
    """The learning rate over time, as a factor of LocalSGD's `lr`.

    Formula, t being the number of rounds, local epochs or local steps that are complete:

        constant:     1
        step:         factor ** (t // every)
        exponential:  factor ** t
        linear:       1 - (1 - floor) * min(t / horizon, 1)
        cosine:       floor + (1 - floor) * (1 + cos(pi * min(t / horizon, 1))) / 2

    over: what t counts; epochs and steps start anew in each round.

    Raises:
        ConfigError: for an unknown kind, or a factor, floor, horizon or interval out of range.

    >>> [Schedule(kind="step", every=2, factor=0.5)(t) for t in range(5)]
    [1.0, 1.0, 0.5, 0.5, 0.25]
    """

    kind: Literal["constant", "step", "exponential", "linear", "cosine"] = "constant"
    over: Literal["rounds", "epochs", "steps"] = "rounds"
    factor: float = between(0, 1, 0.5, without=0)
    every: int = at_least(1, 1)
    horizon: int = at_least(1, 100)
    floor: float = between(0, 1, 0.0)

    def __call__(self, t: int) -> float:
        """The factor after t rounds, epochs or steps."""
        done = min(t / self.horizon, 1.0)
        if self.kind == "step":
            return float(self.factor ** (t // self.every))
        if self.kind == "exponential":
            return float(self.factor**t)
        if self.kind == "linear":
            return 1 - (1 - self.floor) * done
        if self.kind == "cosine":
            return self.floor + (1 - self.floor) * (1 + math.cos(math.pi * done)) / 2
        return 1.0


@final
@trainers.register
@dataclass(frozen=True)
class LocalSGD(Trainer):
    """Minibatch SGD on the client's examples.

    Formula, per step, g being the mean gradient over the batch (of the examples that it really has):
    `g <- step rules of the chain`; `g <- g min(1, clip_gradient / ||g||)`; `g <- g + weight_decay w`;
    `v <- momentum v + g`; `w <- w - lr v` (nesterov: `w - lr (g + momentum v)`).  v starts at 0 each round.
    Step rules that steer map the direction (v, or g + momentum v) instead.

    batch_size: examples per step, `None` for all.  epochs: passes over the client's examples, in a new order each; or
        steps: a fixed number of steps, if given.
    last_batch: what becomes of an epoch's last batch if it is smaller than batch_size: "keep", "merge" (it joins the
        batch before it) or "drop" (other examples are left out in each epoch).  A client's only batch is kept.
    steps_memory: bytes that the single steps may take where a stage combines them (a number, or a text such as
        "256 MB").  steps_kept: how they are kept, "full", "half" or "replay"; "auto" takes the first that fits.
    stragglers: the share of clients, drawn each round, that manage only 1 to epochs-1 epochs (or 1 to
        steps-1 steps), drawn evenly; under the policy "partial" they send what they have, under "drop"
        nothing.  Reference: Li et al., arXiv 1812.06127, section 5.2.
    validation: the share of its examples that each client never trains on, for stages that need its validation
        loss; at least one example, the same ones in every round.
    loss_term: what is added to the task's loss in each step, such as `Moon(mu=1.0)`.

    Raises:
        ConfigError: for a number out of range or of a wrong type.

    >>> LocalSGD(lr=0.1, epochs=2).facts.name
    'LocalSGD'
    """

    lr: float = positive(0.1)
    batch_size: int | None = positive(32)
    epochs: int = positive(1, hint=PART)
    steps: int | None = positive(None)
    momentum: float = between(0, 1, 0.0, without=1)
    nesterov: bool = False
    weight_decay: float = at_least(0, 0.0)
    clip_gradient: float | None = positive(None)
    schedule: Schedule = Schedule()
    stragglers: float = between(0, 1, 0.0)
    straggler_policy: Literal["partial", "drop"] = "partial"
    validation: float = between(0, 1, 0.0, without=1)
    loss_term: LossTerm | None = None
    steps_memory: int | str = "1 GB"
    steps_kept: Literal["auto", "full", "half", "replay"] = "auto"
    last_batch: LastBatch = "keep"

    def __post_init__(self) -> None:
        if self.nesterov and not self.momentum:
            raise ConfigError("LocalSGD.nesterov needs momentum above 0.")
        bytes_of(self.steps_memory, "LocalSGD.steps_memory")
        if self.stragglers and (self.steps or self.epochs) < 2:
            raise ConfigError(
                "stragglers do part of the work, which needs at least 2 epochs (or 2 steps): raise LocalSGD.epochs."
            )

    @property
    def facts(self) -> TrainerFacts:
        """Offers single steps and what is measured before them; a validation loss where examples are held out."""
        missing = frozenset() if self.validation else HELD_OUT
        term = self.loss_term
        how = "in full, else in half precision, else by repeated training, as fits"
        how = how if self.steps_kept == "auto" else self.steps_kept
        return TrainerFacts(
            "LocalSGD",
            frozenset({"steps", *MEASUREMENTS}) - missing,
            memory=term is not None and term.has_client_state,
            adds="" if term is None else repr(term),
            steps=f"kept within {self.steps_memory} a client, {how}",
            paced=True,
            applies=frozenset({"gradient", "step"}),
            hints=dict.fromkeys(missing, "train with LocalSGD(validation=0.1)"),
        )

    def rate(self, round_: int) -> float:
        """lr by the schedule, where that counts rounds; else lr, with which each round begins."""
        return self.lr * self.schedule(round_ if self.schedule.over == "rounds" else 0)

    def check(self, flat_module: FlatModule) -> None:
        """Refuses a model that the loss term cannot look into."""
        if self.loss_term is not None:
            self.loss_term.check(flat_module)

    def keeps(self, flat_module: FlatModule) -> Tensors:
        """What the loss term remembers."""
        return {} if self.loss_term is None else self.loss_term.keep(flat_module)

    def drops(self, client_key: Key) -> bool:
        """Whether this client is a straggler under the policy "drop"."""
        return self.straggler_policy == "drop" and self._straggles(client_key)

    def dropped(self, keys: Sequence[Key]) -> list[bool]:
        """`drops` of each of many clients; no key is looked at where nobody is dropped."""
        if self.straggler_policy != "drop" or not self.stragglers:
            return [False] * len(keys)
        return super().dropped(keys)

    def train(self, work: TrainingInputs) -> Trained:
        """Runs the local loop; the flat module's model ends trained."""
        examples, held_out = hold_out(work.examples, self.validation)
        work = replace(work, examples=examples)
        start, key = measure(work, held_out), work.key
        work.flat_module.attributes.restore()
        assert isinstance(key, Key)
        count = self.step_count(key, len(examples)) if work.steps is None else work.steps

        def run(tape: StepRecorder | None) -> _Loop:
            loop = _Loop(self, work, tape)
            for batch, lr in self._batches(work, key, count):
                stopping.check()
                loop.step(batch, lr)
            return loop

        steps: Tensor | Steps | None = None
        if "steps" in work.flows[-1].needs:
            plan = self._plan(count, work.flat_module.layout)
            steps, loop = keep_steps(plan, work.flat_module, run)
        else:
            loop = run(None)
        return replace(loop.result(start), steps=steps)

    def step_plan(self, examples: int, layout: Layout) -> StepPlan:
        """How the steps of a client of so many examples are kept, if it does all of its work.

        Raises:
            ConfigError: if they cannot be kept within `steps_memory`.
        """
        return self._plan(self.most_steps(examples), layout)

    @property
    def steps_budget(self) -> int:
        """`steps_memory` in bytes."""
        return bytes_of(self.steps_memory, "LocalSGD.steps_memory")

    def bounds(self, examples: int) -> list[tuple[int, int]]:
        """Where each batch of an epoch of so many examples starts and stops."""
        return batch_bounds(examples, self.batch_size, self.last_batch)

    def most_steps(self, examples: int) -> int:
        """How many local steps a client of so many examples makes if it does all of its work."""
        return self._steps_in(self.steps or self.epochs, examples - held_out_count(examples, self.validation))

    def _steps_in(self, amount: int, examples: int) -> int:
        """The local steps in so many epochs (or steps) of so many examples."""
        return amount if self.steps is not None else amount * len(self.bounds(examples))

    def _plan(self, count: int, layout: Layout) -> StepPlan:
        return plan_steps(count, layout.size, layout.dtype.itemsize, self.steps_budget, self.steps_kept)

    def _straggles(self, key: Key) -> bool:
        return self.stragglers > 0 and float(key.derive("straggler").uniform(1)) < self.stragglers

    def amount(self, key: Key) -> int:
        """How many epochs (or steps) this client manages in this round."""
        whole = self.steps or self.epochs
        return int(key.derive("amount").integers(1, whole - 1, 1)) if self._straggles(key) else whole

    def step_count(self, key: Key, examples: int) -> int:
        """How many local steps a client that trains on so many examples makes in this round."""
        return self._steps_in(self.amount(key), examples)

    def examples_used(self, examples: int, client_key: Key) -> int:
        """Those of all its steps."""
        training = examples - held_out_count(examples, self.validation)
        sizes = [stop - start for start, stop in self.bounds(training)]
        epochs, rest = divmod(self.step_count(client_key, training), len(sizes))
        return epochs * sum(sizes) + sum(sizes[:rest])

    def steps_within(self, examples: int, most: int) -> tuple[int, int]:
        """Whole batches only: what does not fit is not begun."""
        training = examples - held_out_count(examples, self.validation)
        bounds = self.bounds(training)
        each = bounds[-1][1]
        epochs, rest = divmod(most, each)
        fitting = [stop for _, stop in bounds if stop <= rest]
        return epochs * len(bounds) + len(fitting), epochs * each + max(fitting, default=0)

    def amounts(self, keys: Sequence[Key]) -> Tensor:
        """`amount` of each of these clients, int64 `[C]`; no key is looked at where nobody straggles."""
        if not self.stragglers:
            return torch.full((len(keys),), self.steps or self.epochs)
        return torch.tensor([self.amount(key) for key in keys])

    def _batches(self, work: TrainingInputs, key: Key, count: int) -> Iterator[tuple[Examples, float]]:
        """The batches of so many steps of this round, each with its learning rate."""
        examples, site = work.examples, work.flat_module.site
        for order, cuts in self.epochs_of(len(examples), key, count, int(work.ctx.round)):
            shuffled = examples if order is None else examples.take(site.index_on_store_device(examples, order))
            for start, stop, lr in cuts:
                yield site.examples(shuffled.rows(start, stop)), lr

    def epochs_of(
        self, count: int, key: Key, steps: int, round_: int
    ) -> Iterator[tuple[Tensor | None, list[tuple[int, int, float]]]]:
        """For each epoch of so many steps the order of the `count` examples, `[count]` or `None` where they are one
        batch, and each batch as (start, stop, learning rate)."""
        bounds = self.bounds(count)
        mixed = len(bounds) > 1 or bounds[-1][1] < count
        step = epoch = 0
        while step < steps:
            order = epoch_order(count, key.derive("epoch", epoch), True) if mixed else None
            cuts = []
            for start, stop in bounds[: steps - step]:
                t = {"rounds": round_, "epochs": epoch, "steps": step}[self.schedule.over]
                cuts.append((start, stop, self.lr * self.schedule(t)))
                step += 1
            yield order, cuts
            epoch += 1


class _Loop:
    """The state of one client's local loop; a tape is told the model after each step."""

    def __init__(self, trainer: LocalSGD, work: TrainingInputs, tape: StepRecorder | None) -> None:
        self.trainer, self.work, self.flat_module, self.tape = trainer, work, work.flat_module, tape
        if not self.flat_module.module.training:
            self.flat_module.module.train()
        self.mean_loss = self.flat_module.task.criterion.mean
        assert isinstance(work.key, Key)
        self.dropout = work.key.derive("dropout").seed()
        self.forward = None if trainer.loss_term is None else trainer.loss_term.begin(work)
        self.start = work.ctx.global_params
        self.descent = UpdateRule(
            trainer, work, self.flat_module.parameters, self.flat_module.layout.slices(self.flat_module.shared)
        )
        self.account = StepStatistics(trainer.momentum, trainer.nesterov, work.flows[-1].proximal)
        self.free = StepStatistics(trainer.momentum, trainer.nesterov, 0.0) if work.flows[-1].proximal else self.account
        self.losses: list[Tensor] = []
        self.measure = work.measure and tape is None  # from a tape, the Gram matrix tells
        self.lengths: list[Tensor] = []
        self.lrs: list[float] = []

    def step(self, batch: Examples, lr: float) -> None:
        """One local step."""
        parameters = self.flat_module.parameters
        grads, loss = self._gradients(batch)
        with torch.no_grad():
            directions = self.descent.directions(grads)
            for parameter, direction in zip(parameters, directions, strict=True):
                parameter.add_(direction, alpha=-lr)
            if self.measure:
                self.lrs.append(lr)
                self.lengths.append(self.descent.lengths(directions, self.flat_module.shared_count))
        self.losses.append(loss.detach())
        self.account.step(len(batch), lr)
        if self.free is not self.account:
            self.free.step(len(batch), lr)
        if self.tape is not None:
            self.tape.add(self.flat_module.shared)

    def _gradients(self, batch: Examples) -> tuple[list[Tensor], Tensor]:
        """Those of a batch, and its loss; compiled, if that was wished for batches of this size."""
        inputs, trace, step = self.flat_module.to_memory_format(batch.inputs), self.work.trace, self.account.count
        compiled = self.flat_module.compiled
        if compiled is not None and (found := compiled(inputs, batch.targets, self.dropout, step)) is not None:
            return found
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
        """What was done."""
        term = self.trainer.loss_term
        return Trained(
            movement=self.flat_module.shared - self.start,
            count=self.account.count,
            effective_lr=self.account.effective_lr,
            free_effective_lr=self.free.effective_lr,
            lr_sum=self.account.lr_sum,
            loss=self.account.mean_loss(torch.stack(self.losses).tolist()),
            measurements=measurements,
            keep={} if term is None else term.keep(self.flat_module),
            squares=step_squares(self.lengths, self.lrs) if self.measure else None,
        )


def step_squares(lengths: Sequence[Tensor], lrs: Sequence[float]) -> Tensor:
    """The squared length of each step, float64 `[K]`, from the lengths `[tensors]` of what each tensor moved along."""
    squares = torch.stack(list(lengths)).double().square().sum(1).cpu()
    return squares * torch.tensor(lrs, dtype=torch.float64).square()

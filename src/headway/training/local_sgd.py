"""LocalSGD: the default local trainer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, final

from headway.core.fields import at_least, between, positive
from headway.data.dataset.batches import LastBatch
from headway.training.loop_plan import LoopPlan
from headway.training.loop_trainer import LoopTrainer
from headway.training.loss_terms import LossTerm
from headway.training.optimizers import SGD, check_nesterov
from headway.training.schedule import Schedule
from headway.training.sgd_options import SGDOptions
from headway.training.trainer import trainers

PART = "For part of an epoch set the number of local steps: `steps`, in a run file algorithm.trainer.steps."


@final
@trainers.register
@dataclass(frozen=True)
class LocalSGD(LoopTrainer):
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

    def make_plan(self) -> LoopPlan:
        """The local loop with SGD as its optimizer."""
        check_nesterov(self.nesterov, self.momentum, "LocalSGD")
        sgd = SGD(self.momentum, self.nesterov, self.weight_decay)
        return LoopPlan(SGDOptions.of(self), sgd, self.loss_term, plain=not (self.momentum or self.weight_decay))

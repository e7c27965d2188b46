"""LocalOptimizer: the local trainer with any optimizer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, final

from headway.core.fields import at_least, between, positive
from headway.data.dataset.batches import LastBatch
from headway.training.loop_plan import LoopPlan
from headway.training.loop_trainer import LoopTrainer
from headway.training.loss_terms import LossTerm
from headway.training.optimizers import AdamW, Optimizer
from headway.training.schedule import Schedule
from headway.training.sgd_options import SGDOptions
from headway.training.trainer import trainers


@final
@trainers.register
@dataclass(frozen=True)
class LocalOptimizer(LoopTrainer):
    """Minibatch descent on the client's examples by AdamW, Adam, RMSprop, Adagrad or SGD.

    Formula, per step k = 0, 1, ..., g being the mean gradient over the batch: `g <- step rules of the chain`;
    `g <- g min(1, clip_gradient / ||g||)`; `d = the optimizer's direction of g`; `d <- rules for directions`;
    `w <- w - lr_k d`, lr_k being lr by the schedule, times `min(1, (k + 1) / (warmup_steps + 1))`.

    optimizer: such as `AdamW(weight_decay=0.1)`; its name alone stands for the defaults of torch.optim.  What it keeps
        between steps starts anew with each client and round.
    warmup_steps: how many steps at the start of each round have smaller learning rates, which rise linearly.
    The other fields are those of `LocalSGD`, which is this trainer with `SGD` as its optimizer.

    Chains that need steps that are linear in the gradients are refused for other optimizers than SGD: FedNova, and
    Scaffold(option="II", correct="gradient"), which divide by the learning rate that gradients received.

    Raises:
        ConfigError: for a number out of range or of a wrong type, or an unknown optimizer.

    Reference: Wang et al., arXiv 2106.02305, Algorithm 1 (adaptive optimizers at clients, their state restarted).

    >>> from headway.training.optimizers import RMSprop
    >>> LocalOptimizer(RMSprop(), lr=0.01).optimizer
    RMSprop(alpha=0.99, eps=1e-08, weight_decay=0.0, momentum=0.0, centered=False)
    """

    optimizer: Optimizer = AdamW()
    lr: float = positive(0.001)
    batch_size: int | None = positive(32)
    epochs: int = positive(1)
    steps: int | None = positive(None)
    warmup_steps: int = at_least(0, 0)
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
        """The local loop with this optimizer."""
        return LoopPlan(SGDOptions.of(self), self.optimizer, self.loss_term)

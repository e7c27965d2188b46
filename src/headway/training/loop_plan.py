"""The plan of a local loop, which one client runs, or many at once."""

from __future__ import annotations

from dataclasses import dataclass

from headway.training.example_privacy import ExamplePrivacy
from headway.training.loss_terms import LossTerm
from headway.training.optimizers import Optimizer
from headway.training.sgd_options import SGDOptions


@dataclass(frozen=True, slots=True)
class LoopPlan:
    """A local loop: its numbers, the optimizer of its steps, and what it adds to the task's loss.

    plain: whether the optimizer moves along the gradient itself.  privacy: of single examples, if there is any.
    """

    options: SGDOptions
    optimizer: Optimizer
    loss_term: LossTerm | None = None
    plain: bool = False
    privacy: ExamplePrivacy | None = None

    @property
    def momentum_rule(self) -> tuple[float, bool]:
        """The momentum of the optimizer and whether it is Nesterov's; without momentum where steps are not linear in
        the gradients."""
        return self.optimizer.momentum_rule or (0.0, False)

    def learning_rate(self, step: int, round_: int) -> float:
        """The learning rate of a local step with a Poisson batch, after `round_` rounds."""
        options, privacy = self.options, self.privacy
        assert privacy is not None
        assert privacy.sample_rate is not None
        epoch = int(step * privacy.sample_rate + 1e-9)
        t = {"rounds": round_, "epochs": epoch, "steps": step}[options.schedule.over]
        return options.lr * options.schedule(t) * options.warmth(step)

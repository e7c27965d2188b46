"""The abstract trainer that is the plan of a local loop."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from headway.core.flow import TrainerFacts
from headway.core.layout import Layout
from headway.core.update import Tensors
from headway.model.flat_module import FlatModule
from headway.numerics.keys import Key, Keys
from headway.training.client_steps import ClientSteps, steps_of_group
from headway.training.local_loop import train_by_plan
from headway.training.loop_plan import LoopPlan
from headway.training.measurements import HELD_OUT, MEASUREMENTS
from headway.training.step_storage import StepPlan
from headway.training.trainer import Trainer


@dataclass(frozen=True)
class LoopTrainer(Trainer, ABC):
    """A trainer that is the plan of a local loop, which clients run one at a time, or many at once.

    A subclass is a frozen dataclass with the fields of `SGDOptions`, or some of them, and `make_plan`.

    Raises:
        ConfigError: for a number out of range.
    """

    def __post_init__(self) -> None:
        self.plan  # noqa: B018 (made once, which checks the numbers)

    @cached_property
    def plan(self) -> LoopPlan:
        """The local loop."""
        return self.make_plan()

    @abstractmethod
    def make_plan(self) -> LoopPlan:
        """The local loop, from the trainer's fields."""

    @property
    def facts(self) -> TrainerFacts:
        """Offers single steps and what is measured before them; a validation loss where examples are held out."""
        options, term = self.plan.options, self.plan.loss_term
        name, missing = type(self).__name__, frozenset() if options.validation else HELD_OUT
        how = "in full, else in half precision, else by repeated training, as fits"
        how = how if options.steps_kept == "auto" else options.steps_kept
        return TrainerFacts(
            name,
            frozenset({"steps", *MEASUREMENTS}) - missing,
            memory=term is not None and term.has_client_state,
            adds="" if term is None else repr(term),
            steps=f"kept within {options.steps_memory} a client, {how}",
            paced=True,
            applies=frozenset({"gradient", "step"}),
            hints=dict.fromkeys(missing, f"train with {name}(validation=0.1)"),
            linear=self.plan.optimizer.momentum_rule is not None,
            optimizer=type(self.plan.optimizer).__name__,
        )

    def rate(self, round_: int) -> float:
        """The learning rate by the schedule, where that counts rounds; else lr, with which each round begins."""
        return self.plan.options.rate(round_)

    def check(self, flat_module: FlatModule) -> None:
        """Refuses a model that the loss term cannot look into."""
        if self.plan.loss_term is not None:
            self.plan.loss_term.check(flat_module)

    def keeps(self, flat_module: FlatModule) -> Tensors:
        """The loss term's memory."""
        return {} if self.plan.loss_term is None else self.plan.loss_term.keep(flat_module)

    def drops(self, client_key: Key) -> bool:
        """Whether this client is a straggler under the policy "drop"."""
        return self.plan.options.drops(client_key)

    def dropped(self, keys: Sequence[Key]) -> list[bool]:
        """`drops` of each of many clients; no key is read where no client is dropped."""
        options = self.plan.options
        if options.straggler_policy != "drop" or not options.stragglers:
            return [False] * len(keys)
        return super().dropped(keys)

    def steps_of_group(
        self, keys: Keys, asked: Sequence[tuple[int, int, int | None]], proximal: float
    ) -> Sequence[ClientSteps | None]:
        """The local steps of clients that train one after another; private batches are drawn by each client itself."""
        if self.plan.privacy is not None:
            return [None] * len(asked)
        return steps_of_group(self.plan.options, self.plan.momentum_rule, proximal, keys, asked)

    train = train_by_plan

    def most_steps(self, examples: int) -> int:
        """How many local steps a client of so many examples makes if it does all of its work."""
        return self.plan.options.most_steps(examples)

    def step_plan(self, examples: int, layout: Layout) -> StepPlan:
        """The storage of the steps of a client of so many examples, if it does all of its work.

        Raises:
            ConfigError: if they cannot be kept within `steps_memory`.
        """
        return self.plan.options.step_plan(self.most_steps(examples), layout)

    def examples_used(self, examples: int, client_key: Key) -> int:
        """The number of examples in all steps of a round."""
        return self.plan.options.examples_used(examples, client_key)

    def steps_within(self, examples: int, most: int) -> tuple[int, int]:
        """Whole batches only: what does not fit is not begun."""
        return self.plan.options.steps_within(examples, most)

"""The abstract local trainer: it owns the local loop."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field

from torch import Tensor

from headway.core.flow import TrainerFacts
from headway.core.layout import Layout
from headway.core.registry import Plain, Registry
from headway.core.update import Tensors
from headway.model.flat_module import FlatModule
from headway.numerics.keys import Key, Keys
from headway.training.client_steps import ClientSteps
from headway.training.step_storage import StepPlan, Steps
from headway.training.training_inputs import TrainingInputs


@dataclass(frozen=True, slots=True)
class Trained:
    """The result of local training: of one client, or of many in lanes, which have a leading axis `[C, ...]`.

    movement: w_K - w_t, `[P]`.  count: local steps.
    steps: displacements `[K, P]` where asked for, or `Steps` that keep them in less memory.
    squares: the squared length of each step, float64 `[K]`, where measured.
    effective_lr: the learning rate summed as the gradients received it; free_effective_lr: the same without the pull
    of proximal rules, if there are any; lr_sum: summed as it was.
    loss: the task's, mean over the examples used.
    measurements: what the stages asked for of the client at the start of the round, by name, numbers in float64.
    keep: the trainer's memory at the client, under its own label, if the update is counted.
    """

    movement: Tensor
    count: int | Tensor
    effective_lr: float | Tensor
    lr_sum: float | Tensor
    loss: float | Tensor
    steps: Tensor | Steps | None = None
    measurements: Tensors = field(default_factory=dict)
    free_effective_lr: float | Tensor | None = None
    keep: Tensors = field(default_factory=dict)
    squares: Tensor | None = None


@dataclass(frozen=True)
class Trainer(Plain, ABC):
    """Trains the model in the flat module, in place."""

    @property
    @abstractmethod
    def facts(self) -> TrainerFacts:
        """The facts that it offers to the stages."""

    @abstractmethod
    def drops(self, client_key: Key) -> bool:
        """Whether this client is a straggler whose work would be dropped, known before it starts."""

    def dropped(self, keys: Sequence[Key]) -> list[bool]:
        """`drops` of each of many clients."""
        return [self.drops(key) for key in keys]

    def rate(self, round_: int) -> float | None:
        """The learning rate with which a client begins a round, so many being complete; `None` if it has none."""
        return None

    def check(self, flat_module: FlatModule) -> None:
        """Refuses a model that it cannot train, before any round."""

    def examples_used(self, examples: int, client_key: Key) -> int:
        """On how many a client of so many examples trains in a round, each time counted; known before it starts."""
        return examples

    def steps_within(self, examples: int, most: int) -> tuple[int, int]:
        """How many local steps a client of so many examples can make on at most `most`, each time counted, and on how
        many that is; of a trainer that is paced by its facts."""
        raise NotImplementedError

    def step_plan(self, examples: int, layout: Layout) -> StepPlan | None:
        """The storage of the steps of a client of so many examples; `None` for a trainer without a budget.

        Raises:
            ConfigError: if they cannot be kept.
        """
        return None

    def keeps(self, flat_module: FlatModule) -> Tensors:
        """Its memory at each client (the names and shapes count); see `Trained.keep`."""
        return {}

    def steps_of_group(
        self, keys: Keys, asked: Sequence[tuple[int, int, int | None]], proximal: float
    ) -> Sequence[ClientSteps | None]:
        """The local steps of clients that train one after another, where they can be worked out for all at once.

        keys: the clients' own, for the trainer.  asked: of each client how many examples it has, the round in which it
        was asked, and how many steps it makes, where the trainer does not set it.  proximal: the pull of the chain.
        """
        return [None] * len(asked)

    @abstractmethod
    def train(self, work: TrainingInputs) -> Trained:
        """Trains the client's model in `work.flat_module`."""


trainers: Registry[Trainer] = Registry("trainer", "headway.trainers")

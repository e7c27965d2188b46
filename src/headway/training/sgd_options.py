"""The numbers of a local loop: how long a client trains, on which batches, and at which learning rate."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any, Literal

import torch
from torch import Tensor

from headway.core.errors import ConfigError
from headway.core.layout import Layout
from headway.data import batch_bounds
from headway.data.dataset.batches import LastBatch
from headway.numerics.keys import Key
from headway.numerics.units import bytes_of
from headway.training.schedule import Schedule
from headway.training.step_storage import StepPlan, plan_steps

Batch = tuple[int, int, float]  # start, stop, learning rate


@dataclass(frozen=True)
class SGDOptions:
    """The numbers of a local loop of minibatch descent, as `LocalSGD` describes them.

    owner: the name of the trainer whose numbers they are.
    warmup_steps: the first n local steps of a round have the learning rates lr * (k + 1) / (n + 1), k = 0 .. n - 1.

    The ranges of single numbers are those of the trainer's fields.

    Raises:
        ConfigError: for numbers that do not go together.
    """

    owner: str
    lr: float
    batch_size: int | None
    epochs: int
    steps: int | None
    clip_gradient: float | None
    schedule: Schedule
    stragglers: float
    straggler_policy: Literal["partial", "drop"]
    validation: float
    steps_memory: int | str
    steps_kept: Literal["auto", "full", "half", "replay"]
    last_batch: LastBatch
    warmup_steps: int = 0

    @classmethod
    def of(cls, trainer: Any) -> SGDOptions:
        """The numbers of a trainer that has fields of these names."""
        names = {field.name for field in fields(trainer)}
        values = {field.name: getattr(trainer, field.name) for field in fields(cls) if field.name in names}
        return cls(owner=type(trainer).__name__, **values)

    def __post_init__(self) -> None:
        bytes_of(self.steps_memory, f"{self.owner}.steps_memory")
        if self.stragglers and (self.steps or self.epochs) < 2:
            raise ConfigError(
                "stragglers do part of the work, which needs at least 2 epochs (or 2 steps): raise "
                f"{self.owner}.epochs."
            )

    # how long ----------------------------------------------------------------------------------------------

    def bounds(self, examples: int) -> list[tuple[int, int]]:
        """The start and stop of each batch of an epoch of so many examples."""
        return batch_bounds(examples, self.batch_size, self.last_batch)

    def training_count(self, examples: int) -> int:
        """On how many of its examples a client trains."""
        return examples - held_out_count(examples, self.validation)

    def most_steps(self, examples: int) -> int:
        """How many local steps a client of so many examples makes if it does all of its work."""
        return self.steps_in(self.steps or self.epochs, self.training_count(examples))

    def steps_in(self, amount: int, examples: int) -> int:
        """The local steps in so many epochs (or steps) of so many examples."""
        return amount if self.steps is not None else amount * len(self.bounds(examples))

    def straggles(self, key: Key) -> bool:
        """Whether the client of this key is a straggler in this round."""
        return self.stragglers > 0 and float(key.derive("straggler").uniform(1)) < self.stragglers

    def drops(self, key: Key) -> bool:
        """Whether this client is a straggler under the policy "drop"."""
        return self.straggler_policy == "drop" and self.straggles(key)

    def amount(self, key: Key) -> int:
        """How many epochs (or steps) this client manages in this round."""
        whole = self.steps or self.epochs
        return int(key.derive("amount").integers(1, whole - 1, 1)) if self.straggles(key) else whole

    def amounts(self, keys: Sequence[Key]) -> Tensor:
        """`amount` of each of these clients, int64 `[C]`; no key is read where no client straggles."""
        if not self.stragglers:
            return torch.full((len(keys),), self.steps or self.epochs)
        return torch.tensor([self.amount(key) for key in keys])

    def step_count(self, key: Key, examples: int) -> int:
        """How many local steps a client that trains on so many examples makes in this round."""
        return self.steps_in(self.amount(key), examples)

    def examples_used(self, examples: int, key: Key) -> int:
        """The number of examples in all steps of a client of so many examples, each time counted."""
        training = self.training_count(examples)
        sizes = [stop - start for start, stop in self.bounds(training)]
        epochs, rest = divmod(self.step_count(key, training), len(sizes))
        return epochs * sum(sizes) + sum(sizes[:rest])

    def steps_within(self, examples: int, most: int) -> tuple[int, int]:
        """How many whole batches are made of at most `most` examples, each time counted, and of how many they are."""
        bounds = self.bounds(self.training_count(examples))
        each = bounds[-1][1]
        epochs, rest = divmod(most, each)
        fitting = [stop for _, stop in bounds if stop <= rest]
        return epochs * len(bounds) + len(fitting), epochs * each + max(fitting, default=0)

    # at which learning rate --------------------------------------------------------------------------------

    def rate(self, round_: int) -> float:
        """lr by the schedule, where that counts rounds; else lr, with which each round begins."""
        return self.lr * self.schedule(round_ if self.schedule.over == "rounds" else 0)

    def warmth(self, step: int) -> float:
        """The share of the learning rate that a local step has during the warm-up.

        >>> from headway.training.local_sgd import LocalSGD
        >>> from dataclasses import replace
        >>> [replace(LocalSGD().plan.options, warmup_steps=3).warmth(step) for step in range(5)]
        [0.25, 0.5, 0.75, 1.0, 1.0]
        """
        return min((step + 1) / (self.warmup_steps + 1), 1.0)

    def mixes(self, examples: int) -> bool:
        """Whether each epoch of so many examples has an order of its own: not where they are one batch."""
        bounds = self.bounds(examples)
        return len(bounds) > 1 or bounds[-1][1] < examples

    def epochs_of(self, examples: int, steps: int, round_: int) -> list[list[Batch]]:
        """The batches of each epoch of so many steps on so many examples, with their learning rates."""
        bounds, epochs, step = self.bounds(examples), list[list[Batch]](), 0
        while step < steps:
            batches = []
            for start, stop in bounds[: steps - step]:
                t = {"rounds": round_, "epochs": len(epochs), "steps": step}[self.schedule.over]
                batches.append((start, stop, self.lr * self.schedule(t) * self.warmth(step)))
                step += 1
            epochs.append(batches)
        return epochs

    # how single steps are kept -----------------------------------------------------------------------------

    @property
    def steps_budget(self) -> int:
        """`steps_memory` in bytes."""
        return bytes_of(self.steps_memory, f"{self.owner}.steps_memory")

    def step_plan(self, count: int, layout: Layout) -> StepPlan:
        """The storage of so many steps of one client.

        Raises:
            ConfigError: if they cannot be kept within `steps_memory`.
        """
        return plan_steps(count, layout.size, layout.dtype.itemsize, self.steps_budget, self.steps_kept)


def held_out_count(examples: int, share: float) -> int:
    """How many of a client's examples are held out: at least one where there are two, and never all.

    >>> held_out_count(10, 0.25), held_out_count(2, 0.1), held_out_count(1, 0.9), held_out_count(10, 0.0)
    (2, 1, 0, 0)
    """
    return min(max(1, int(share * examples)), examples - 1) if share else 0

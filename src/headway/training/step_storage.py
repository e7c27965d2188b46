"""A client's local steps, kept within a stated budget of memory for the stage that combines them.

tau steps of P numbers take tau * P numbers.  What fits the budget decides how they are kept:

    full    the matrix [tau, P] in the model's own number type
    half    the matrix in 16 bits, each step with a scale of its own
    replay  the training is repeated, once per block of coordinates that fits, to sum the Gram matrix block by
            block, and once more to add the steps with their coefficients: (blocks + 1) trainings instead of one

The choice is a pure function of tau, P, the number type and the budget, so the same run makes it again.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, TypeVar

import torch
from torch import Tensor

from headway.core.errors import ConfigError
from headway.model.flat_module import FlatModule
from headway.numerics.gram import COLUMNS, add_combination, add_gram, gram_matrix

HALF_BYTES = 2
Kept = Literal["full", "half", "replay"]
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class StepPlan:
    """The storage of one client's steps.

    count, size: tau and P.  width: how many coordinates are held at a time.  bytes: what that takes.
    """

    kept: Kept
    count: int
    size: int
    width: int
    bytes: int

    @property
    def blocks(self) -> int:
        """How many blocks the coordinates are divided into."""
        return math.ceil(self.size / self.width)

    @property
    def trainings(self) -> int:
        """How many times the client trains."""
        return self.blocks + 1 if self.kept == "replay" else 1

    @property
    def summary(self) -> str:
        """The storage, in words."""
        if self.kept == "replay":
            blocks = "in 1 block" if self.blocks == 1 else f"in {self.blocks} blocks"
            return f"by repeated training, {blocks} of coordinates: {self.trainings} trainings instead of one"
        return "in full precision" if self.kept == "full" else "in half precision"


def plan_steps(
    count: int, size: int, itemsize: int, budget: int, wanted: Literal["auto", "full", "half", "replay"] = "auto"
) -> StepPlan:
    """The first of full, half and replay that fits the budget, or the one wanted.

    count, size: tau and P.  itemsize, budget: in bytes.

    Raises:
        ConfigError: if the one wanted does not fit, or not even a block of one coordinate does.

    >>> [plan_steps(100, 1000, 4, budget).kept for budget in (400_000, 399_999, 199_999)]
    ['full', 'half', 'replay']
    >>> plan_steps(100, 1000, 4, 40_000).summary
    'by repeated training, in 10 blocks of coordinates: 11 trainings instead of one'
    """
    needed = {"full": count * size * itemsize, "half": count * size * HALF_BYTES}
    kinds: tuple[Kept, ...] = ("full", "half")
    for kept in kinds:
        if wanted == kept or (wanted == "auto" and needed[kept] <= budget):
            if needed[kept] > budget:
                raise ConfigError(
                    f"steps_kept = {kept!r} needs {needed[kept]:,} bytes for {count} steps of {size:,} numbers, but "
                    f'steps_memory is {budget:,}: raise it, or set steps_kept = "auto".'
                )
            return StepPlan(kept, count, size, size, needed[kept])
    width = min(budget // (count * itemsize), size)
    if width < 1:
        raise ConfigError(
            f"steps_memory is {budget:,} bytes, but one coordinate of {count} steps needs {count * itemsize:,}: raise "
            "it, or make fewer local steps."
        )
    if COLUMNS < width < size:  # so that the Gram matrix has the bits that it has in full
        width -= width % COLUMNS
    return StepPlan("replay", count, size, width, count * width * itemsize)


class StepRecorder(ABC):
    """Takes in the model after each local step."""

    @abstractmethod
    def add(self, model: Tensor) -> None:
        """Takes the shared parameters `[P]` after one more step."""


class Steps(ABC):
    """The steps of one client, as far as they are combined: `K = S S^T` and `sum_l a_l s_l`."""

    @abstractmethod
    def gram(self) -> Tensor:
        """Their Gram matrix, float64 `[K, K]`."""

    @abstractmethod
    def added(self, base: Tensor, coefficients: Tensor) -> Tensor:
        """`base + sum_l a_l s_l` as a fresh vector `[P]`; coefficients float64 `[K]`."""


def keep_steps(plan: StepPlan, flat_module: FlatModule, train: Callable[[StepRecorder], T]) -> tuple[Tensor | Steps, T]:
    """Trains, keeping the steps as planned; what `train` returned comes with them.

    train: runs the local loop from the model in the flat module and gives the recorder each model.  Under a plan of
        replay it is called several times, each from the same model, buffers and random numbers, and must do
        the same each time: see `Replayed`.
    """
    if plan.kept == "full":
        rows = _Rows(flat_module, plan, flat_module.shared, slice(0, plan.size))
        done = train(rows)
        return rows.matrix, done
    if plan.kept == "half":
        half = Float16Steps(flat_module, plan)
        done = train(half)
        return half, done
    results: list[T] = []
    replayed = Replayed(plan, flat_module, lambda recorder: results.append(train(recorder)))
    replayed.begin()
    return replayed, results[0]


def gram_of(steps: Tensor | Steps) -> Tensor:
    """The Gram matrix of steps however kept, float64 `[..., K, K]`."""
    return gram_matrix(steps) if isinstance(steps, Tensor) else steps.gram()


def add_steps(movement: Tensor, steps: Tensor | Steps, coefficients: Tensor) -> Tensor:
    """`sum_l a_l s_l`, written as a change of their sum so that coefficients of one are exact.

    Shapes: movement `[..., P]`, coefficients float64 `[..., K]`.  Nothing of the size of all steps is made.
    """
    change = coefficients - 1
    if isinstance(steps, Tensor) and steps.ndim == 2:
        return torch.addmv(movement, steps.T, change.to(steps.dtype))
    if isinstance(steps, Tensor):
        return torch.baddbmm(movement.unsqueeze(1), change.to(steps.dtype).unsqueeze(1), steps).squeeze(1)
    return steps.added(movement, change)


class _Rows(StepRecorder):
    """Some of the coordinates of every step, as a matrix in the model's number type."""

    def __init__(self, flat_module: FlatModule, plan: StepPlan, start: Tensor, part: slice) -> None:
        self.part, self.count = part, 0
        self.previous = start[part].clone()
        self.matrix = flat_module.scratch("steps", (plan.count, len(self.previous)), flat_module.shared.dtype)

    def add(self, model: Tensor) -> None:
        """Records the step to this model `[P]`."""
        torch.sub(model[self.part], self.previous, out=self.matrix[self.count])
        self.previous.copy_(model[self.part])
        self.count += 1


class Float16Steps(StepRecorder, Steps):
    """Every step in 16 bits, times a power of two that brings its largest number near the top of their range.

    A number is kept to one part in 2^11, or to 2^-39 of its step's largest number, whichever is coarser; bfloat16,
    which needs no scale, would keep it to one part in 2^8.  With s'_l the steps as kept, therefore,

        ||s'_l - s_l|| <= e ||s_l||,    e = 2^-11 (1 + 2^-12)
        ||sum_l a_l s'_l - sum_l a_l s_l|| <= e sum_l |a_l| ||s_l||

    A selection can only change between candidates whose ||S + s_l|| differ by less than twice e sum ||s_l||.
    """

    def __init__(self, flat_module: FlatModule, plan: StepPlan) -> None:
        self.count = 0
        self.previous = flat_module.shared.clone()
        self.matrix = flat_module.scratch("steps", (plan.count, plan.size), torch.float16)
        self.exponents = flat_module.shared.new_zeros(
            plan.count, dtype=torch.int64
        )  # of the largest number in each row

    def add(self, model: Tensor) -> None:
        """Records the step to this model `[P]`."""
        torch.sub(model, self.previous, out=self.previous)
        exponent = torch.frexp(self.previous.abs().max()).exponent
        self.exponents[self.count] = exponent
        rest = 15 - exponent  # in two halves, because one factor may be beyond the number type
        half = rest >> 1
        self.matrix[self.count].copy_(self.previous.mul_(_power_of_two(half)).mul_(_power_of_two(rest - half)))
        self.previous.copy_(model)
        self.count += 1

    @property
    def unit(self) -> Tensor:
        """The value of 1 in each row, float64 `[K]`."""
        return _power_of_two((self.exponents - 15).clamp_min(-1022))

    def gram(self) -> Tensor:
        """Of the steps as kept."""
        return gram_matrix(self.matrix) * self.unit.unsqueeze(0) * self.unit.unsqueeze(1)

    def added(self, base: Tensor, coefficients: Tensor) -> Tensor:
        """In float64, a few coordinates at a time."""
        return add_combination(base, self.matrix, coefficients * self.unit)


def _power_of_two(exponent: Tensor) -> Tensor:
    """Exactly, in float64, by its bits; nothing is read back from where the exponents lie."""
    return ((exponent.long() + 1023) << 52).view(torch.float64)


class Replayed(Steps):
    """Steps that are made again whenever they are needed.

    Each repetition starts from the same parameters, personal parameters, buffers of every kind and state of
    torch's generator, and must end with the same movement to the bit; afterwards the flat module is as the first
    training left it.  The Gram matrix has the bits that it has in full where a block has `COLUMNS` coordinates
    or more; below that it has another order of float64 sums, which can decide a tie otherwise (clipped gradients
    make steps of equal length).  The combination is summed in float64.

    Raises:
        ConfigError: if a repetition ends elsewhere.  That is so for a model or loss that draws from other
            generators than torch's, keeps a state outside of its buffers, or runs kernels that add in no
            fixed order.
    """

    def __init__(self, plan: StepPlan, flat_module: FlatModule, train: Callable[[StepRecorder], object]) -> None:
        self.plan, self.flat_module, self.train = plan, flat_module, train
        self.start, self.random = flat_module.snapshot(), flat_module.rng_state()

    def begin(self) -> None:
        """The training that counts; it yields the first block of the Gram matrix as well."""
        self._gram = self.flat_module.shared.new_zeros(self.plan.count, self.plan.count, dtype=torch.float64)
        self._summed = 0
        self._add_block(self.train)
        self.end = self.flat_module.snapshot()

    def gram(self) -> Tensor:
        """Sums the blocks that are missing, each from a repetition."""
        while self._summed < self.plan.size:
            self._add_block(self._again)
        return self._gram

    def added(self, base: Tensor, coefficients: Tensor) -> Tensor:
        """From one more repetition."""
        total = _Sum(base, self.start["shared"], coefficients)
        self._again(total)
        return total.value.to(base.dtype)

    def _add_block(self, train: Callable[[StepRecorder], object]) -> None:
        part = slice(self._summed, min(self._summed + self.plan.width, self.plan.size))
        rows = _Rows(self.flat_module, self.plan, self.start["shared"], part)
        train(rows)
        add_gram(self._gram, rows.matrix)
        self._summed = part.stop

    def _again(self, recorder: StepRecorder) -> None:
        self.flat_module.restore(self.start)
        self.flat_module.set_rng_state(self.random)
        self.train(recorder)
        same = torch.equal(self.flat_module.shared, self.end["shared"])
        self.flat_module.restore(self.end)
        if not same:
            raise ConfigError(
                'the steps are kept by repeated training (steps_kept = "replay"), but the same training ended with '
                "another model: something in the model or the loss draws from a generator other than torch's, or "
                "keeps something between calls. Raise steps_memory so that the steps fit, or leave ECGR out."
            )


class _Sum(StepRecorder):
    """`base + sum_l a_l s_l`, in float64."""

    def __init__(self, base: Tensor, start: Tensor, coefficients: Tensor) -> None:
        self.value = base.to(torch.float64, copy=True)
        self.coefficients, self.count = coefficients.tolist(), 0
        self.previous = start.clone()

    def add(self, model: Tensor) -> None:
        """Records the step to this model `[P]`."""
        torch.sub(model, self.previous, out=self.previous)
        self.value.add_(self.previous, alpha=self.coefficients[self.count])
        self.previous.copy_(model)
        self.count += 1

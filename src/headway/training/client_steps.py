"""The local steps of clients in one round: their batches, the orders of their examples, and their learning rates."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from headway.numerics.keys import Keys
from headway.training.sgd_options import Batch, SGDOptions

AHEAD = 1 << 18  # examples of a group whose orders are drawn at once, for one epoch; `EPOCHS` times as many for all
EPOCHS = 4


@dataclass(slots=True)
class StepStatistics:
    """The number, sizes and learning rates of one client's steps.

    momentum_rule: the momentum, and whether it is Nesterov's.
    effective_lr: what the same loop makes of a gradient that is always 1, pulled back as FedProx pulls.
    """

    momentum_rule: tuple[float, bool]
    proximal: float
    effective_lr: float = 0.0
    lr_sum: float = 0.0
    sizes: list[int] = field(default_factory=list)
    _unit_velocity: float = 0.0

    def step(self, examples: int, lr: float) -> None:
        """One more step."""
        momentum, nesterov = self.momentum_rule
        self.sizes.append(examples)
        unit = 1.0 - self.proximal * self.effective_lr
        self._unit_velocity = momentum * self._unit_velocity + unit
        self.effective_lr += lr * (unit + momentum * self._unit_velocity if nesterov else self._unit_velocity)
        self.lr_sum += lr


@dataclass(frozen=True, slots=True)
class ClientSteps:
    """The local steps of one client in a round, or of all that have as many examples and do as much.

    epochs: the batches of each epoch, as (start, stop, learning rate).  mixed: whether each epoch has an order of its
    own.  statistics, free_statistics: of all steps, with and without the pull of proximal rules.
    orders: the order of the n examples in each epoch, the first n numbers of a row, where those of a group were drawn
    at once.
    """

    epochs: Sequence[Sequence[Batch]]
    mixed: bool
    statistics: StepStatistics
    free_statistics: StepStatistics
    orders: Sequence[Tensor] = ()

    @property
    def count(self) -> int:
        """How many steps."""
        return len(self.statistics.sizes)


def steps_of(
    options: SGDOptions, momentum_rule: tuple[float, bool], proximal: float, examples: int, count: int, round_: int
) -> ClientSteps:
    """The `count` steps of a client that trains on so many examples, in a round; without orders."""
    epochs = options.epochs_of(examples, count, round_)
    statistics, free = StepStatistics(momentum_rule, proximal), StepStatistics(momentum_rule, 0.0)
    for start, stop, lr in (batch for epoch in epochs for batch in epoch):
        statistics.step(stop - start, lr)
        free.step(stop - start, lr)
    return ClientSteps(epochs, options.mixes(examples), statistics, free)


def steps_of_group(
    options: SGDOptions,
    momentum_rule: tuple[float, bool],
    proximal: float,
    keys: Keys,
    asked: Sequence[tuple[int, int, int | None]],
) -> list[ClientSteps]:
    """The steps of clients that train one after another: worked out once for all that are alike, and the orders of
    their examples drawn at once where they are not too many.

    keys: the clients' own, for the trainer.  asked: of each client how many examples it has, the round in which it was
    asked, and how many steps it makes, where the trainer does not set it.
    """
    amounts: list[int] = options.amounts(keys).tolist()
    training = {size: options.training_count(size) for size in {size for size, _, _ in asked}}
    known: dict[tuple[tuple[int, int, int | None], int], ClientSteps] = {}
    each: list[ClientSteps] = []
    for own in zip(asked, amounts, strict=True):
        if own not in known:
            (size, round_, given), amount = own
            count = options.steps_in(amount, training[size]) if given is None else given
            known[own] = steps_of(options, momentum_rule, proximal, training[size], count, round_)
        each.append(known[own])
    drawn = _orders(keys, [training[size] for size, _, _ in asked], list(known.values()))
    if drawn is None:
        return each
    return [replace(steps, orders=orders) for steps, orders in zip(each, drawn, strict=True)]


def _orders(keys: Keys, sizes: Sequence[int], distinct: Sequence[ClientSteps]) -> Iterable[tuple[Tensor, ...]] | None:
    """The orders of each client's examples in all epochs, `[n, ...]`; `None` if there are none, or too many.

    sizes: on how many examples each trains.
    """
    epochs, room = max(len(steps.epochs) for steps in distinct), len(sizes) * max(sizes)
    if not any(steps.mixed for steps in distinct) or room > AHEAD or room * epochs > EPOCHS * AHEAD:
        return None
    counts = torch.tensor(sizes)
    return zip(*(keys.derive("epoch", epoch).permutations(counts).unbind() for epoch in range(epochs)), strict=True)

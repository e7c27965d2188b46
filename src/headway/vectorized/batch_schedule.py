"""Which examples many clients see in each of their local steps, worked out for all of them at once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from headway.data import Examples
from headway.data.dataset.batches import starts_of
from headway.model.device import Device
from headway.model.flat_module import Room
from headway.numerics.keys import Keys
from headway.training.sgd_options import SGDOptions
from headway.vectorized.client_batch import ClientBatch


@dataclass(frozen=True, slots=True)
class BatchSchedule:
    """The batches of C clients, in lanes with the most steps first.

    index: places in the store, int64 `[C, K, B]`; sizes: how many of the B are examples, int64 `[C, K]`, the rest
    being padding (an example of the same client); rates: learning rates, float64 `[C, K]`; counts: steps, int64
    `[C]`.  lanes: the order of the clients, as places in the order in which they were given.
    denominators: the number by which each client divides the sum over a batch, float64 `[C]`, where that is not the
    number of its examples.
    """

    index: Tensor
    sizes: Tensor
    rates: Tensor
    counts: Tensor
    lanes: list[int]
    denominators: Tensor | None = None

    @property
    def made(self) -> Tensor:
        """Which steps each client makes, bool `[C, K]`; a Poisson batch of a step may be empty."""
        return torch.arange(self.sizes.shape[1]) < self.counts.unsqueeze(1)

    def active(self, lanes: slice = slice(None)) -> list[int]:
        """How many of these lanes have a step of each number."""
        return self.made[lanes].sum(0).tolist()

    def widths(self, lanes: slice = slice(None)) -> list[int]:
        """The largest batch of each step of these lanes."""
        return self.sizes[lanes].amax(0).tolist()

    def weights(self, number: torch.dtype) -> Tensor:
        """The weight of each example in the mean of its batch, `[C, K, B]`; padding counts nothing."""
        real = torch.arange(self.index.shape[2]) < self.sizes.unsqueeze(2)
        counts = self.sizes.clamp_min(1) if self.denominators is None else self.denominators.view(-1, 1).to(number)
        return real.to(number) / counts.unsqueeze(2)

    def served(self, store: Examples, site: Device, number: torch.dtype) -> DeviceSchedule:
        """The parts of it and of the store that steps read, on the device of training."""
        weights, rates = site.put(self.weights(number)), site.put(self.rates)
        return DeviceSchedule(store, site, site.index_on_store_device(store, self.index), weights, rates)

    def mean_losses(self, losses: Tensor) -> Tensor:
        """The mean over the examples used, float64 `[C]`, of the losses of each step `[C, K]`."""
        losses = losses.cpu()
        return (losses * self.sizes).sum(1) / self.sizes.sum(1).clamp_min(1)

    def effective_lrs(self, momentum_rule: tuple[float, bool], proximal: float) -> Tensor:
        """The result of each client's loop for a gradient that is always 1, float64 `[C]`: see `StepStatistics`."""
        momentum, nesterov = momentum_rule
        effective_lr = torch.zeros(len(self.counts), dtype=torch.float64)
        velocity = torch.zeros_like(effective_lr)
        for rate, made in zip(self.rates.T, self.made.T, strict=True):
            unit = 1.0 - proximal * effective_lr
            velocity = momentum * velocity + unit
            effective_lr = effective_lr + torch.where(
                made, rate * (unit + momentum * velocity if nesterov else velocity), 0.0
            )
        return effective_lr


@dataclass(frozen=True, slots=True)
class DeviceSchedule:
    """A batch schedule's index, weights and rates where the clients train; the index is where the store is."""

    store: Examples
    site: Device
    index: Tensor
    weights: Tensor
    rates: Tensor

    def batch(self, lanes: slice, number: int, width: int) -> Examples:
        """The examples of these lanes in a step, one lane after another, `[lanes * width, ...]`."""
        index = self.index[lanes, number, :width].reshape(-1)
        inputs, targets = (t.index_select(0, index) for t in (self.store.inputs, self.store.targets))
        return self.site.examples(Examples(inputs, targets))

    def fetched(self, widths: list[int], room: Room) -> PrefetchedBatches:
        """The batches of all steps, of these widths, copied at once, into memory that is used again."""
        index = torch.cat([self.index[:, number, :width] for number, width in enumerate(widths)], dim=1)
        store, places = self.store.inputs, index.reshape(-1)
        near = self.site.holds(store)  # where the room is, too
        into = room("examples", (len(places), *store.shape[1:]), store.dtype) if near else None
        inputs = torch.index_select(store, 0, places, out=into)
        examples = self.site.examples(Examples(inputs, self.store.targets.index_select(0, places)))
        return PrefetchedBatches(examples, len(index), widths)


class PrefetchedBatches:
    """The batches of C lanes in all of their steps, of these widths.

    examples: one lane's after another, in the order of its steps, `[C * sum(widths), ...]`.
    """

    def __init__(self, examples: Examples, lanes: int, widths: list[int]) -> None:
        self.examples = examples
        self.starts = starts_of(widths)
        self._each = tuple(t.unflatten(0, (lanes, sum(widths))) for t in (examples.inputs, examples.targets))

    def batch(self, lanes: slice, number: int, width: int) -> Examples:
        """As `DeviceSchedule.batch` has it."""
        rows = slice(self.starts[number], self.starts[number] + width)
        inputs, targets = (each[lanes, rows].flatten(0, 1) for each in self._each)
        return Examples(inputs, targets)


def batch_schedule_of(
    options: SGDOptions, keys: Keys, training: ClientBatch, rounds: Sequence[int], steps: Mapping[int, int]
) -> BatchSchedule:
    """The batches that each client would see if clients trained one at a time.

    keys: the clients' own, for the trainer.  training: their training examples.  rounds: in which each was asked.
    steps: the number of steps, by place, of clients for which the options do not set it.
    """
    sizes, amounts = training.sizes, options.amounts(keys)
    batch = sizes if options.batch_size is None else torch.full_like(sizes, options.batch_size)
    batches = (sizes + batch - 1) // batch  # in an epoch
    if options.last_batch != "keep":
        batches = torch.where((sizes % batch > 0) & (batches > 1), batches - 1, batches)
    counts = amounts * batches if options.steps is None else amounts
    for lane, count in steps.items():
        counts[lane] = count
    lanes = torch.argsort(counts, descending=True, stable=True)
    step = torch.arange(int(counts.max()))
    epoch = step // batches.unsqueeze(1)
    within = step - epoch * batches.unsqueeze(1)
    begin = within * batch.unsqueeze(1)
    made = step < counts.unsqueeze(1)
    held = torch.where(made, torch.minimum(batch.unsqueeze(1), sizes.unsqueeze(1) - begin), 0)
    if options.last_batch == "merge":
        held = torch.where(made & (within == batches.unsqueeze(1) - 1), sizes.unsqueeze(1) - begin, held)
    inside = torch.minimum(begin.unsqueeze(2) + torch.arange(int(held.max())), sizes.view(-1, 1, 1) - 1)
    mixed = batches > 1 if options.last_batch != "drop" else (batches > 1) | (batches * batch < sizes)
    orders = _orders(keys, training.rows, sizes, mixed, int(torch.where(made, epoch, 0).max()) + 1)
    place = torch.where(made, epoch, 0).unsqueeze(2) * orders.shape[2] + inside
    index = orders.flatten(1).gather(1, place.flatten(1)).view_as(place)
    index, held, rates = index[lanes], held[lanes], _rates(options, epoch, rounds)[lanes]
    return BatchSchedule(index, held, rates, counts[lanes], lanes.tolist())


def _orders(keys: Keys, rows: Tensor, sizes: Tensor, mixed: Tensor, epochs: int) -> Tensor:
    """The places in the store of each client's examples in the order of each epoch, int64 `[C, epochs, n]`.

    mixed: the clients with a new order in each epoch; examples in a single batch are seen as they are stored.
    """
    longest = int(sizes.max())
    starts = (sizes.cumsum(0) - sizes).unsqueeze(1)
    stored = torch.arange(longest).expand(len(sizes), -1)
    orders = []
    for epoch in range(epochs):
        order = stored
        if bool(mixed.any()):
            order = torch.where(mixed.unsqueeze(1), keys.derive("epoch", epoch).permutations(sizes), stored)
        orders.append(rows[(starts + order).clamp_max(len(rows) - 1)])
    return torch.stack(orders, dim=1)


def _rates(options: SGDOptions, epoch: Tensor, rounds: Sequence[int]) -> Tensor:
    """The learning rate of each step, float64 `[C, K]`."""
    rates = _scheduled(options, epoch, rounds)
    if not options.warmup_steps:
        return rates
    return rates * torch.tensor([options.warmth(step) for step in range(epoch.shape[1])], dtype=torch.float64)


def _scheduled(options: SGDOptions, epoch: Tensor, rounds: Sequence[int]) -> Tensor:
    """The same without the warm-up."""
    over = options.schedule.over
    if over == "rounds":
        by = {round_: options.lr * options.schedule(round_) for round_ in set(rounds)}
        shown = rounds if len(by) > 1 else rounds[:1]
        each = torch.tensor([by[round_] for round_ in shown], dtype=torch.float64)
        return each.unsqueeze(1).expand(epoch.shape)
    if over == "steps":
        rates = [options.lr * options.schedule(step) for step in range(epoch.shape[1])]
        return torch.tensor(rates, dtype=torch.float64).expand(epoch.shape)
    rates = [options.lr * options.schedule(t) for t in range(int(epoch.max()) + 1)]
    return torch.tensor(rates, dtype=torch.float64)[epoch]

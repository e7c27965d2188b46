"""The parts of a batched loop that are others where it is private for each example."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch

from headway.model.flat_module import FlatModule
from headway.numerics.keys import Key, Keys
from headway.training.clipped_gradients import ClippedGradients
from headway.training.example_privacy import TRAINER, poisson_batches_of_each
from headway.training.gradient_noise import GradientNoise
from headway.training.loop_plan import LoopPlan
from headway.vectorized.batch_schedule import BatchSchedule, batch_schedule_of
from headway.vectorized.client_batch import ClientBatch
from headway.vectorized.gradient_functions import BatchFunction, batch_gradients


def gradients_of(loop: LoopPlan, flat_module: FlatModule) -> BatchFunction:
    """The function that gives the gradients of all lanes, clipped for each example where the loop is private."""
    if loop.privacy is None:
        return batch_gradients(flat_module)
    return ClippedGradients(flat_module, loop.privacy.clip_norm)


def noise_of(loop: LoopPlan, private: Key | Keys, table: BatchSchedule) -> GradientNoise | None:
    """The noise of the lanes' steps; private: the clients' private keys."""
    if loop.privacy is None:
        return None
    assert table.denominators is not None
    return GradientNoise(loop.privacy, private.derive(TRAINER), table.denominators)


def schedule_of(
    loop: LoopPlan, training: ClientBatch, rounds: Sequence[int], steps: Mapping[int, int]
) -> BatchSchedule:
    """The batches that each client would see if clients trained one at a time; of a private loop, with the
    denominators of their sums.  The arguments are those of `batch_schedule_of`."""
    privacy, sizes, keys = loop.privacy, training.sizes, training.keys.derive(TRAINER)
    if privacy is None:
        return batch_schedule_of(loop.options, keys, training, rounds, steps)
    denominators = privacy.denominators(sizes)
    if (rate := privacy.sample_rate) is None:
        table = batch_schedule_of(loop.options, keys, training, rounds, steps)
        return replace(table, denominators=denominators[table.lanes])
    counts = torch.tensor([steps.get(place, privacy.steps) for place in range(len(sizes))])
    lanes = torch.argsort(counts, descending=True, stable=True)
    most, private = int(counts.max()), training.keys.derive("private").derive(TRAINER)
    places, held = poisson_batches_of_each(private, sizes, rate, most)
    held = torch.where(torch.arange(most) < counts.unsqueeze(1), held, 0)
    starts = (sizes.cumsum(0) - sizes).view(-1, 1, 1)
    index = training.rows[(starts + places).clamp_max(len(training.rows) - 1)]
    rates = torch.tensor(
        [[loop.learning_rate(step, round_) for step in range(most)] for round_ in rounds], dtype=torch.float64
    )
    return BatchSchedule(index[lanes], held[lanes], rates[lanes], counts[lanes], lanes.tolist(), denominators[lanes])

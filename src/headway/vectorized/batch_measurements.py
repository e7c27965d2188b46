"""Held-out examples and measurements of many clients that train at once."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from headway.training.measurements import asked, divided, measure
from headway.training.training_inputs import TrainingInputs
from headway.vectorized.client_batch import ClientBatch


def held_out_rows(batch: ClientBatch, share: float) -> tuple[ClientBatch, ClientBatch]:
    """`hold_out` for each client of a batch; no client holds anything out if the share is zero."""
    if not share:
        return batch, replace(batch, rows=batch.rows[:0], sizes=torch.zeros_like(batch.sizes))
    parted = [[rows[part] for part in divided(len(rows), share)] for rows in batch.rows.split(batch.sizes.tolist())]
    kept, held = (
        replace(batch, rows=torch.cat(parts), sizes=torch.tensor([len(rows) for rows in parts]))
        for parts in zip(*parted, strict=True)
    )
    return kept, held


def measure_each(work: TrainingInputs, batch: ClientBatch, held_out: ClientBatch) -> dict[str, Tensor]:
    """`measure` for each client of a batch, `[C, ...]`."""
    if not asked(work):
        return {}
    models = work.ctx.global_params.expand(len(batch), -1)
    each: list[dict[str, Tensor]] = []
    for model, examples, held in zip(models, batch.examples(), held_out.examples(), strict=True):
        if not each or work.ctx.global_params.ndim > 1:
            work.flat_module.load(model, None, None)
        each.append(measure(replace(work, examples=examples), held))
    return {name: torch.stack([measured[name] for measured in each]) for name in each[0]}

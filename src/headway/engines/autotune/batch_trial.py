"""Whether model and chain can take several clients at once: tried on two clients before the first round."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from headway.client.client_training import ClientTraining, Outcome
from headway.engines.engine import Job
from headway.engines.fallbacks import failure
from headway.model.module_checks import untouched
from headway.protocol.messages import Ask
from headway.protocol.sums import ExactTotal
from headway.server.collector import GroupResult, UpdateCollector
from headway.vectorized.batched_sgd import BatchedSGD
from headway.vectorized.client_batch import ClientBatch

FEW = 4  # examples of a client
APART = 0.05  # of the length of what one client sends: beyond it is no rounding, nor a near-tie that falls otherwise
ROUNDING = 1e-6  # of a single number


def batch_refusal(
    job: Job, training: ClientTraining, lanes: BatchedSGD, collector: UpdateCollector, ask: Ask
) -> str | None:
    """Why the clients of an ask cannot train side by side, as a phrase; `None` if they can.

    They make the steps of the ask on few examples, side by side and one at a time, and send, and are counted; all is
    forgotten.  What fails one at a time as well is left to the round, which names the client.
    """
    training = training.trial
    flat_module, ask = training.flat_module, ask.map_broadcasts(training.flat_module.site.message)
    rows = [job.data.train[client][:FEW] for client in ask.cohort]
    sizes = torch.tensor([len(each) for each in rows])
    batch = ClientBatch(ask.cohort, training.algorithm.keys_of(ask.cohort, ask), job.data.store, torch.cat(rows), sizes)
    with untouched(flat_module), flat_module.site.training():
        try:
            batch, outcome, total = _batched(training, lanes, collector, batch, ask)
        except torch.OutOfMemoryError:
            return None
        except Exception as error:  # whatever a stage may raise
            return failure(error)
        if flat_module.site.precision == "bfloat16":  # whose rounding is as large as what is looked for
            return None
        each, result = [], GroupResult()
        try:
            for client, examples in zip(batch.clients, batch.examples(), strict=True):
                each.append(training.train(client, ask, examples, None))
                collector.count(ask, client, each[-1], result)
        except Exception:  # will show again, by the client's name
            return None
    return _differing(outcome, each) or _differing_sums(total, _total(result))


def _batched(
    training: ClientTraining, lanes: BatchedSGD, collector: UpdateCollector, batch: ClientBatch, ask: Ask
) -> tuple[ClientBatch, Outcome, Mapping[str, Tensor]]:
    """The batch in the order of its lanes, what it sends, and what that adds up to."""
    batch, plan = lanes.plan(batch, ask)
    memory = {
        label: {name: kept.expand(len(batch), *kept.shape).clone() for name, kept in named.items()}
        for label, named in training.algorithm.remembered(ask.message).items()
    }
    work, result = training.prepare_batch(batch, ask, memory), GroupResult()
    outcome = training.send(work, lanes.train(work, plan))
    collector.count_batch(ask, batch, outcome, result)
    return batch, outcome, _total(result)


def _total(result: GroupResult) -> Mapping[str, Tensor]:
    """The sum of the counted updates; empty, where a rule looks at the whole cohort."""
    total = ExactTotal()
    total.add_group(result.group)
    return {} if total.rows else total.value().vectors


def _differing(outcome: Outcome, each: list[Outcome]) -> str | None:
    """The part of what clients send or keep that differs in a batch, as a phrase."""
    for lane, one in enumerate(each):
        batched, alone = outcome.update.lane(lane), one.update
        pairs = {f"the update ({name})": (batched.vectors.get(name), v) for name, v in alone.vectors.items()}
        pairs["the weight of an update"] = batched.weight, alone.weight
        pairs |= {f"the number {name!r}": (batched.sums.get(name), number) for name, number in alone.sums.items()}
        for label, kept in one.memory.items():
            for name, tensor in kept.items():
                held = outcome.memory.get(label, {}).get(name)
                pairs[f"what {label} remembers"] = None if held is None else held[lane], tensor
        for what, (mine, theirs) in pairs.items():
            if mine is None or not _close(mine, theirs):
                return f"{what} of a client differs between a batch and training alone"
    return None


def _differing_sums(batched: Mapping[str, Tensor], alone: Mapping[str, Tensor]) -> str | None:
    if all(_close(batched[name], alone[name]) for name in alone):
        return None
    return "the sum of updates differs between decoding a batch and decoding one by one"


def _close(mine: Tensor, theirs: Tensor) -> bool:
    """Whether two vectors agree to rounding; differences of numbers that are not finite do not count."""
    if mine.shape != theirs.shape:
        return False
    difference, length = (torch.linalg.vector_norm(v.double()) for v in (mine.double() - theirs.double(), theirs))
    return not bool(difference > APART * length + ROUNDING * theirs.numel() ** 0.5)

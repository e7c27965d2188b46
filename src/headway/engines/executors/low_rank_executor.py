"""The low-rank executor: several clients train as one batch, without a vector for each of them."""

from __future__ import annotations

import torch

from headway.core.update import Update
from headway.engines.executors.batch_result import BatchResult, CannotTrain, OutOfDeviceMemory
from headway.engines.executors.batched import BatchedExecutor, PlannedBatch
from headway.engines.executors.client_setup import ClientSetup
from headway.engines.fallbacks import failure
from headway.model.module_checks import untouched
from headway.protocol import wire as frame
from headway.server.collector import GroupResult
from headway.training.loop_trainer import LoopTrainer
from headway.vectorized.low_rank import LowRank, Summed, not_suited, plain_steps


class LowRankExecutor:
    """Trains clients whose large linear layers are never written.

    reason: why they cannot train so, as a phrase; `None` if they can.
    loop: the loop in low-rank form, where they can.
    """

    def __init__(self, setup: ClientSetup, batched: BatchedExecutor) -> None:
        self.setup = setup
        self.loop: LowRank | None = None
        self.reason = batched.reason or self._refusal()

    def _refusal(self) -> str | None:
        setup, trainer = self.setup, self.setup.client_algorithm.trainer
        assert isinstance(trainer, LoopTrainer)
        chain, flow = setup.job.algorithm.chain, setup.flows[-1]
        if setup.device.precision == "bfloat16":
            return "products are in bfloat16"
        if setup.measure:
            return "figures of each client's steps are measured (drift)"
        if (reason := not_suited(trainer.plan, setup.flat_module, chain, flow)) is not None:
            return reason
        loop = LowRank(trainer.plan, setup.flat_module, plain_steps(trainer.plan, chain, flow))
        with untouched(setup.flat_module):
            reason = loop.probe(setup.job.data.store)
        self.loop = loop if reason is None else None
        return reason

    @property
    def has_non_linear_params(self) -> bool:
        """Whether clients that train so have some weights of their own, and train one after another."""
        return self.loop is not None and bool(self.loop.own)

    def train(self, batch: PlannedBatch, result: GroupResult) -> BatchResult:
        """Trains a batch and adds its sum to the group's.

        Raises:
            CannotTrain, OutOfDeviceMemory: if nothing has been counted.
        """
        assert self.loop is not None
        if not self.loop.pays(batch.plan):
            many = "some clients see more examples than the low-rank form is good for"
            raise CannotTrain(many if self.has_non_linear_params else None)
        ask, clients = batch.ask, batch.clients
        update = Update.of(torch.ones(len(clients), 1, dtype=torch.float64), clients.sizes.double())
        term = self.setup.collector.lifted(update, ask, clients.clients)
        try:
            summed = self._summed(batch)
            total, norms = summed.total(term.delta.squeeze(1)), summed.norms()
        except torch.OutOfMemoryError as error:
            raise OutOfDeviceMemory from error
        except Exception as error:  # whatever a model may raise: the client alone raises it with names
            raise CannotTrain(f"{failure(error)} in low-rank form") from error
        if not bool(torch.isfinite(norms).all()) or not bool(torch.isfinite(total).all()):
            raise CannotTrain("an update of a batch in low-rank form is not finite")
        result.group.add_sum({"delta": total}, term)
        up = frame.size(frame.of_update(Update.of(ask.message.params)))
        return BatchResult(summed.count, summed.loss, update.weight, norms, up)

    def _summed(self, batch: PlannedBatch) -> Summed:
        """The batch's training, its steps combined by the chain's rule."""
        assert self.loop is not None
        setup = self.setup
        work = setup.training.prepare_batch(batch.clients, batch.ask, {})
        summed = self.loop.train(work, batch.plan)
        if setup.job.algorithm.chain.combiner is None:
            return summed
        gram, steps = setup.device.put(summed.gram()), setup.device.put(summed.count)
        return summed.combined(setup.training.combination.coefficients(gram, work.ctx, steps).cpu())

    def rehearse(self, batch: PlannedBatch, result: GroupResult) -> None:
        """The work of a batch; no memory is proposed.

        Raises:
            CannotTrain, OutOfDeviceMemory: as in `train`.
        """
        self.train(batch, result)

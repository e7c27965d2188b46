"""The batched executor: several clients train as one batched program."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType

import torch
from torch import Tensor

from headway.client.client_training import ClientTraining, Outcome
from headway.data.dataset.client_index import ClientIndex
from headway.engines.autotune.batch_trial import batch_refusal
from headway.engines.executors.batch_result import BatchResult, CannotTrain, OutOfDeviceMemory
from headway.engines.executors.client_setup import ClientSetup
from headway.engines.fallbacks import failure
from headway.model.module_checks import sequential_reason, untouched
from headway.protocol import wire as frame
from headway.protocol.messages import Ask
from headway.server.collector import GroupResult
from headway.training.loop_trainer import LoopTrainer
from headway.vectorized.batch_checks import why_not
from headway.vectorized.batched_sgd import BatchedSGD, BatchPlan
from headway.vectorized.client_batch import ClientBatch
from headway.vectorized.compiled_gradients import Compiler

Secrets = Mapping[str, Mapping[str, Tensor]]  # of the exchanges of a protocol, by client
PROBED = 8  # examples on which it is found out whether a model can be batched


@dataclass(frozen=True, slots=True)
class PlannedBatch:
    """Clients in the order of their lanes, and the work of each lane.

    secrets: of the exchanges of a protocol, by client.
    """

    ask: Ask
    clients: ClientBatch
    plan: BatchPlan
    secrets: Secrets = field(default_factory=dict, repr=False)


class BatchedExecutor:
    """Trains clients in lanes, each with weights of its own.

    wanted: whether clients are to train so at all.  reason: why they cannot, as a phrase; `None` if they can.
    loop: the batched loop, where they can.  compiler: gives the gradients of their steps, where these are compiled.
    """

    def __init__(self, setup: ClientSetup, compiler: Compiler, wanted: bool) -> None:
        self.setup, self.compiler, self.wanted = setup, compiler, wanted
        self.loop: BatchedSGD | None = None
        self.reason: str | None = "one at a time was asked for"
        if wanted:
            trainer, module = setup.client_algorithm.trainer, setup.flat_module
            self.reason = why_not(trainer, module) or sequential_reason(module)
            if self.reason is None:
                with untouched(module):
                    self.reason = self._refusal()

    def _refusal(self) -> str | None:
        """The reason why model and chain cannot be batched, found on a few examples; `None` if they can."""
        setup, store = self.setup, self.setup.job.data.store
        assert isinstance(setup.client_algorithm.trainer, LoopTrainer)
        loop = BatchedSGD(setup.client_algorithm.trainer.plan, setup.flat_module)
        reason = loop.probe(store.take(torch.arange(PROBED) % len(store))) or batch_refusal(
            setup.job,
            setup.training,
            loop,
            setup.collector,
            setup.first_ask(setup.job.data.clients[:2], steps=1),
        )
        self.loop = loop if reason is None else None
        return reason

    def plan(self, ask: Ask, clients: Sequence[str], secrets: Secrets = MappingProxyType({})) -> PlannedBatch:
        """The clients as a batch; secrets: of the exchanges of a protocol, by client.

        Raises:
            CannotTrain: if the trainer fails.
        """
        assert self.loop is not None
        try:
            return PlannedBatch(ask, *self.loop.plan(self.batch_of(ask, clients), ask), secrets)
        except Exception as error:  # whatever a trainer may raise: alone, the client is named
            raise CannotTrain(failure(error)) from error

    def batch_of(self, ask: Ask, clients: Sequence[str]) -> ClientBatch:
        """The clients with their keys and examples."""
        rows, sizes = ClientIndex.of(self.setup.job.data.train).rows(clients)
        keys = self.setup.client_algorithm.keys_of(clients, ask)
        return ClientBatch(tuple(clients), keys, self.setup.job.data.store, rows, sizes)

    def train(self, batch: PlannedBatch, result: GroupResult) -> BatchResult:
        """Trains a batch and adds its updates to the group's sum.

        Raises:
            CannotTrain, OutOfDeviceMemory: if nothing has been counted.
        """
        setup, ask, clients = self.setup, batch.ask, batch.clients
        outcome = self._outcome(batch, setup.training)
        norms = setup.guard.check_lanes(outcome.update, clients.sizes)
        if norms is None or not setup.collector.count_batch(ask, clients, outcome, result):
            raise CannotTrain("an update of a batch is not fit to count", blames_client=True)
        setup.job.memory.propose_stacked(clients.clients, (ask.round, ask.attempt), outcome.memory)
        trained, up = outcome.trained, frame.size(frame.of_update(outcome.update.lane(0), setup.guard.bits))
        count, loss = torch.as_tensor(trained.count), torch.as_tensor(trained.loss)
        return BatchResult(count, loss, outcome.update.weight, norms, up)

    def rehearse(self, batch: PlannedBatch, result: GroupResult) -> None:
        """The work of a batch without its checks; no memory is proposed.

        Raises:
            CannotTrain, OutOfDeviceMemory: as in `train`.
        """
        self.setup.collector.count_batch(
            batch.ask, batch.clients, self._outcome(batch, self.setup.training.trial), result
        )

    def _outcome(self, batch: PlannedBatch, training: ClientTraining) -> Outcome:
        """The clients' outcome, before the server's checks.

        Raises:
            CannotTrain, OutOfDeviceMemory: if they must train otherwise.
        """
        loop, setup, ask, clients = self.loop, self.setup, batch.ask, batch.clients
        assert loop is not None
        try:
            if not loop.fits(batch.plan, "steps" in setup.flows[-1].needs):
                raise CannotTrain("the steps of some batches do not fit in trainer.steps_memory")
            first = setup.client_algorithm.remembered(ask.broadcast_for(clients.clients[0]))
            work = training.prepare_batch(clients, ask, setup.job.memory.gather(clients.clients, first))
            trained = loop.train(work, batch.plan, self.compiler.batched)
            if not bool(torch.isfinite(torch.linalg.vector_norm(trained.movement, dim=-1)).all()):
                raise CannotTrain("an update of a batch is not finite", blames_client=True)
            return training.send(work, trained, own=training.exchanged(clients.clients, ask.request, batch.secrets))
        except CannotTrain:
            raise
        except torch.OutOfMemoryError as error:
            raise OutOfDeviceMemory from error
        except Exception as error:  # whatever a model or a stage may raise: alone, client and stage are named
            raise CannotTrain(failure(error)) from error

"""A group of clients is trained by the executor that the plan names, or by the next that can, and summed together."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace

from headway.core import stopping
from headway.core.update import Tensors
from headway.engines.client_execution import ClientExecution
from headway.engines.executors.batch_result import BatchResult, CannotTrain, OutOfDeviceMemory
from headway.engines.executors.batched import BatchedExecutor, PlannedBatch
from headway.engines.executors.low_rank_executor import LowRankExecutor
from headway.engines.fallbacks import ALONE, WRITTEN
from headway.engines.grouping import GROUP
from headway.observe.drift import DriftMeter
from headway.protocol import wire as frame
from headway.protocol.messages import Ask
from headway.server.collector import GroupResult, stragglers


class GroupRunner:
    """Picks an executor for the clients of a group, and records every fallback.

    group: the least number of clients in a group.
    """

    def __init__(self, execution: ClientExecution, group: int = GROUP) -> None:
        self.execution, self.setup, self.group = execution, execution.setup, group

    @property
    def width(self) -> int:
        """How many clients make a batch."""
        return self.execution.plan.lanes

    def run(
        self, ask: Ask, members: Sequence[str], secrets: Mapping[str, Tensors], meter: DriftMeter | None
    ) -> GroupResult:
        """Trains the clients of a group and sums their updates, in this order."""
        execution, ask = self.execution, ask.map_broadcasts(self.setup.device.message)
        result, down = GroupResult(meter=meter), frame.size(ask.message.tensors())
        dropped = dict.fromkeys(self.setup.client_algorithm.dropped(members, ask))
        for part in self._by_version(ask, members):
            start = 0
            while start < len(part):
                stopping.check()
                clients = part[start : start + self.width] if self.width > 1 else part[start:]
                present = [client for client in clients if client not in dropped] if dropped else clients
                if self._train(ask, present, secrets, down, result):
                    start += len(clients)
                else:
                    self._halve_batches(len(clients))
        result.parts.append(stragglers(list(dropped), down))
        execution.unwritten.check()
        if (note := execution.compiler.trouble) is not None:
            execution.fallbacks.add(note)
            execution.use(replace(execution.plan, compiled=False))
        return result

    def rehearse(self, ask: Ask, clients: Sequence[str]) -> None:
        """Does the clients' work of a round as planned, and forgets it.

        Raises:
            OutOfDeviceMemory: if a batch does not fit in memory.
        """
        ask, result = ask.map_broadcasts(self.setup.device.message), GroupResult()
        if self.width > 1:
            with suppress(CannotTrain):
                batch = self.execution.batched.plan(ask, clients)
                for executor in self._batch_executors:
                    with suppress(CannotTrain):
                        executor.rehearse(batch, result)
                        return
        self.execution.sequential.rehearse(ask, clients, result)

    @property
    def _batch_executors(self) -> list[LowRankExecutor | BatchedExecutor]:
        """The executors of a batch in the order in which they are tried, before its clients train one at a time."""
        execution = self.execution
        if not execution.uses_low_rank:
            return [execution.batched]
        # where some weights are each client's own, batches of both forms would have other bits
        return [execution.low_rank, *([] if execution.low_rank.has_non_linear_params else [execution.batched])]

    def _by_version(self, ask: Ask, clients: Sequence[str]) -> list[Sequence[str]]:
        """The clients by the round in which they were asked, where those of two rounds cannot share a batch."""
        if not ask.earlier or not (self.execution.uses_low_rank or self.setup.has_client_state):
            return [clients]
        rounds = sorted({ask.asked_in(client) for client in clients})
        return [[client for client in clients if ask.asked_in(client) == round_] for round_ in rounds]

    def _train(
        self, ask: Ask, clients: Sequence[str], secrets: Mapping[str, Tensors], down: int, result: GroupResult
    ) -> bool:
        """Trains clients that fit in a batch; False, and nothing has been counted, if there is no memory for it."""
        begun = time.perf_counter()
        try:
            trained = self._train_batch(ask, clients, secrets, result) if self.width > 1 and clients else None
        except OutOfDeviceMemory:
            return False  # which lets go of what the exception holds of memory
        if trained is None:
            self.execution.sequential.train(ask, clients, secrets, down, result)
            return True
        batch, figures = trained
        costs = (time.perf_counter() - begun) / len(clients), figures.bytes_up, down
        numbers = batch.clients.sizes, figures.steps, figures.norms, figures.losses, figures.weights
        columns = (column.tolist() for column in numbers)
        result.parts.append(self.setup.collector.reports_of(batch.clients.clients, costs, *columns))
        return True

    def _train_batch(
        self, ask: Ask, clients: Sequence[str], secrets: Mapping[str, Tensors], result: GroupResult
    ) -> tuple[PlannedBatch, BatchResult] | None:
        """Trains clients as one batch; `None`, and nothing has been counted, if they must train one at a time."""
        try:
            batch = self.execution.batched.plan(ask, clients, secrets)
        except CannotTrain as refusal:
            self._record(refusal, ALONE)
            return None
        executors = self._batch_executors
        for place, executor in enumerate(executors, 1):
            try:
                return batch, executor.train(batch, result)
            except CannotTrain as refusal:
                self._record(refusal, ALONE if place == len(executors) else WRITTEN)
        return None

    def _record(self, refusal: CannotTrain, instead: str) -> None:
        """A sentence for the report, unless another executor was to be expected."""
        if refusal.reason is not None:
            named = ", so that its client is named" if refusal.blames_client else ""
            self.execution.fallbacks.add(f"{refusal.reason}: {instead}{named}.")

    def _halve_batches(self, width: int) -> None:
        """Goes on with half as many clients in a batch."""
        execution, device = self.execution, self.setup.device
        device.empty_cache()
        execution.use(replace(execution.plan, lanes=max(width // 2, 1)))
        goes_on = "one at a time" if self.width == 1 else f"{self.width} side by side"
        execution.fallbacks.add(
            f"{width} clients side by side do not fit in the memory of {device.name}: from here on they train "
            f"{goes_on}, which changes the last bits of what is learned."
        )

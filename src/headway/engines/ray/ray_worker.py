"""A worker on any machine, which runs groups of clients."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

import torch

from headway.client.evaluation import Window
from headway.core.errors import HeadwayError
from headway.core.update import unflat_names
from headway.engines.client_execution import ClientExecution
from headway.engines.group_runner import GroupRunner
from headway.engines.processes.arrays import Arrays, array_of, rows_to_arrays, tensors_of, total_to_arrays
from headway.engines.ray.replicated_state import ClientRange, RemoteMemory
from headway.engines.ray.state_replica import node_here
from headway.engines.ray.worker_job import WorkerJob
from headway.engines.worker_pool import Lost, WorkerTotals
from headway.protocol.messages import Ask, Evaluate, Measure, Message, Train, Version
from headway.protocol.reports import Reports


class RayWorker:
    """Runs units on one thread, and keeps what they add up to until it is asked.

    A call that is made twice has one effect and the same result: calls of `unit` and `sum` are numbered.

    paths: where the driver finds modules, such as the one that the model is in; those that are not here do no harm.
    """

    def __init__(self, paths: Sequence[str]) -> None:
        sys.path += [path for path in paths if path not in sys.path]
        self.totals: WorkerTotals | None = None
        self.last: tuple[int, dict[str, Any]] = (-1, {})  # the number of the last call, and its result

    def start(self, shipped: WorkerJob, arrays: Arrays) -> str:
        """Makes ready; the node that it is on."""
        if self.totals is not None:
            return node_here()
        torch.set_num_threads(1)
        job = shipped.job(arrays)
        assert isinstance(job.memory, RemoteMemory)
        self.memory, self.remote = job.memory, shipped.remote
        execution = ClientExecution(job, shipped.flows, shipped.measure, shipped.plan)
        if execution.not_compiled is not None:
            raise HeadwayError(f"the others compile their steps, but {execution.not_compiled}")
        self.whole = job.algorithm.chain.aggregator.whole_cohort
        self.totals = WorkerTotals(GroupRunner(execution))
        return node_here()

    def unit(self, request: dict[str, Any], ranges: Sequence[ClientRange], *messages: Arrays) -> dict[str, Any]:
        """Trains the clients of a unit; what became of each.

        request: the number of the call, the round and earlier ones that are answered, the attempt, the clients, who of
        them was asked in which earlier round, who makes how many steps, their secrets in the exchanges of a protocol,
        how many clients there are in the cohort, and which keepers have missed something.  ranges: who keeps their
        memory in this round.  messages: of these rounds.

        Raises:
            Lost: if the worker was not started.
        """
        if self.last[0] != request["number"]:
            reply = self._trained(self._started(), request, ranges, messages)
            self.last = request["number"], reply | {"missed": self.memory.missed, "repeated": self.remote.repeated}
            self.remote.repeated = (0, "")
        return self.last[1]

    def evaluate(self, request: dict[str, Any], ranges: Sequence[ClientRange], message: Arrays) -> dict[str, Any]:
        """Evaluates clients, or measures their losses; a report on each client of the window.

        request: as of `unit`, with the window and whether clients are evaluated.  message: the model.

        Raises:
            Lost: if the worker was not started.
        """
        if self.last[0] != request["number"]:
            totals, kind = self._started(), Evaluate if request["evaluates"] else Measure
            self.memory.begin(ranges, request["missed"])
            ask = Ask(kind(_message(message), request["round"], request["attempt"]), tuple(request["clients"]))
            try:
                reports = totals.evaluate(ask, Window(*request["window"]))
                reply: dict[str, Any] = {"reports": reports.to_state(), "notes": []}
            except Exception as error:  # the driver evaluates the clients itself, and fails where it can be looked at
                reply = {"failed": f"{type(error).__name__}: {error}"}
            self.last = request["number"], reply | {"missed": self.memory.missed, "repeated": self.remote.repeated}
            self.remote.repeated = (0, "")
        return self.last[1]

    def sum(self, number: int) -> dict[str, Any]:
        """The sum of the groups since the last such call; number: of the call."""
        if self.last[0] != number:
            self.last = number, total_to_arrays(self._started().take())
        return self.last[1]

    def _started(self) -> WorkerTotals:
        if self.totals is None:
            raise Lost("its start never reached it")
        return self.totals

    def _trained(
        self, totals: WorkerTotals, request: dict[str, Any], ranges: Sequence[ClientRange], messages: Sequence[Arrays]
    ) -> dict[str, Any]:
        self.memory.begin(ranges, request["missed"])
        ask = _ask(request, [_message(arrays) for arrays in messages])
        try:
            secrets = {client: tensors_of(arrays) for client, arrays in request["secrets"].items()}
            done = totals.run(ask, request["cohort"], secrets)
            self.memory.flush()
        except Exception as error:  # the driver runs the clients itself, and fails where it can be looked at
            if done_meter := totals.meter[1]:
                done_meter.clear()
            return {"failed": f"{type(error).__name__}: {error}"}
        reply: dict[str, Any] = {
            "reports": Reports.joined(done.parts).to_state(),
            "notes": totals.groups.execution.fallbacks.take(),
        }
        if (meter := done.meter) is not None:
            drift = {client: array_of(row) for client, row in meter.rows.items()}
            reply |= {"drift": drift, "weights": meter.weights, "paths": meter.paths}
            meter.clear()
        if self.whole:
            reply["rows"] = rows_to_arrays(done.group.total, totals.groups.setup.flat_module.shared.dtype)
        else:
            totals.total.add_group(done.group)
        return reply


def _message(arrays: Arrays) -> Message:
    params, buffers, stages = unflat_names(tensors_of(arrays))
    return Message(params, stages, buffers)


def _ask(request: dict[str, Any], messages: Sequence[Message]) -> Ask:
    """The ask of a request; messages: in the order of its rounds."""
    now, *rounds = request["rounds"]
    versions = {round_: Version(round_, message) for round_, message in zip(rounds, messages[1:], strict=True)}
    return Ask(
        Train(messages[0], now, request["attempt"]),
        tuple(request["clients"]),
        earlier={client: versions[round_] for client, round_ in request["earlier"].items()},
        steps=request["steps"],
    )

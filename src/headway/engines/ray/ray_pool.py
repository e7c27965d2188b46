"""Worker actors of a Ray cluster, as a pool of workers."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar

from headway.client.evaluation import Window
from headway.core import stopping
from headway.core.errors import HeadwayError
from headway.core.update import Tensors
from headway.engines.client_execution import ClientExecution
from headway.engines.processes.arrays import arrays_of, rows_from_arrays, tensors_of, total_from_arrays
from headway.engines.ray.actors import TICK_S, Actor, Call, RayActors, Reference, Unread, import_ray
from headway.engines.ray.cluster import living_nodes
from headway.engines.ray.ray_worker import RayWorker
from headway.engines.ray.replicated_state import RemoteMemory
from headway.engines.ray.worker_job import WorkerJob, data_arrays
from headway.engines.worker_pool import Lost, MachineLost, Unit, WorkerHandle, WorkerPool, WorkerResult
from headway.protocol.messages import Ask, Evaluate, Message
from headway.protocol.reports import Reports
from headway.protocol.sums import ExactTotal

PATIENCE_S = 300.0  # for workers that have not started: a node that imports from a slow disk takes a minute
FIRST_S = 86_400.0  # for the first unit of all to be trained
SLOWER, SLOW_S = 20, 600.0  # a worker that is at a unit so many times longer than any was, and so long, is lost


class RayHandle(WorkerHandle):
    """A worker actor.  begun: the call that starts it, whose result is its node."""

    named: ClassVar[str] = "a Ray worker"

    def __init__(self, number: int, actor: Actor, begun: Call, pool: RayPool) -> None:
        super().__init__(number)
        self.actor, self.begun, self.pool = actor, begun, pool
        self.asked: Call | None = None
        self.calls = 0
        self.how = "for a reason that is not known"

    def give(self, ask: Ask, unit: Unit, secrets: Mapping[str, Tensors]) -> None:
        """Asks it; messages go by reference."""
        pool, own = self.pool, ask.of(unit.clients)
        if unit.window is not None:
            self._give_evaluation(ask, unit, unit.window)
            return
        rounds = [ask.round, *(version.round for version in own.versions)]
        self.calls += 1
        request = {
            "number": self.calls,
            "rounds": rounds,
            "attempt": ask.attempt,
            "clients": unit.clients,
            "cohort": len(ask.cohort),
            "earlier": {client: version.round for client, version in own.earlier.items()},
            "steps": dict(own.steps),
            "secrets": {client: arrays_of(secret) for client, secret in secrets.items()},
            "missed": dict(pool.memory.missed),
        }
        messages = [pool.broadcasts[round_] for round_ in rounds]
        self.asked = pool.remote.call(self.actor, "unit", request, pool.memory.ranges, *messages)

    def _give_evaluation(self, ask: Ask, unit: Unit, window: Window) -> None:
        self.calls += 1
        request = {
            "number": self.calls,
            "evaluates": isinstance(ask.request, Evaluate),
            "clients": unit.clients,
            "window": [window.first, window.stop, window.offset],
            "round": ask.round,
            "attempt": ask.attempt,
            "missed": dict(self.pool.memory.missed),
        }
        ranges, message = self.pool.memory.ranges, self.pool.evaluated
        self.asked = self.pool.remote.call(self.actor, "evaluate", request, ranges, message)

    def work(self, unit: Unit) -> WorkerResult | None:
        """Waits for its answer."""
        self._check_started()
        assert self.asked is not None
        asked, self.asked = self.asked, None
        reply = self._get(asked)
        self.pool.longest_s = max(self.pool.longest_s, asked.seconds)
        self.pool.memory.missed |= reply["missed"]
        self.pool.remote.add(reply["repeated"])
        if "failed" in reply:
            return None
        rows = rows_from_arrays(reply["rows"]) if "rows" in reply else None
        drift, paths = tensors_of(reply.get("drift", {})), reply.get("paths", {})
        return WorkerResult(Reports(**reply["reports"]), rows, drift, reply.get("weights", {}), paths, reply["notes"])

    def total(self) -> ExactTotal | None:
        """Its sum."""
        self.calls += 1
        return total_from_arrays(self._get(self.pool.remote.call(self.actor, "sum", self.calls)))

    def dispose(self) -> str:
        """Ends it, if it could only not be reached."""
        self.pool.remote.kill(self.actor)
        return self.how

    def _check_started(self) -> None:
        """Whether its start went well.

        Raises:
            HeadwayError: if what it was given cannot work on its node.
        """
        try:
            self._get(self.begun)
        except Exception as error:
            if isinstance(error, Lost) and not isinstance(error, Unread):
                raise
            found = str(error) if isinstance(error, Lost) else f"{type(error).__name__}: {error}"
            raise HeadwayError(
                "a Ray worker could not make ready: needed the same packages, code and model on every node, found: "
                f"{found}. It is caused by the node or by the task: install there what is "
                "installed here, or run without Ray to see what fails."
            ) from error

    def _get(self, call: Call) -> Any:
        try:
            return self.pool.remote.get(call)
        except Lost as lost:
            self.how = f"({lost})"
            if self.begun.value is not None and self.begun.value not in living_nodes():
                raise MachineLost(*lost.args) from lost
            raise


class RayPool(WorkerPool):
    """Worker actors on the nodes of a Ray cluster; data and messages reach each node once, by its object store.

    longest_s: the longest time that a worker was at a unit.
    """

    worker: ClassVar[tuple[str, str]] = ("Ray worker", "Ray workers")

    def __init__(self, workers: int, execution: ClientExecution, remote: RayActors, memory: RemoteMemory) -> None:
        super().__init__(workers)
        self.execution, self.remote, self.memory = execution, remote, memory
        self.longest_s = 0.0
        self.shipped: tuple[Reference, Reference] | None = None
        self.broadcasts: dict[int, Reference] = {}  # by round
        self.evaluated: Reference | None = None  # the model that is evaluated

    def kill(self) -> None:
        """Ends the workers at once, whatever they are at."""
        for handle in self.handles:
            handle.dispose()
        self.handles, self.broadcasts = [], {}

    def prepare(self, ask: Ask) -> None:
        """Puts the messages where the workers read them, and in the first round the data."""
        if self.shipped is None:
            shipped = WorkerJob.of(self.execution, self.remote)
            self.shipped = (self.remote.put(shipped), self.remote.put(data_arrays(self.execution.setup.job.data)))
        earlier = {
            version.round: self.broadcasts.get(version.round) or self._sent(version.message) for version in ask.versions
        }
        self.broadcasts = {**earlier, ask.round: self._sent(ask.message)}

    def prepare_evaluation(self, ask: Ask) -> bool:
        """Puts the model where the workers read it; False before the first round, when they have no data."""
        if self.shipped is None:
            return False
        self.evaluated = self._sent(replace(ask.message, stages={}))
        return True

    def _sent(self, message: Message) -> Reference:
        return self.remote.put(arrays_of(message.tensors()))

    def hire(self, number: int, instead: bool = False) -> RayHandle:
        """Makes a worker, on a node that has room; one instead of another needs no free core, since a cluster that
        has lost a node may have none."""
        assert self.shipped is not None
        made = import_ray().remote(RayWorker)
        spread = made.options(num_cpus=0 if instead else 1, max_restarts=0, scheduling_strategy="SPREAD")
        actor: Actor = spread.remote(list(sys.path))
        return RayHandle(number, actor, self.remote.call(actor, "start", *self.shipped), self)

    def ready(self, busy: Sequence[WorkerHandle]) -> Iterator[WorkerHandle]:
        """Waits for an answer.

        Raises:
            HeadwayError: if no worker that is waited for has started for minutes.
        """
        asked = {handle: handle.asked for handle in busy if isinstance(handle, RayHandle) and handle.asked is not None}
        ray, begun = import_ray(), time.monotonic()
        while True:
            stopping.check()
            by_reference = {call.reference: handle for handle, call in asked.items()}
            answered, _ = ray.wait(list(by_reference), timeout=TICK_S)
            done = [handle for reference in answered if self.remote.poll(asked[handle := by_reference[reference]])]
            done += [handle for handle, call in asked.items() if handle not in done and self._overdue(call)]
            if done:
                yield from done
                return
            if time.monotonic() - begun > PATIENCE_S and not any(self.remote.poll(handle.begun) for handle in asked):
                raise HeadwayError(
                    f"needed {len(busy)} more workers on the Ray cluster, found that none has started in "
                    f"{PATIENCE_S:.0f} seconds. Often other work holds its cores: use fewer workers, or wait for it."
                )

    def _overdue(self, call: Call) -> bool:
        """Whether a worker is at a unit for so much longer than any was before that it is taken for lost."""
        limit = max(SLOW_S, SLOWER * self.longest_s) if self.longest_s else FIRST_S
        if call.seconds > limit:
            call.fail(Lost(f"no answer for {call.seconds:.0f} s"))
        return call.done

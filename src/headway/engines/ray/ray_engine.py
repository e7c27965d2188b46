"""The Ray engine: workers on the machines of a Ray cluster.  Ray is imported here only, when it is needed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import ClassVar, Literal, final

from headway.engines.autotune.execution_plan import PlanConstraints
from headway.engines.engine import Job
from headway.engines.planned_engine import PlannedEngine
from headway.engines.planned_execution import ExecutionOptions
from headway.engines.ray.actors import Actor, RayActors, import_ray
from headway.engines.ray.cluster import ClusterConnection, living_nodes
from headway.engines.ray.ray_pool import RayPool
from headway.engines.ray.replicated_state import RemoteMemory
from headway.engines.ray.state_replica import StateReplica
from headway.engines.worker_pool import WorkerClients, checked_workers
from headway.protocol.messages import Answer, Ask, Settle, Train


@final
class RayEngine(PlannedEngine):
    """Clients in workers on a Ray cluster, each with one thread; the clients' memory lies with its own actors, twice.

    Data, the model and the broadcast go through Ray's object store, once for each node.  A worker returns one exact
    sum a round, so the result has the same bits for any number of workers, and those of `ProcessEngine` with as many
    lanes.  A worker that is lost with its process or node is made anew elsewhere, its clients train again, and nothing
    changes.  Each part of the clients' memory has two keepers; one that is lost is replaced after the round.

    workers: how many; `None` for one per core of the cluster.  address: of a cluster that runs, `host:port`, or "auto"
    for the one on this machine; with `None` the address in RAY_ADDRESS, and otherwise a cluster of this machine alone,
    which ends with the run.  A program that has called `ray.init` keeps its cluster, which is used.  The others are as
    in `LocalEngine`.

    Raises:
        ConfigError: for a number below 1; when opened, if Ray is not installed, no cluster answers, or it is too small.
    """

    titles: ClassVar[tuple[str, str]] = ("Ray", "Ray, lanes of {}")

    def __init__(
        self,
        workers: int | None = None,
        *,
        address: str | None = None,
        lanes: int | Literal["auto"] = "auto",
        drift: bool = True,
        low_rank: bool | None = None,
        channels_last: bool | None = None,
        compiled: bool | None = None,
    ) -> None:
        self.workers = checked_workers(workers)
        constraints = PlanConstraints(low_rank, channels_last, compiled)
        super().__init__(ExecutionOptions(lanes, drift, constraints, workers=self.workers or 1))
        self.cluster, self.remote = ClusterConnection(address), RayActors()
        self.replicas = RemoteMemory((), self.remote)
        self.pool: RayPool | None = None

    @property
    def summary(self) -> str:
        """How many workers, and what each does."""
        return self.worker_clients.summary(self.planned.summary)

    def memory(self, clients: Sequence[str], folder: Path | None) -> RemoteMemory:
        """The clients' memory, with actors of the cluster; what is too large for main memory lies where their
        temporary files do."""
        self.replicas = RemoteMemory(clients, self.remote)
        return self.replicas

    def open(self, job: Job) -> None:
        """Connects to the cluster, and starts what keeps the clients' memory; the workers start with a round."""
        assert job.memory is self.replicas, "the job's memory is what RayEngine.memory gave"
        workers = self.cluster.open(self.workers)
        self.change_options(workers=workers)
        try:
            super().open(job)
            self.pool = RayPool(workers, self.execution, self.remote, self.replicas)
            self.worker_clients = WorkerClients(self.local, self.pool)
            if self.execution.setup.client_algorithm.first_memory():
                self.replicas.open(len(living_nodes()), self._keeper, living_nodes)
        except BaseException:
            self.close()
            raise

    def ask(self, ask: Ask) -> Answer:
        """Runs one ask on its cohort, in workers where they can."""
        answer = self.worker_clients.answer(ask)
        if not isinstance(ask.request, Train | Settle):
            return answer
        notes: list[str] = []
        if isinstance(ask.request, Settle):
            notes, self.replicas.notes = self.replicas.notes, []
        return replace(answer, notes=[*answer.notes, *notes, *self.remote.report()])

    def close(self) -> None:
        """Ends the workers, the keepers, and the cluster if it is this engine's own."""
        if self.cluster.connected and import_ray().is_initialized():
            if self.pool is not None:
                self.pool.kill()
            self.replicas.close()
        self.pool = None
        self.cluster.close()
        super().close()

    def _keeper(self, clients: Sequence[str], node: str) -> Actor:
        """A keeper on this node, or elsewhere if that is lost."""
        ray = import_ray()
        strategy = ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy(node_id=node, soft=True)
        made = ray.remote(StateReplica).options(num_cpus=0, max_restarts=0, scheduling_strategy=strategy)
        keeper: Actor = made.remote(clients)
        return keeper

"""The Processes engine: worker processes that train groups of clients and return one sum each."""

from __future__ import annotations

import os
import sys
from typing import ClassVar, Literal, final

from headway.core.errors import ConfigError
from headway.engines.autotune.execution_plan import PlanConstraints
from headway.engines.engine import Job
from headway.engines.planned_engine import PlannedEngine
from headway.engines.planned_execution import ExecutionOptions
from headway.engines.processes.process_pool import ProcessPool, cores
from headway.engines.worker_pool import WorkerClients, checked_workers
from headway.protocol.messages import Answer, Ask


@final
class ProcessEngine(PlannedEngine):
    """Clients in worker processes on this machine, each with one thread, over shared memory.

    The data are loaded once.  A worker returns one exact sum a round, so the result has the same bits for any number
    of workers; one that dies is replaced, its clients train again, and the result does not change.  What fails in a
    worker is run again in this process, where it fails under your debugger.

    workers: how many processes; `None` for one per core.  client_timeout: seconds after which a client that has not
    ended is taken to hang, and the run stops with its name; `None` waits for ever.  The others are as in `LocalEngine`.

    Raises:
        ConfigError: for a number below 1 or a time not above 0; when opened, where processes cannot be forked; in a
            run, if a client takes longer than `client_timeout`.
    """

    titles: ClassVar[tuple[str, str]] = ("Processes", "Processes, lanes of {}")
    pool: ProcessPool

    def __init__(
        self,
        workers: int | None = None,
        *,
        lanes: int | Literal["auto"] = "auto",
        drift: bool = True,
        low_rank: bool | None = None,
        channels_last: bool | None = None,
        compiled: bool | None = None,
        client_timeout: float | None = None,
    ) -> None:
        self.workers = checked_workers(workers) or cores()
        constraints = PlanConstraints(low_rank, channels_last, compiled)
        super().__init__(ExecutionOptions(lanes, drift, constraints, workers=self.workers))
        if client_timeout is not None and not 0 < client_timeout < float("inf"):
            raise ConfigError(f"client_timeout must be above 0 seconds, or None, found {client_timeout!r}.")
        self.client_timeout = client_timeout

    @property
    def summary(self) -> str:
        """How many workers, and what each does."""
        return self.worker_clients.summary(self.planned.summary)

    def open(self, job: Job) -> None:
        """Makes ready; the workers start with the first round."""
        if not hasattr(os, "fork") or sys.platform == "darwin":
            raise ConfigError(
                "worker processes share the data by forking, which this system does not do safely: leave workers out."
            )
        super().open(job)
        self.pool = ProcessPool(self.workers, self.groups, self.client_timeout)
        self.worker_clients = WorkerClients(self.local, self.pool)
        job.memory.declare(self.execution.setup.client_algorithm.first_memory())

    def ask(self, ask: Ask) -> Answer:
        """Runs one ask on its cohort, in workers where they can."""
        return self.worker_clients.answer(ask)

    def close(self) -> None:
        """Stops the workers; those that do not end by themselves are killed."""
        if hasattr(self, "pool"):
            self.pool.close()
        super().close()

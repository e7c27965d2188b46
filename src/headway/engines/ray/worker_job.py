"""The job of a worker on any machine: what it is given once."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from headway.core.algorithm import Algorithm
from headway.core.flow import Flow
from headway.data import Examples, FederatedData
from headway.data.dataset.client_index import ClientIndex
from headway.engines.autotune.execution_plan import ExecutionPlan
from headway.engines.client_execution import ClientExecution
from headway.engines.engine import Job
from headway.engines.processes.arrays import Array, Arrays, array_of, tensors_of
from headway.engines.ray.actors import RayActors
from headway.engines.ray.replicated_state import RemoteMemory
from headway.model.task import Task
from headway.numerics.keys import Key


@dataclass(frozen=True)
class WorkerJob:
    """A job but for its arrays: what a worker needs of it, sent once.

    hollow: the data without examples and without who holds which.
    """

    algorithm: Algorithm
    task: Task
    key: Key
    hollow: FederatedData
    names: Sequence[str]
    flows: tuple[Flow, ...]
    measure: bool
    plan: ExecutionPlan
    remote: RayActors
    system: bool

    @classmethod
    def of(cls, execution: ClientExecution, remote: RayActors) -> WorkerJob:
        """The job of an execution."""
        setup = execution.setup
        job, hollow = setup.job, copy.copy(setup.job.data)
        for field in ("store", "train", "test", "central"):
            object.__setattr__(hollow, field, None)
        names = ClientIndex.of(job.data.train).names
        flows, measure = setup.flows, setup.measure
        plan = execution.plan
        return cls(job.algorithm, job.task, job.key, hollow, names, flows, measure, plan, remote, job.system)

    def job(self, arrays: Arrays) -> Job:
        """The job again; the data were checked where they came from, and are not looked through again."""
        held, data = tensors_of(arrays), copy.copy(self.hollow)
        object.__setattr__(data, "store", Examples(held["inputs"], held["targets"]))
        object.__setattr__(data, "train", _index(self.names, held, "train"))
        object.__setattr__(data, "test", _index(self.names, held, "test"))
        memory = RemoteMemory(self.names, self.remote)
        return Job(self.algorithm, self.task, data, self.key, memory, system=self.system)


def data_arrays(data: FederatedData) -> dict[str, Array]:
    """The examples, and each client's training and test examples, as arrays."""
    arrays = {"inputs": array_of(data.store.inputs), "targets": array_of(data.store.targets)}
    for part, held in (("train", ClientIndex.of(data.train)), ("test", ClientIndex.of(data.test))):
        arrays |= {f"{part}_starts": array_of(held.starts), f"{part}_sizes": array_of(held.sizes)}
        if held.index is not None:
            arrays[f"{part}_index"] = array_of(held.index)
    return arrays


def _index(names: Sequence[str], held: Mapping[str, Tensor], part: str) -> ClientIndex:
    """The examples of each client in one part of the data, from arrays."""
    return ClientIndex(names, held[f"{part}_starts"], held[f"{part}_sizes"], held.get(f"{part}_index"))

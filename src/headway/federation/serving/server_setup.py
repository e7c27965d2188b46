"""The server's parts of a job: its model, the checks on updates, and the description that agents receive."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import Any

import torch

from headway.core.algorithm import Algorithm
from headway.core.flow import Flow
from headway.engines.engine import Job
from headway.experiment.identity import described
from headway.federation import http_api as api
from headway.model.device import Device
from headway.model.flat_module import FlatModule
from headway.model.task import Task
from headway.numerics.keys import DRAWS, Key
from headway.observe.drift import DriftMeter
from headway.protocol import wire
from headway.protocol.messages import Ask
from headway.server.collector import UpdateCollector
from headway.server.guard import Promise

ROOM = 1 << 16  # bytes of a reply besides its vectors: figures, names, sums


@dataclass(frozen=True)
class ServerSetup:
    """The server's parts of a job.

    guard: what updates must be.  collector: decodes, lifts and sums them.  measure: whether drift is measured.
    """

    job: Job
    flows: tuple[Flow, ...]
    flat_module: FlatModule
    guard: Promise
    collector: UpdateCollector
    measure: bool

    @classmethod
    def of(cls, job: Job, flows: tuple[Flow, ...], measure: bool) -> ServerSetup:
        """The parts of a job; measure: whether drift is measured, where single updates are seen."""
        device, algorithm = Device(), job.algorithm
        flat_module = FlatModule(job.task, job.key, device)
        size, statistics = flat_module.layout.size, statistics_of(job.task, flat_module)
        guard = Promise.of(algorithm.chain, flows, size, statistics)
        population = len(job.data.clients)
        collector = UpdateCollector(algorithm, job.key, flows, flat_module.layout, device, guard, population)
        return cls(job, flows, flat_module, guard, collector, measure and not algorithm.protected)

    def meter(self, ask: Ask) -> DriftMeter | None:
        """The meter of a round's drift, if that is measured."""
        if not self.measure:
            return None
        return DriftMeter(len(ask.cohort), self.flat_module.layout.size, self.job.key.derive("drift", ask.round))

    def reply_limit(self) -> int:
        """The largest number of bytes that an update may have, from its promised form."""
        numbers = sum(self.guard.lengths.values())
        return 8 * numbers + ROOM


def describe_job(job: str, name: str, algorithm: Algorithm, task: Task, rounds: int, **more: Any) -> api.JobDescription:
    """A job for agents.

    job: its identifier.  name: of the run.  more: further fields, `seed` among them, from which the model's initial
    weights are drawn.
    """
    flat_module = FlatModule(task, Key.root(more.get("seed", 0)), Device())
    return api.JobDescription(
        job=job,
        name=name,
        versions=versions(),
        algorithm=json.loads(json.dumps(described(algorithm))),
        task=task_facts(task, flat_module),
        rounds=rounds,
        **more,
    )


def statistics_of(task: Task, flat_module: FlatModule) -> int:
    """The number of statistics that are averaged."""
    return flat_module.statistics_layout.size if task.buffers == "average" and flat_module.has_statistics else 0


def task_facts(task: Task, flat_module: FlatModule) -> api.TaskFacts:
    """The facts of a task and its model that a server and its agents compare."""
    digest = hashlib.sha256()
    for name, tensor in sorted(flat_module.frozen.items()):
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)};".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return api.TaskFacts(
        layout=flat_module.layout.fingerprint,
        parameters=flat_module.layout.size,
        statistics=statistics_of(task, flat_module),
        frozen=digest.hexdigest() if flat_module.frozen else "",
        loss=task.loss if isinstance(task.loss, str) else getattr(task.loss, "__name__", "own"),
        metrics=tuple(map(str, task.metric_names)),
        dtype=task.dtype,
        buffers=task.buffers,
    )


def versions() -> api.Versions:
    """The versions of this node."""
    from headway import __version__

    return api.Versions(
        headway=__version__, torch=torch.__version__, protocol=api.PROTOCOL, wire=wire.VERSION, draws=DRAWS
    )


def compared(needed: api.JobDescription, found: api.JoinRequest) -> list[tuple[str, str, str]]:
    """What differs between a job and a client that would join it: the name of each fact, the server's, the client's."""
    differing = []
    for name in ("protocol", "wire", "draws"):
        ours, theirs = getattr(needed.versions, name), getattr(found.versions, name)
        if ours != theirs:
            differing.append((f"{name} version", str(ours), str(theirs)))
    for name in ("layout", "parameters", "statistics", "frozen", "loss", "dtype", "buffers"):
        ours, theirs = getattr(needed.task, name), getattr(found.task, name)
        if ours != theirs:
            differing.append((name, str(ours), str(theirs)))
    return differing

"""The server's parts of a job: its model, the checks on updates, and the description that agents receive."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from headway.core.algorithm import Algorithm
from headway.core.flow import Flow
from headway.core.layout import Layout
from headway.engines.engine import Job
from headway.experiment.identity import described
from headway.federation import http_api as api
from headway.federation.job_facts import own_versions, task_facts
from headway.model.device import Device
from headway.model.flat_module import FlatModule
from headway.model.task import Task
from headway.numerics.keys import Key
from headway.observe.drift import DriftMeter
from headway.protocol.messages import Ask
from headway.server.collector import UpdateCollector
from headway.server.guard import Promise

ROOM = 1 << 16  # bytes of a reply besides its vectors: figures, names, sums


@dataclass(frozen=True)
class ServerSetup:
    """The server's parts of a job.

    layout: of the model's vector.  facts: of the task, which the clients' must be.
    guard: what updates must be.  collector: decodes, lifts and sums them.  measure: whether drift is measured.
    summed: how many numbers each vector of the sum has.
    """

    job: Job
    flows: tuple[Flow, ...]
    layout: Layout
    facts: api.TaskFacts
    guard: Promise
    collector: UpdateCollector
    measure: bool
    summed: Mapping[str, int]

    @classmethod
    def of(cls, job: Job, flows: tuple[Flow, ...], measure: bool) -> ServerSetup:
        """The parts of a job; measure: whether drift is measured, where single updates are seen."""
        device, algorithm = Device(), job.algorithm
        layout, facts = _described(job.task, job.key)
        size, statistics = layout.size, facts.statistics
        flows = algorithm.sized(flows, size, statistics)
        guard = Promise.of(algorithm.chain, flows, size, statistics)
        summed = algorithm.chain.summed_lengths(flows, size) | ({"buffers": statistics} if statistics else {})
        population, measures = job.population, measure or algorithm.reputation is not None
        collector = UpdateCollector(algorithm, job.key, flows, layout, device, guard, population)
        return cls(job, flows, layout, facts, guard, collector, measures and not algorithm.protected, summed)

    @property
    def modulo(self) -> dict[str, int]:
        """The bits b of vectors whose sum counts modulo 2^b, by name: those that the clients of a protocol mask."""
        protocol = self.job.algorithm.chain.protocol
        return dict(self.guard.bits) if protocol is not None and protocol[1].exchanges else {}

    def meter(self, ask: Ask) -> DriftMeter | None:
        """The meter of a round's drift, if that is measured."""
        if not self.measure:
            return None
        kept = self.job.algorithm.reputation is not None
        return DriftMeter.of(ask, len(ask.cohort), self.layout.size, self.job.key, kept)

    def reply_limit(self) -> int:
        """The largest number of bytes that an update may have, from its promised form."""
        return self.guard.largest_reply


def describe_job(
    job: str,
    name: str,
    algorithm: Algorithm,
    task: Task,
    rounds: int,
    *,
    facts: api.TaskFacts | None = None,
    **more: Any,
) -> api.JobDescription:
    """A job for agents.

    job: its identifier.  name: of the run.  facts: of the task, where they are known.  more: further fields, `seed`
    among them, from which the model's initial weights are drawn.
    """
    return api.JobDescription(
        job=job,
        name=name,
        versions=own_versions(),
        algorithm=json.loads(json.dumps(described(algorithm))),
        task=facts or _described(task, Key.root(more.get("seed", 0)))[1],
        rounds=rounds,
        **more,
    )


def _described(task: Task, key: Key) -> tuple[Layout, api.TaskFacts]:
    """The layout of the model and the facts of the task, for which a model is made, and let go of."""
    made = FlatModule(task, key, Device())
    return made.layout, task_facts(made)

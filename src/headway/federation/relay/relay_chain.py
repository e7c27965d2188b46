"""The algorithms whose updates a relay may sum before the server has seen them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from headway.client_state.store import MemoryStore
from headway.core.algorithm import Algorithm
from headway.core.errors import ConfigError
from headway.data import RemoteData
from headway.engines.engine import Job
from headway.federation.agent.job_building import algorithm_of_names
from headway.federation.http_api import JobDescription
from headway.model.task import Task
from headway.numerics.keys import Key
from headway.protocol.quorum import Quorum

IN_TIME = 0.8  # the share of the server's deadline that a relay waits for its clients


def relay_refusal(algorithm: Algorithm) -> str | None:
    """Why clients of this algorithm cannot be behind a relay, as a sentence; `None` if they can.

    A sum counts as a whole or not at all, so a round must wait for all clients that it asks.
    """
    chain, quorum = algorithm.chain, algorithm.quorum
    aggregator = type(chain.aggregator).__name__
    if chain.aggregator.whole_cohort:
        return f"{aggregator} must see the update of every client, and a relay sends the sum over its clients."
    if algorithm.reputation is not None:
        return "a reputation compares the updates of single clients, and a relay sends the sum over its clients."
    if quorum.late == "keep":
        return 'quorum.late is "keep", and updates of different rounds cannot be in one sum of a relay.'
    if quorum.count is not None or quorum.cap is not None:
        name = "count" if quorum.count is not None else "cap"
        return f"quorum.{name} may count some clients of a round only, and the sum of a relay counts as a whole."
    return None


def relay_job(description: JobDescription, task: Task) -> Job:
    """The job of a relay for its own clients; its rounds end somewhat before those of the server.

    Raises:
        ConfigError: for an algorithm whose updates a relay cannot sum.
    """
    named = algorithm_of_names(description.algorithm)
    if (why := relay_refusal(named)) is not None:
        raise ConfigError(f"a relay cannot take part in this job: {why}")
    quorum = named.quorum
    deadline = None if quorum.deadline_s is None else IN_TIME * quorum.deadline_s
    own = Quorum(deadline_s=deadline, retries=quorum.retries, lost_after_s=quorum.lost_after_s)
    algorithm = Algorithm(named.chain, named.trainer, named.sampler, own)
    data, key = RemoteData(description.name, ()), Key.root(description.seed)
    return Job(algorithm, task, data, key, MemoryStore(()), description.rounds)


def refusal_of_names(described: Mapping[str, Any]) -> str | None:
    """`relay_refusal` of an algorithm by names and numbers, as a job describes it."""
    try:
        return relay_refusal(algorithm_of_names(described))
    except ConfigError as error:
        return f"the server cannot tell whether a relay may sum the updates of its algorithm: {error}"

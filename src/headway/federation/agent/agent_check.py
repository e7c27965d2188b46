"""The trial of an agent before it takes part: the server is asked for its job, and nothing is sent to it."""

from __future__ import annotations

from collections.abc import Iterator

from headway.core.algorithm import State
from headway.core.errors import ConfigError
from headway.engines.preflight import try_client
from headway.federation.agent.agent_job import AgentJob
from headway.federation.agent.agent_memory import AgentMemory
from headway.federation.agent.connection import Connection, ProblemAnswer, Unreachable
from headway.federation.agent.machine_limits import MachineLimits
from headway.federation.agent.surroundings import Surroundings
from headway.federation.http_api import JOB, JobDescription
from headway.federation.job_facts import own_versions, task_differences, version_differences
from headway.numerics.keys import Key


async def check_agent(connection: Connection, own: Surroundings, limits: MachineLimits) -> list[str]:
    """Sentences on the connection, the versions, the data, the model and a trial of one local step.

    Raises:
        HeadwayError: on the first of them that would keep this agent from taking part.
    """
    async with connection:
        try:
            description = await connection.call_once("GET", JOB, None, JobDescription)
        except (Unreachable, ProblemAnswer) as error:
            raise ConfigError(f"{connection.url} was asked for its job in vain: {error}") from error
    how = "over TLS, with certificates of both sides" if connection.secure else "open, on this machine"
    lines = [f"Server: {connection.url} offers {description.name!r} to {own.name!r} ({how})."]
    lines.append(check_versions(description))
    with limits.applied():
        return lines + list(check_job(AgentJob.of(description, own, Key.root(0), AgentMemory(own.name))))


def check_versions(description: JobDescription) -> str:
    """A sentence on the versions of both sides.

    Raises:
        ConfigError: with both sides, where one differs on which the numbers depend.
    """
    ours = own_versions()
    for needed, found in version_differences(description.versions, ours):
        raise ConfigError(
            f"the server has {needed} and this agent {found}: install the same version of headway at both sides."
        )
    torch = description.versions.torch
    same = f"torch {torch}" if torch == ours.torch else f"torch {ours.torch} here and {torch} at the server"
    return f"Versions: headway {ours.headway}, {same}; the interface, the wire and the draws are the same."


def check_job(job: AgentJob) -> Iterator[str]:
    """Sentences on the data, the model and a trial of one local step; all that the trial changed is put back.

    Raises:
        ConfigError: if the model differs from the server's, with both sides.
        HeadwayError: naming what fails in the trial.
    """
    facts = job.data
    kinds = "values to predict" if facts.classes is None else f"{len(facts.classes)} classes"
    yield f"Data: {facts.train} training and {facts.test} test examples of shape {list(facts.input_shape)}, {kinds}."
    for note in facts.notes:
        yield f"Data: {note}."
    for needed, found in task_differences(job.description.task, job.task):
        raise ConfigError(f"the model or task differs: the server has {needed}, and this agent {found}.")
    yield f"Model: {job.task.parameters:,} shared parameters, the layout of the server; loss {job.task.loss}."
    flat_module = job.setup.flat_module
    buffers = flat_module.statistics().cpu() if job.task.statistics else None
    state: State = job.setup.job.algorithm.initial_state(flat_module.shared.cpu(), buffers)
    notes = try_client(job.setup, state, evaluated=facts.test > 0)
    yield "One local step: trained, and its update has the form that the server expects."
    yield from (f"{note[0].upper()}{note[1:]}" for note in notes)

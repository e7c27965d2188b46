"""The model of a job at a relay, which has no examples; only the layout of its parameters is used."""

from __future__ import annotations

from headway.core.errors import ConfigError
from headway.data.sources.data_schema import schema_of
from headway.federation.agent.task_building import task_of_names
from headway.federation.federation_file import remote_data
from headway.federation.http_api import JobDescription
from headway.federation.job_facts import task_differences, task_facts
from headway.model.device import Device
from headway.model.flat_module import FlatModule
from headway.model.task import Task
from headway.numerics.keys import Key


def relay_task(job: JobDescription) -> Task:
    """The task of a job by its schema and its model, whose facts are those that the job states.

    Raises:
        ConfigError: if the job has no schema or no model that is known here, or its facts are others.
    """
    if not job.data_schema:
        raise ConfigError(
            f"the job {job.name!r} states no schema of its data, by which a relay, which has none, could make the "
            "model: write [data] in the server's file, or give Relay(task=...)."
        )
    data = remote_data(job.name, schema_of(job.data_schema), ())
    task = task_of_names(job.model, job.task_section, data)
    own = task_facts(FlatModule(task, Key.root(job.seed), Device()))
    for ours, theirs in task_differences(job.task, own):
        raise ConfigError(f"a relay makes another model than the server of this job: it has {theirs}, not {ours}.")
    return task

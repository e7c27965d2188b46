"""`headway relay`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import typer

from headway.core import stopping
from headway.core.errors import ConfigError
from headway.data.sources.data_schema import schema_of
from headway.federation.agent.agent_log import json_sink, text_sink
from headway.federation.agent.task_building import task_of_names
from headway.federation.federation_file import remote_data
from headway.federation.http_api import JobDescription
from headway.federation.identity.server_access import AccessOptions, ServerAccess
from headway.federation.relay.relay import Relay, RelayOptions
from headway.model.task import Task

KEPT = "What came from its clients is kept: the same command goes on."


@dataclass(frozen=True)
class RelayChoices:
    """The options of the command."""

    identity: Path | None
    ca: Path | None
    host: str
    port: int
    state: Path
    clients: int
    insecure: bool
    proxy: str | None
    wait: float | None
    as_json: bool


def relay_server(url: str, given: RelayChoices) -> None:
    """Takes part in a server's job for the clients that join here.

    Raises:
        HeadwayError: if the server does not let it take part, or the job cannot be relayed.
    """
    ca = given.ca or (Path("ca") if Path("ca").is_dir() and not given.insecure else None)
    access = ServerAccess.of(given.host, AccessOptions(given.identity, ca, given.insecure), given.state)
    sink = json_sink() if given.as_json else text_sink()
    options = RelayOptions(given.host, given.port, given.clients, given.proxy, given.wait, sink=sink)
    relay = Relay(url, access, job_task, state=given.state, options=options)
    with stopping.noticed(KEPT):
        state = relay.run()
    if state != "finished":
        raise typer.Exit(1)


def job_task(job: JobDescription) -> Task:
    """The task of a job, of which a relay uses the layout alone.

    Raises:
        ConfigError: if the job names no model or no schema, or code that is not installed here.
    """
    if not job.data_schema:
        raise ConfigError(
            f"the job {job.name!r} has no schema of its data, so that a relay cannot know the layout of its model: add "
            "[data] to the server's file, or let the clients join the server itself."
        )
    return task_of_names(job.model, job.task_section, remote_data(job.name, schema_of(job.data_schema), ()))

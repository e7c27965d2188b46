"""`headway join`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import typer

from headway.core import stopping
from headway.core.errors import ConfigError
from headway.core.registry import build
from headway.data import FederatedData
from headway.federation.agent.agent import Agent, AgentOptions
from headway.federation.agent.agent_data import AgentData
from headway.federation.agent.agent_file import AgentFile
from headway.federation.agent.agent_log import json_sink, text_sink
from headway.federation.agent.local_policy import LocalPolicy
from headway.federation.agent.machine_limits import MachineLimits
from headway.federation.agent.task_building import own_task
from headway.federation.http_api import JobDescription
from headway.federation.identity.node_identity import NodeIdentity

KEPT = "What was computed is kept: the same command goes on."


@dataclass(frozen=True)
class JoinOptions:
    """The options of the command; `None` where the agent's file decides."""

    identity: Path | None
    name: str | None
    state: Path | None
    insecure: bool
    threads: int | None
    device: str | None
    nice: int | None
    proxy: str | None
    public_authorities: bool
    wait: float | None
    stay: bool
    as_json: bool


def join_server(url: str, spec: str, options: JoinOptions, check: bool) -> None:
    """Takes part in a server's job with the data of a file; or tries whether it could.

    Raises:
        HeadwayError: if the agent cannot take part.
    """
    agent = agent_of(url, spec, options)
    if check:
        for line in agent.check():
            typer.echo(line)
        typer.echo("This agent can take part; nothing was sent.")
        return
    with stopping.noticed(KEPT):
        state = agent.run()
    code = 0 if state == "finished" else 1
    if agent.still_training:  # in code that cannot be interrupted, with which the interpreter cannot end
        stopping.leave(code)
    if code:
        raise typer.Exit(code)


def agent_of(url: str, spec: str, options: JoinOptions) -> Agent:
    """The agent of a command line.

    Raises:
        ConfigError, DataError: for options that contradict each other, or a file that cannot be read.
    """
    file = AgentFile.of(spec)
    data = AgentData.of(file)
    _check_transport(url, options)
    identity = None if options.identity is None else NodeIdentity.load(options.identity, options.state)
    name = identity.name if identity is not None else options.name or _name_of(spec, data)
    limits = MachineLimits(
        threads=options.threads or file.limits.threads,
        device=options.device or file.limits.device or "cpu",
        nice=file.limits.nice or 0 if options.nice is None else options.nice,
    )
    return Agent(
        url,
        _reading(data, name),
        state=options.state or (options.identity / "state" if options.identity else Path("agents") / name),
        identity=identity,
        name=None if identity is not None else name,
        task=own_task(file.model, file.task, file.folder),
        options=AgentOptions(
            policy=build(LocalPolicy, file.policy),
            limits=limits,
            patience_s=options.wait,
            proxy=options.proxy,
            public_authorities=options.public_authorities,
            stay=options.stay,
            sink=json_sink() if options.as_json else text_sink(),
        ),
    )


def _check_transport(url: str, options: JoinOptions) -> None:
    """Refuses a connection that is open to others, unless it is asked for on this machine."""
    if url.startswith("https://"):
        if options.identity is None:
            raise ConfigError(
                "a server with https:// knows agents by their certificates: give --identity DIR, as "
                "`headway identity enrol` makes it."
            )
        if options.name is not None:
            raise ConfigError(
                "--name is for http:// without an identity: with one, the name is that of its certificate."
            )
        if options.insecure:
            raise ConfigError("--insecure is for http:// on this machine, and the address begins with https://.")
    elif not options.insecure:
        raise ConfigError(
            f"{url} is no address of HTTPS: give https://HOST:PORT and --identity DIR; for a trial on one machine, "
            "--insecure allows http://localhost:PORT."
        )
    else:
        typer.echo("Warning: --insecure: the connection is open, and the server believes any name.", err=True)


def _reading(data: AgentData, name: str) -> Callable[[JobDescription], FederatedData]:
    return lambda job: data.read(job, name)


def _name_of(spec: str, data: AgentData) -> str:
    """The name of a client without an identity: that of its packaged part, or of its file."""
    return data.client or Path(spec).stem

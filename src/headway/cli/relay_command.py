"""`headway relay`."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import typer

from headway.core import stopping
from headway.federation.agent.agent_log import json_sink, text_sink
from headway.federation.identity.node_identity import OpenIdentity
from headway.federation.identity.server_access import AccessOptions, ServerAccess
from headway.federation.relay.relay import Relay, RelayOptions
from headway.federation.relay.relay_task import relay_task

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
    name: str


def relay_server(url: str, given: RelayChoices) -> None:
    """Takes part in a server's job for the clients that join here.

    Raises:
        HeadwayError: if the server does not let it take part, or the job cannot be relayed.
    """
    ca = given.ca or (Path("ca") if Path("ca").is_dir() and not given.insecure else None)
    given.state.mkdir(parents=True, exist_ok=True)
    access = ServerAccess.of(given.host, AccessOptions(given.identity, ca, given.insecure), given.state)
    if given.insecure:
        access = replace(access, identity=OpenIdentity(given.name))
    for note in access.notes:
        typer.echo(note, err=True)
    sink = json_sink() if given.as_json else text_sink()
    options = RelayOptions(given.host, given.port, given.clients, given.proxy, given.wait, sink=sink)
    relay = Relay(url, access, relay_task, state=given.state, options=options)
    try:
        with stopping.noticed(KEPT):
            state = relay.run()
    finally:
        access.close()
    if state != "finished":
        raise typer.Exit(1)

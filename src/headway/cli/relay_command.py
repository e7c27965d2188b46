"""`headway relay`."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import typer

from headway.cli.serve_command import live_page
from headway.core import stopping
from headway.federation.agent.agent_log import Sink, json_sink, text_sink
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
    public_authorities: bool
    wait: float | None
    stay: bool
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
    own = RelayOptions(
        given.host,
        given.port,
        given.clients,
        proxy=given.proxy,
        public_authorities=given.public_authorities,
        patience_s=given.wait,
        stay=given.stay,
        sink=sink,
    )
    relay = Relay(url, access, relay_task, state=given.state, options=own)
    if not given.as_json:
        relay.log.sink = _with_page(sink, relay)
    try:
        with stopping.noticed(KEPT):
            state = relay.run()
    finally:
        access.close()
    if state != "finished":
        raise typer.Exit(1)


def _with_page(sink: Sink, relay: Relay) -> Sink:
    """A sink that shows the address of the relay's live page as well."""

    def show(kind: str, text: str, facts: dict[str, Any]) -> None:
        sink(kind, text, facts)
        if kind == "listening":
            typer.echo(live_page(relay.server.url, relay.server.page, facts["token_file"]))

    return show

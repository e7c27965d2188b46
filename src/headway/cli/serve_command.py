"""`headway serve`."""

from __future__ import annotations

import contextlib
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import typer

from headway.core import stopping
from headway.federation.federation_file import FederationFile, load_federation
from headway.federation.identity.server_access import AccessOptions
from headway.federation.server import Server, ServerOptions
from headway.federation.server_log import Sink, json_lines, open_log, text_lines

KEPT = "The run is kept: the same command goes on with it."
EXIT = {"finished": 0, "paused": 0, "stopped": 0}


@dataclass(frozen=True)
class ServeOptions:
    """The options of the command."""

    identity: Path | None
    ca: Path | None
    host: str
    port: int
    out: Path | None
    rounds: int | None
    insecure: bool
    behind_proxy: bool
    log: str | None


def serve_file(name: str, given: ServeOptions) -> None:
    """Serves the jobs of a file.

    Raises:
        HeadwayError: if they cannot be served.
    """
    file = load_federation(name, rounds=given.rounds)
    with contextlib.ExitStack() as stack:
        sinks = [json_lines(sys.stdout)] if given.log == "-" else [text_lines()]
        if given.log not in (None, "-"):
            sinks.append(json_lines(stack.enter_context(open_log(Path(str(given.log))))))
        options = ServerOptions(given.host, given.port, access=_access(given), sinks=sinks)
        server = Server(file.jobs, _folder(file, given), options)
        if given.log != "-":
            sinks.append(_page(server))
        with contextlib.suppress(stopping.Stopped), stopping.deferred(KEPT):
            state = server.run()
            if given.log != "-" and state != "failed":
                typer.echo(_next(server, state))
    if stopping.flag.number is not None:
        raise typer.Exit(128 + stopping.flag.number)
    if state not in EXIT:
        raise typer.Exit(1)


def _folder(file: FederationFile, given: ServeOptions) -> Path:
    """The folder of the run, or of the runs of several jobs."""
    return given.out or Path("runs") / (file.jobs[0].name if len(file.jobs) == 1 else file.title)


def _access(given: ServeOptions) -> AccessOptions:
    """Whom the server admits; the folders ./server and ./ca are taken where nothing is said and they are there."""
    identity, ca = given.identity, given.ca
    if not given.insecure:
        identity = identity or (Path("server") if Path("server").is_dir() else None)
        ca = ca or (Path("ca") if Path("ca").is_dir() else None)
    return AccessOptions(identity, ca, given.insecure, given.behind_proxy)


def live_page(url: str, page: str, token_file: str) -> str:
    """A line with the address of a live page: with its token on a terminal, and where that is in what may be kept."""
    return f"Live page: {page if sys.stdout.isatty() else f'{url}/, with the token in {token_file}'}"


def _page(server: Server) -> Sink:
    """Shows the address of the live page."""

    def show(kind: str, sentence: str, facts: dict[str, Any]) -> None:
        if kind == "listening":
            typer.echo(f"          {live_page(server.url, server.page, facts['token_file'])}")

    return show


def _next(server: Server, state: str) -> str:
    """What can be done with the runs."""
    if state == "paused":
        return KEPT
    folders = [server.folder if len(server.jobs) == 1 else server.folder / job.name for job in server.jobs]
    return "\n".join(f"Curves, clients and drift on one page: headway report {folder}" for folder in folders)

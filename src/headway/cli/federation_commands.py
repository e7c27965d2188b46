"""The commands of a federation of machines, the audit and the attacks; each imports its own file when it is called."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Optional

import typer

from headway.cli.attack_options import attack
from headway.cli.audit_options import audit
from headway.cli.identity_command import identity_app
from headway.cli.privacy_options import privacy_app
from headway.cli.table_options import Categories, Drop, Gaps, Target, TargetTask


def add_commands(app: typer.Typer) -> None:
    """Adds the commands to the application."""
    app.add_typer(identity_app, name="identity")
    app.add_typer(privacy_app, name="privacy")
    app.command()(schema)
    app.command()(serve)
    app.command()(join)
    app.command()(relay)
    app.command()(status)
    app.command()(verify)
    app.command()(audit)
    app.command()(attack)


def schema(
    files: Annotated[list[Path], typer.Argument(metavar="FILE...", help="Tables of the same columns.")],
    target: Target = None,
    task: TargetTask = None,
    drop: Drop = None,
    categories: Categories = None,
    gaps: Gaps = None,
    out: Annotated[Optional[Path], typer.Option(help="The file to write; standard output by default.")] = None,  # noqa: UP045
    force: Annotated[bool, typer.Option("--force", help="Write over an existing file.")] = False,
) -> None:
    """Write what the tables of all clients of a federation have in common: columns, categories, classes."""
    from headway.cli.schema_command import schema_files
    from headway.data.sources.tables import Reading

    how = Reading(
        gaps=None if gaps is None else tuple(gaps), categories=tuple(categories or ()), skip=tuple(drop or ())
    )
    schema_files(files, target, task, how, out, force)


def serve(
    file: Annotated[
        str, typer.Argument(metavar="FILE", help="A federation's file (.toml); `headway init --federation`.")
    ],
    identity: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(help="The folder of the server's certificate and keys; ./server where there is one."),
    ] = None,
    ca: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(help="The folder of the authority, with the registry of nodes; ./ca where there is one."),
    ] = None,
    host: Annotated[str, typer.Option(help="The address to listen at; 0.0.0.0 for all of this machine.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="The port; 0 for a free one.")] = 8443,
    out: Annotated[Optional[Path], typer.Option(help="The run's folder; runs/NAME by default.")] = None,  # noqa: UP045
    rounds: Annotated[Optional[int], typer.Option(min=1, help="How many rounds, instead of the file's.")] = None,  # noqa: UP045
    insecure: Annotated[bool, typer.Option("--insecure", help="Plain HTTP on this machine, for trials.")] = False,
    behind_proxy: Annotated[
        bool, typer.Option("--behind-proxy", help="A proxy ends TLS; nodes are known by their signatures alone.")
    ] = False,
    log: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(metavar="FILE|-", help="Add JSON lines to a file; - for standard output, instead of text."),
    ] = None,
) -> None:
    """Serve a federation's jobs to the agents that join; the same command goes on with what was stopped."""
    from headway.cli.serve_command import ServeOptions, serve_file

    serve_file(file, ServeOptions(identity, ca, host, port, out, rounds, insecure, behind_proxy, log))


def join(
    url: Annotated[str, typer.Argument(metavar="URL", help="The server's address, such as https://server:8443.")],
    data: Annotated[
        str, typer.Option(metavar="SPEC", help="The client's data: FILE.csv, SOURCE:CLIENT, or an agent's own .toml.")
    ],
    identity: Annotated[Optional[Path], typer.Option(help="The folder of this node's certificate and keys.")] = None,  # noqa: UP045
    check: Annotated[bool, typer.Option("--check", help="Try all that joining needs; send nothing.")] = False,
    name: Annotated[Optional[str], typer.Option(help="The client's name, with --insecure.")] = None,  # noqa: UP045
    state: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(help="Where its memory and undelivered updates lie; in the identity's folder by default."),
    ] = None,
    insecure: Annotated[bool, typer.Option("--insecure", help="Allow http:// on this machine, for trials.")] = False,
    threads: Annotated[Optional[int], typer.Option(min=1, help="The threads that training may use.")] = None,  # noqa: UP045
    device: Annotated[Optional[str], typer.Option(metavar="cpu|cuda|cuda:N", help="Where it trains.")] = None,  # noqa: UP045
    nice: Annotated[
        Optional[int],  # noqa: UP045
        typer.Option(min=0, max=19, help="How much training yields to this machine's other work."),
    ] = None,
    proxy: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(metavar="URL", help="An HTTP proxy; HTTPS_PROXY and NO_PROXY by default."),
    ] = None,
    public_authorities: Annotated[
        bool,
        typer.Option("--public-authorities", help="Trust the system's authorities too, for a server behind a proxy."),
    ] = False,
    wait: Annotated[
        Optional[float],  # noqa: UP045
        typer.Option(metavar="SECONDS", min=0, help="Give up a server that has not answered once; never by default."),
    ] = None,
    stay: Annotated[bool, typer.Option("--stay", help="Wait for the next job when one has ended.")] = False,
    json: Annotated[bool, typer.Option("--json", help="One JSON object per line on standard output.")] = False,
) -> None:
    """Take part in a server's jobs with data that stay here."""
    from headway.cli.join_command import JoinOptions, join_server

    options = JoinOptions(
        identity, name, state, insecure, threads, device, nice, proxy, public_authorities, wait, stay, json
    )
    join_server(url, data, options, check)


def status(
    address: Annotated[
        str, typer.Argument(metavar="URL", help="The address of the live page that a server or a run has printed.")
    ],
    watch: Annotated[bool, typer.Option("--watch", help="Go on until the run has ended.")] = False,
    token: Annotated[Optional[str], typer.Option(help="The token, where it is not in the address.")] = None,  # noqa: UP045
    token_file: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(help="A file with the token: status-token in the run folder."),
    ] = None,
    identity: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(help="An identity folder, whose authority is trusted."),
    ] = None,
    ca: Annotated[Optional[Path], typer.Option(help="The certificate of the authority that is trusted.")] = None,  # noqa: UP045
    json: Annotated[bool, typer.Option("--json", help="One JSON object per line, and nothing else.")] = False,
) -> None:
    """Show what a server or a run does now: its round, whom it waits for, clients, updates, results."""
    from headway.cli.status_command import show_status

    show_status(address, watch, token, token_file, (identity, ca), json)


def verify(
    target: Annotated[str, typer.Argument(metavar="RUN|URL", help="The folder of a server's run; or its address.")],
    receipts: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(metavar="DIR", help="An agent's receipts, to compare with the server at URL or its RUN."),
    ] = None,
    identity: Annotated[Optional[Path], typer.Option(help="The folder of the agent's certificate and keys.")] = None,  # noqa: UP045
    name: Annotated[Optional[str], typer.Option(help="The agent's name, at a server of plain HTTP.")] = None,  # noqa: UP045
    authority: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(metavar="FILE", help="The certificate of the authority that the server's must be from (ca.pem)."),
    ] = None,
    public_authorities: Annotated[
        bool,
        typer.Option("--public-authorities", help="Trust the system's authorities too, for a server behind a proxy."),
    ] = False,
    json: Annotated[bool, typer.Option("--json", help="One JSON object on standard output.")] = False,
) -> None:
    """Check that each round of a server's run is the sum of its updates, or that each of an agent's counted once.

    The exit code is 3 if something differs.
    """
    from headway.cli.verify_command import ReceiptOptions, verify_receipts, verify_run

    if receipts is None and "://" in target:
        raise typer.BadParameter(
            "a server's address goes with --receipts DIR, an agent's receipts; without them name the folder of a run.",
            param_hint="RUN|URL",
        )
    if receipts is None:
        agrees = verify_run(Path(target), authority, json)
    else:
        agrees = verify_receipts(receipts, target, ReceiptOptions(identity, name, authority, public_authorities), json)
    if not agrees:
        raise typer.Exit(3)


def relay(
    url: Annotated[str, typer.Argument(metavar="URL", help="The server's address, such as https://server:8443.")],
    identity: Annotated[Optional[Path], typer.Option(help="The folder of this node's certificate and keys.")] = None,  # noqa: UP045
    ca: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(help="The folder with the registry of nodes, whom it admits; ./ca where there is one."),
    ] = None,
    host: Annotated[str, typer.Option(help="The address to listen at; 0.0.0.0 for all of this machine.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="The port; 0 for a free one.")] = 8444,
    state: Annotated[Path, typer.Option(help="The folder of what it holds for its clients and its server.")] = Path(
        "relay-state"
    ),
    name: Annotated[str, typer.Option(help="The relay's name, with --insecure.")] = "relay",
    clients: Annotated[int, typer.Option(min=1, help="How many of its own clients it waits for before it joins.")] = 1,
    insecure: Annotated[bool, typer.Option("--insecure", help="Plain HTTP on this machine, for trials.")] = False,
    proxy: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(metavar="URL", help="An HTTP proxy; HTTPS_PROXY and NO_PROXY by default."),
    ] = None,
    public_authorities: Annotated[
        bool,
        typer.Option("--public-authorities", help="Trust the system's authorities too, for a server behind a proxy."),
    ] = False,
    wait: Annotated[
        Optional[float],  # noqa: UP045
        typer.Option(metavar="SECONDS", min=0, help="Give up a server that has not answered once; never by default."),
    ] = None,
    stay: Annotated[bool, typer.Option("--stay", help="Wait for the next job when one has ended.")] = False,
    json: Annotated[bool, typer.Option("--json", help="One JSON object per line on standard output.")] = False,
) -> None:
    """Join a server for the clients that join here, and send it the exact sum of their updates."""
    from headway.cli.relay_command import RelayChoices, relay_server

    reaching = (proxy, public_authorities, wait)
    relay_server(url, RelayChoices(identity, ca, host, port, state, clients, insecure, *reaching, stay, json, name))

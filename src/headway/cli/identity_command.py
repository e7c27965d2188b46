"""`headway identity`: a certificate authority, and the identities of nodes."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Optional

import typer

if TYPE_CHECKING:
    from headway.federation.identity.node_registry import Issued

identity_app = typer.Typer(no_args_is_help=True, help="Certificates of a federation's nodes: who may take part.")

Ca = Annotated[Path, typer.Option("--ca", metavar="FOLDER", help="The folder of the certificate authority.")]
Hosts = Annotated[
    Optional[list[str]],  # noqa: UP045
    typer.Option("--host", metavar="NAME|ADDRESS", help="A name by which agents reach this server; repeatable."),
]


@identity_app.command()
def ca(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="A new folder.")] = Path("ca"),
    name: Annotated[str, typer.Option(help="The federation's name, in its certificate.")] = "Headway federation",
    days: Annotated[float, typer.Option(min=1, max=36500, help="How long it is valid.")] = 3650,
) -> None:
    """Make a certificate authority; its folder decides who takes part."""
    from headway.federation.identity.authority import Authority
    from headway.federation.identity.node_identity import moment

    with Authority.create(folder, name, days) as authority:
        typer.echo(f"certificate authority {name!r} in {folder}, valid until {moment(authority.not_after)}")
    typer.echo("  keep this folder private: whoever has ca.key can admit nodes")


@identity_app.command()
def issue(
    name: Annotated[str, typer.Argument(help="The name of the node.")],
    authority: Ca = Path("ca"),
    out: Annotated[Optional[Path], typer.Option(help="The node's new folder; its name by default.")] = None,  # noqa: UP045
    host: Hosts = None,
    days: Annotated[float, typer.Option(min=0.001, max=36500, help="How long the certificate is valid.")] = 365,
    token: Annotated[bool, typer.Option("--token", help="Print a one-time token for `enrol` instead.")] = False,
    hours: Annotated[float, typer.Option(min=0.01, help="How long the token is valid.")] = 168,
    key: Annotated[Optional[str], typer.Option(help="The only Ed25519 key that may use the token.")] = None,  # noqa: UP045
) -> None:
    """Make the identity of a node here, or a token with which the node makes it there; again to renew it."""
    from headway.federation.identity.authority import Authority
    from headway.federation.identity.node_identity import OpenIdentity, moment

    hosts = tuple(host or ())
    OpenIdentity(name)
    with Authority.load(authority) as loaded:
        if token:
            made = loaded.registry.new_token(name, hosts, days, hours, key)
            typer.echo(made.text)
            typer.echo(
                f"  for {name!r}, once, until {moment(made.expires)}: headway identity enrol URL TOKEN", err=True
            )
            return
        identity = loaded.issue(name, out or Path(name), hosts, days)
        revoked = {each.certificate.key for each in loaded.registry.of_name(name) if each.revoked is not None}
    serves = f" (serves {', '.join(identity.facts.hosts)})" if identity.facts.hosts else ""
    typer.echo(f"identity of {name!r} in {identity.folder}{serves}, valid until {moment(identity.facts.not_after)}")
    if identity.facts.key in revoked:
        typer.echo(
            f"Warning: the keys in {identity.folder} are those of a certificate that was revoked, and admit {name!r} "
            f"again. If somebody else may have them: `headway identity revoke {name}`, delete the folder, issue anew.",
            err=True,
        )


@identity_app.command()
def enrol(
    url: Annotated[str, typer.Argument(metavar="URL", help="The server.")],
    token: Annotated[
        str, typer.Argument(metavar="TOKEN", help="From `headway identity issue NAME --token`; - reads it.")
    ],
    out: Annotated[Path, typer.Option(help="The folder of this node's identity.")] = Path("identity"),
) -> None:
    """Make this node's keys here and have a server certify them; the keys never leave this machine."""
    from headway.federation.identity.enrolling import enrol as enrol_at
    from headway.federation.identity.node_identity import moment

    made = enrol_at(url, sys.stdin.readline() if token == "-" else token, out)
    typer.echo(f"identity of {made.name!r} in {made.folder}, valid until {moment(made.facts.not_after)}")


@identity_app.command()
def revoke(name: Annotated[str, typer.Argument(help="The name of the node.")], authority: Ca = Path("ca")) -> None:
    """Refuse a node from its next call on, also in the middle of a run."""
    from headway.federation.identity.node_registry import NodeRegistry
    from headway.federation.identity.private_files import IdentityError

    registry = NodeRegistry.of(authority)
    try:
        if not registry.of_name(name) and not any(token.name == name for token in registry.tokens()):
            known = ", ".join(sorted({issued.certificate.name for issued in registry.all()}))
            raise IdentityError(f"no node {name!r} in {authority} (known: {known or 'none'}).")
        count = registry.revoke(name)
    finally:
        registry.close()
    typer.echo(f"revoked {name!r}: {count} valid certificate{'' if count == 1 else 's'}")


@identity_app.command("list")
def list_nodes(
    authority: Ca = Path("ca"),
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object per line, and nothing else.")] = False,
) -> None:
    """List the nodes of an authority, with the state of their certificates, and the tokens that were not used."""
    from headway.federation.identity.node_identity import moment
    from headway.federation.identity.node_registry import NodeRegistry
    from headway.observe.text import console, emit, plain_table, show_table

    registry = NodeRegistry.of(authority)
    try:
        nodes, tokens = registry.all(), registry.tokens()
    finally:
        registry.close()
    now = time.time()
    rows = [(_facts(issued, now), issued.certificate.not_after) for issued in nodes]
    for token in tokens:
        facts = {"name": token.name, "state": "token", "serves": list(token.hosts), "key": token.key or ""}
        rows.append((facts, token.expires))
    if as_json:
        for facts, until in rows:
            emit({"event": "node", **facts, "until": until})
        return
    cells = [
        [str(facts["name"]), str(facts["state"]), moment(until), ", ".join(facts["serves"]), str(facts["key"])[:16]]
        for facts, until in rows
    ]
    show_table(console(), plain_table(["node", "state", "until", "serves", "key"], cells, numbers=False))


def _facts(issued: Issued, now: float) -> dict[str, Any]:
    facts = issued.certificate
    return {"name": facts.name, "state": issued.state(now), "serves": list(facts.hosts), "key": facts.key}

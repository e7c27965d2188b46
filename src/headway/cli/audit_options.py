"""The options of `headway audit`; nothing heavy is imported until it is called."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Optional

import typer

from headway.core.errors import HeadwayError

audit_app = typer.Typer()


@audit_app.command()
def audit(
    context: typer.Context,
    file: Annotated[str, typer.Argument(metavar="FILE|NAME", help="A run file (.toml), or a packaged example's name.")],
    set_: Annotated[
        Optional[list[str]],  # noqa: UP045
        typer.Option("--set", metavar="PATH=VALUE", help="Change a value, e.g. algorithm.ECGR.beta=0.1; repeatable."),
    ] = None,
    seed: Annotated[Optional[int], typer.Option(min=0, help="The run's seed, instead of the file's.")] = None,  # noqa: UP045
    thorough: Annotated[bool, typer.Option("--thorough", help="More attacks, for up to 15 minutes.")] = False,
    budget: Annotated[
        Optional[float],  # noqa: UP045
        typer.Option(metavar="SECONDS", min=0, help="After so long no further attack begins; 45 by default."),
    ] = None,
    attacks: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(metavar="NAMES", help="Only these, separated by commas: canaries, dense, gradients, membership."),
    ] = None,
    trusted_server: Annotated[
        bool, typer.Option("--trusted-server", help="Show what only the server sees, and do not count it.")
    ] = False,
    out: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(metavar="FILE.html", help="Where to write the page, and the numbers beside it as .json."),
    ] = None,
    json: Annotated[
        bool, typer.Option("--json", help="One JSON object per line on standard output, and nothing else.")
    ] = False,
) -> None:
    """Attack what a run would show to its server and clients: exit code 0 if no attack succeeds, 1 if one does, 2 for
    a mistake in the file."""
    from headway.audit.auditing import AuditOptions
    from headway.cli.audit_command import audit_file

    only = tuple(name.strip() for name in (attacks or "").split(",") if name.strip())
    try:
        options = AuditOptions(thorough, budget, attacks=only, trusted_server=trusted_server)
        code = audit_file(file, set_ or [], seed, options, out, json)
    except (HeadwayError, OSError) as error:
        if context.find_root().obj:  # --debug
            raise
        typer.secho("error: ", fg=typer.colors.RED, bold=True, err=True, nl=False)
        typer.echo(str(error), err=True)
        code = 2
    if code:
        raise typer.Exit(code)

"""The options of `headway attack`; nothing heavy is imported until it is called."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, Optional

import typer

attack_app = typer.Typer()
Knows = Literal["attackers", "everyone"]


@attack_app.command()
def attack(
    file: Annotated[str, typer.Argument(metavar="FILE|NAME", help="A run file (.toml), or a packaged example's name.")],
    set_: Annotated[
        Optional[list[str]],  # noqa: UP045
        typer.Option("--set", metavar="PATH=VALUE", help="Change a value, e.g. run.rounds=50; repeatable."),
    ] = None,
    rounds: Annotated[Optional[int], typer.Option(min=1, help="Rounds of each run, instead of the file's.")] = None,  # noqa: UP045
    rules: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(metavar="NAMES", help="Only these, separated by commas, e.g. Mean,Krum,NNM+Median."),
    ] = None,
    attacks: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(metavar="NAMES", help="Only these, separated by commas, e.g. none,ALIE,Backdoor:boost=1."),
    ] = None,
    partition: Annotated[
        Optional[list[str]],  # noqa: UP045
        typer.Option(metavar="KIND:NAME=NUMBER,...", help="Divide the data like this, e.g. iid; repeatable."),
    ] = None,
    attackers: Annotated[int | None, typer.Option(min=1, help="How many clients attack; by default a fifth.")] = None,
    from_round: Annotated[Optional[int], typer.Option(min=1, help="The first round in which they attack.")] = None,  # noqa: UP045
    knows: Annotated[
        Knows | None, typer.Option(help="Whose updates the attackers know; by default everyone's.")
    ] = None,
    seeds: Annotated[Optional[int], typer.Option(min=1, help="Seeds of each run; by default 1.")] = None,  # noqa: UP045
    workers: Annotated[Optional[int], typer.Option(min=1, help="Runs at the same time, at most 2 by default.")] = None,  # noqa: UP045
    out: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(metavar="FOLDER", help="Where the runs lie; what is there already is gone on with."),
    ] = None,
    json: Annotated[
        bool, typer.Option("--json", help="One JSON object per line on standard output, and nothing else.")
    ] = False,
) -> None:
    """Run robust rules under attacks: a page, tables, a picture, and which rule to switch on.

    What is not given is that of the file's [attack_grid].
    """
    from headway.cli.attack_command import GridOptions, attack_file

    grid = {
        "rules": _names(rules),
        "attacks": _names(attacks),
        "partitions": list(partition or ()),
        "attackers": attackers,
        "from_round": from_round,
        "knows": knows,
        "seeds": seeds,
    }
    given = {name: value for name, value in grid.items() if value}
    attack_file(file, set_ or [], rounds, GridOptions(given, workers, out, json))


def _names(text: str | None) -> list[str]:
    """Names between commas; a part with "=" alone is a further number of the name before it."""
    names: list[str] = []
    for part in filter(None, map(str.strip, (text or "").split(","))):
        if names and "=" in part and ":" not in part:
            names[-1] += f",{part}"
        else:
            names.append(part)
    return names

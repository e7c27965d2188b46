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
        typer.Option(metavar="NAMES", help="Only these, separated by commas, e.g. none,SignFlip,ALIE."),
    ] = None,
    partition: Annotated[
        Optional[list[str]],  # noqa: UP045
        typer.Option(metavar="KIND:NAME=NUMBER,...", help="Divide the data like this, e.g. iid; repeatable."),
    ] = None,
    attackers: Annotated[int | None, typer.Option(min=1, help="How many clients attack; by default a fifth.")] = None,
    knows: Annotated[Knows, typer.Option(help="Whose updates the attackers know.")] = "everyone",
    seeds: Annotated[int, typer.Option(min=1, help="Seeds of each run.")] = 1,
    workers: Annotated[Optional[int], typer.Option(min=1, help="Runs at the same time, at most 2 by default.")] = None,  # noqa: UP045
    out: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(metavar="FOLDER", help="Where the runs lie; what is there already is gone on with."),
    ] = None,
    json: Annotated[
        bool, typer.Option("--json", help="One JSON object per line on standard output, and nothing else.")
    ] = False,
) -> None:
    """Run robust rules under attacks: a table, a picture, and which rule to switch on."""
    from headway.cli.attack_command import GridOptions, attack_file

    given = {name: _names(text) for name, text in (("rules", rules), ("attacks", attacks)) if text}
    options = GridOptions(
        **given,
        partitions=tuple(partition or ()),
        attackers=attackers,
        seeds=seeds,
        knows=knows,
        workers=workers,
        out=out,
        as_json=json,
    )
    attack_file(file, set_ or [], rounds, options)


def _names(text: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in text.split(",") if name.strip())

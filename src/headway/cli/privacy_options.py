"""`headway privacy`: the noise that a promise needs, and the check of a run's ledger."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Optional

import typer

privacy_app = typer.Typer(no_args_is_help=True, help="Differential privacy: plan the noise, check what was spent.")


@privacy_app.command()
def plan(
    file: Annotated[
        Optional[str],  # noqa: UP045
        typer.Argument(metavar="[FILE]", help="A run file, which has what is not given here; or none."),
    ] = None,
    population: Annotated[Optional[int], typer.Option(min=1, help="How many clients there are.")] = None,  # noqa: UP045
    cohort: Annotated[Optional[float], typer.Option(help="How many take part in a round, on average.")] = None,  # noqa: UP045
    rounds: Annotated[Optional[int], typer.Option(min=1, help="How many rounds of training.")] = None,  # noqa: UP045
    epsilon: Annotated[Optional[float], typer.Option(help="The promise: epsilon.")] = None,  # noqa: UP045
    delta: Annotated[Optional[float], typer.Option(help="And delta; below 1 over the population by default.")] = None,  # noqa: UP045
    model_size: Annotated[Optional[int], typer.Option(min=1, help="How many parameters are shared.")] = None,  # noqa: UP045
    clip: Annotated[Optional[float], typer.Option(help="The norm that updates are clipped to.")] = None,  # noqa: UP045
    fixed: Annotated[
        bool, typer.Option("--fixed-cohort", help="The cohort has a fixed size, or is known: no amplification.")
    ] = False,
    sets: Annotated[
        Optional[list[str]],  # noqa: UP045
        typer.Option("--set", metavar="KEY=VALUE", help="Change a value of the run file, such as run.rounds=50."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object instead of text.")] = False,
) -> None:
    """Compute the noise that a promise needs, and whether the federation is large enough for it."""
    from headway.cli.privacy_plan import PlanOptions, show_plan

    given = PlanOptions(population, cohort, rounds, epsilon, delta, model_size, clip, fixed)
    show_plan(file, given, tuple(sets or ()), as_json)


@privacy_app.command()
def verify(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A run folder.")],
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object instead of text.")] = False,
) -> None:
    """Check a run's ledger against its chain and journal, and compute its epsilon again by other means."""
    from headway.cli.privacy_verify import verify_ledger

    if not verify_ledger(run, as_json):
        raise typer.Exit(1)

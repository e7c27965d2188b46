"""`headway explain`: an algorithm stage by stage."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.markup import escape

from headway.advice.settings import setting_warnings
from headway.core.registry import brief
from headway.experiment.presets import Applied
from headway.experiment.runfile import RunFile, load_runfile
from headway.observe.text import console, plain_table, show_table, to_toml
from headway.privacy.spends import Sampling


def explain_file(name: str, sets: Sequence[str]) -> None:
    """Shows the chain of a run file as a table."""
    runfile = load_runfile(name, sets)
    explanation = runfile.algorithm.explain()
    screen = console()
    screen.print(f"[bold]{runfile.name}[/bold]: {brief(runfile.algorithm.trainer)}", markup=True, soft_wrap=True)
    screen.print(f"cohort: {brief(runfile.algorithm.sampler)}\n", soft_wrap=True)
    show_table(screen, plain_table(explanation.columns, explanation.rows, numbers=False))
    for note in explanation.notes:
        screen.print(note)
    for line in _promises(runfile):
        screen.print(line, soft_wrap=True, highlight=False)
    for warning in [*explanation.warnings, *setting_warnings(runfile.algorithm, runfile.sections.run.rounds)]:
        screen.print(f"[yellow]warning:[/yellow] {escape(warning)}", soft_wrap=True)
    _show_preset(screen, runfile.preset)


def _promises(runfile: RunFile) -> list[str]:
    """What the run promises, where a stage or the trainer adds noise: epsilon after all its rounds.

    A truncated sample is accounted for by the number of clients, which the data section may give.
    """
    clients = runfile.sections.data.clients
    last = runfile.algorithm.flows(population=clients)[-1]
    if not last.events:
        return []
    from headway.cli.privacy_plan import OwnNoise

    options, rounds = runfile.sections.privacy_options, runfile.sections.run.rounds
    return OwnNoise(last.events, Sampling.of_flow(last), rounds, options, options.delta_for(clients)).lines(False)


def _show_preset(screen: Console, applied: Applied | None) -> None:
    """Prints the numbers of a preset with their reasons, and those that the file has instead."""
    if applied is None:
        return
    rows = [[f"{choice.path} = {to_toml(choice.value)}", choice.why] for choice in applied.used]
    screen.print()
    show_table(
        screen, plain_table([f"set by the preset {applied.preset.name}", "because"], rows, numbers=False, indent=True)
    )
    if applied.overruled:
        paths = ", ".join(choice.path for choice in applied.overruled)
        screen.print(f"left to the file, which sets them otherwise: {paths}", soft_wrap=True)

"""`headway advise`."""

from __future__ import annotations

import dataclasses
import shlex
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from headway.advice.findings import Finding, UserFacts, findings, level, rate
from headway.advice.likeness import Likeness, likeness
from headway.advice.plan import SEEDS, AdvicePlan, fragment_text, make_plan, whole_file
from headway.advice.probe import ROUNDS, Probe, probe, traffic
from headway.core.algorithm import Algorithm
from headway.core.errors import ConfigError, Diverged
from headway.engines import LocalEngine
from headway.experiment.runfile import Experiment, RunFile, load_runfile
from headway.experiment.runfile_schema import AdviseSection
from headway.numerics.keys import Key
from headway.observe.progress import Meter
from headway.observe.run_folder import write_atomically, writing
from headway.observe.text import bytes_text, console, emit, plain_table, show_table
from headway.recipes import recipe

QUESTIONS = {
    "trust": "is everybody trusted?",
    "reliability": "does everybody answer?",
    "bytes": "are bytes dear?",
    "likeness": "are clients alike?",
    "sizes": "do all do as much?",
    "tests": "can each client's result be read?",
}
COLOURS = {"strong": "red", "mild": "yellow", "none": "green", "unknown": "dim"}
VERDICTS = {"strong": "matters much", "mild": "matters", "none": "fine", "unknown": "unknown"}
NAMES = {"trust": "trust", "reliability": "reliability", "bytes": "bytes", "likeness": "unlike data", "sizes": "sizes"}


def advise_file(
    name: str,
    sets: Sequence[str],
    seed: int | None,
    quick: bool,
    options: tuple[bool | None, bool | None, float | None, str | None],
    out: Path | None,
    as_json: bool,
) -> None:
    """Measures, judges, and suggests what to try.

    Raises:
        ConfigError: if the file or an option is wrong, or the place to write to is taken.
    """
    if out is not None and out.exists():
        raise ConfigError(f"{out} exists already: choose another place with --out.")
    runfile = load_runfile(name, sets, seed=seed)
    given = _user_facts(options, runfile.sections.advise)
    experiment = runfile.build()
    screen = console()
    data, task = experiment.data, experiment.task
    clients = len(data.clients)
    found = likeness(data, Key.root(runfile.sections.run.seed).derive("advice"))
    seen, trouble = (None, None) if quick else _probe(Console(quiet=True) if as_json else screen, experiment, runfile)
    upload, _ = traffic(recipe("fedavg"), task, clients)
    apart = (runfile.sections.data.model_extra or {}).get("standardise") == "client"
    judged = findings(found, seen, given, upload, apart)

    def load(method: str, changes: Sequence[str]) -> Algorithm:
        algorithm = load_runfile(name, [*_of_file(sets), *changes], seed=seed, method=method).algorithm
        algorithm.flows(LocalEngine().facts, clients)
        return algorithm

    plan = make_plan(judged, given, runfile, clients, load)
    costs = {method: traffic(load(method, plan.sets), task, clients) for method in plan.methods}
    if out is not None:
        with writing(out):
            out.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(out, whole_file(plan, runfile).encode())
    command = _command(name, sets, plan, out)
    if as_json:
        _emit(judged, plan, fragment_text(plan, runfile), command, costs)
        return
    _heading(screen, runfile, found, seen)
    if trouble is not None:
        screen.print(f"[yellow]The probe stopped:[/yellow] {escape(trouble)}", soft_wrap=True)
    _show_findings(screen, judged)
    _show_plan(screen, plan, fragment_text(plan, runfile), costs)
    where = "needs no change to the file" if out is None else f"reads {out}, where it is all written"
    screen.print(f"Measure it before you believe it; this {where}:\n", soft_wrap=True)
    screen.print(f"  [bold]{escape(command)}[/bold]", soft_wrap=True)


def _user_facts(
    options: tuple[bool | None, bool | None, float | None, str | None], section: AdviseSection
) -> UserFacts:
    """The constraints: from the options, or from the file where these leave them open."""
    server, clients, unreliable, uplink = options
    uplink = section.uplink if uplink is None else uplink
    return UserFacts(
        section.untrusted_server if server is None else server,
        section.untrusted_clients if clients is None else clients,
        section.unreliable if unreliable is None else unreliable,
        None if uplink is None else rate(uplink),
    )


def _probe(screen: Console, experiment: Experiment, runfile: RunFile) -> tuple[Probe | None, str | None]:
    """The probe, or why it stopped."""
    seed, trainer = runfile.sections.run.seed, experiment.algorithm.trainer
    try:
        with Meter(screen, "probing, round", 2 * ROUNDS) as meter:
            for step in probe(experiment.data, experiment.task, trainer, seed):
                if isinstance(step, Probe):
                    return step, None
                meter.step()
    except Diverged as error:
        return None, str(error)
    raise AssertionError


def _of_file(sets: Sequence[str]) -> list[str]:
    """The changes that hold for every method: those to a recipe's options or a stage belong to one."""
    shared = ("algorithm.preset", "algorithm.trainer.", "algorithm.sampler.", "algorithm.quorum.")
    return [text for text in sets if not text.startswith("algorithm.") or text.startswith(shared)]


def _command(name: str, sets: Sequence[str], plan: AdvicePlan, out: Path | None) -> str:
    if out is not None:
        return f"headway compare {shlex.quote(str(out))}"
    changes = [f" --set {shlex.quote(text)}" for text in (*_of_file(sets), *plan.sets)]
    methods = ",".join(plan.methods)
    return f"headway compare {shlex.quote(name)} --methods {methods} --seeds {SEEDS}{''.join(changes)}"


def _emit(
    judged: Sequence[Finding], plan: AdvicePlan, text: str, command: str, costs: dict[str, tuple[int, int]]
) -> None:
    for finding in judged:
        threshold = None if finding.threshold is None else dataclasses.asdict(finding.threshold)
        emit({"event": "finding", **dataclasses.asdict(finding), "threshold": threshold})
    traffic_ = {method: {"up": up, "down": down} for method, (up, down) in costs.items()}
    emit(
        {
            "event": "advice",
            **dataclasses.asdict(plan),
            "fragment": text,
            "command": command,
            "bytes": traffic_,
        }
    )


def _heading(screen: Console, runfile: RunFile, found: Likeness, seen: Probe | None) -> None:
    screen.print(
        f"[bold]{runfile.name}[/bold], seed {runfile.sections.run.seed}: {len(found.sizes)} clients, "
        f"{sum(found.sizes)} training examples",
        soft_wrap=True,
    )
    probed = "nothing was trained (--quick)"
    if seen is not None:
        probed = (
            f"probed by {seen.rounds} rounds of FedAvg on {seen.clients} clients, and by as many on their data "
            "divided at random"
        )
    screen.print(f"{probed}\n", soft_wrap=True)


def _show_findings(screen: Console, judged: Sequence[Finding]) -> None:
    """A block for each constraint: its verdict, and its figures with their thresholds."""
    for constraint, question in QUESTIONS.items():
        rank = level(judged, constraint)
        screen.print(f"[bold]{question.capitalize()}[/bold]  [{COLOURS[rank]}]{VERDICTS[rank]}[/]")
        rows = []
        for finding in judged:
            if finding.constraint != constraint:
                continue
            rows.append([f"  {finding.name}", VERDICTS[finding.level], finding.words])
            limit = finding.threshold
            if limit is not None and finding.value is not None:
                how = f"matters from {limit.mild:g}, much from {limit.strong:g} ({limit.source})"
                rows.append(["", "", how])
        show_table(screen, _blocks(rows))
        screen.print()


def _blocks(rows: Sequence[Sequence[str]]) -> Table:
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column(no_wrap=True, min_width=17)
    table.add_column(no_wrap=True, min_width=12)
    table.add_column()
    for name, verdict, words in rows:
        style = COLOURS[next(rank for rank, text in VERDICTS.items() if text == verdict)] if verdict else "dim"
        table.add_row(
            escape(name), f"[{style}]{verdict}[/]" if verdict else "", escape(words), style="" if name else "dim"
        )
    return table


def _show_plan(screen: Console, plan: AdvicePlan, text: str, costs: dict[str, tuple[int, int]]) -> None:
    first = "Nothing measured or given dominates" if plan.dominant is None else f"First: {NAMES[plan.dominant]}"
    screen.print(f"[bold]{first}.[/bold]  Preset {plan.preset}, recipe {plan.recipe}.")
    for reason in (*plan.reasons, *plan.missing):
        screen.print(f"  {escape(reason)}", soft_wrap=True)
    screen.print("\nIn the run file, instead of its \\[algorithm] and \\[compare]:\n")
    for line in text.splitlines():
        screen.print(f"  {escape(line)}" if line else "", soft_wrap=True)
    screen.print()
    rows = [[method, bytes_text(up), bytes_text(down)] for method, (up, down) in costs.items()]
    show_table(screen, plain_table(["  a client's round", "up", "down"], rows, indent=True))
    screen.print()

"""The facts about a run before its first round: lines for a reader, and one record for a program."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape

from headway.advice.settings import setting_warnings
from headway.data import described
from headway.engines import ClockEngine
from headway.experiment.run import Run
from headway.experiment.runfile import RunFile
from headway.model.shapes import metric_line
from headway.model.undefined_metrics import undefined_at
from headway.observe.data_notes import reading_facts
from headway.observe.text import bytes_text
from headway.training.step_storage import StepPlan
from headway.training.trainer import Trainer


def show_heading(screen: Console, run: Run, runfile: RunFile, folder: Path) -> None:
    """Prints what is known of the run, and what to be warned of."""
    screen.print(f"[bold]{escape(runfile.name)}[/bold], seed {runfile.sections.run.seed}")
    for name, text in _facts(run, runfile, folder):
        screen.print(f"  {name:<7} {text}", markup=False, soft_wrap=True)
    for warning in _warnings(run):
        screen.print(f"[yellow]warning:[/yellow] {escape(warning)}", soft_wrap=True)


def heading_record(run: Run, runfile: RunFile, folder: Path) -> dict[str, Any]:
    """The same for `--json`, whose last object holds it."""
    facts: dict[str, list[str]] = {}
    for name, text in _facts(run, runfile, folder):
        facts.setdefault(name, []).append(text)
    return {"name": runfile.name, "seed": runfile.sections.run.seed, "facts": facts, "warnings": _warnings(run)}


def _facts(run: Run, runfile: RunFile, folder: Path) -> list[tuple[str, str]]:
    """Lines about data, model, algorithm and engine, each under its name."""
    data, section = run.data, runfile.sections.data
    sizes = data.train_sizes
    low, high = int(sizes.min()), int(sizes.max())
    held = f"{low} to {high} each" if low != high else f"{low} each"
    central = f", {len(data.central)} in a central test set" if data.central is not None else ""
    facts = [("data", f"{data.name}: {len(sizes)} clients, {int(sizes.sum())} training examples ({held}){central}")]
    facts += reading_facts(data)
    if data.shifts:
        facts.append(("shift", f"{len(data.shifts)} of the clients: {', '.join(described(None, section.shift))}"))
    facts.append(("model", f"{runfile.sections.model.name}, {run.flat_module.parts_text}"))
    facts.append(("metrics", metric_line(run.flat_module, data.store) or ""))
    facts.append(("chain", " > ".join(map(repr, run.algorithm.chain.stages))))
    facts.append(("steps", _steps_kept(run)))
    if isinstance(run.engine, ClockEngine):
        facts += [("clock", run.engine.fleet.summary), ("quorum", run.algorithm.quorum.summary)]
    if run.ledger is not None:
        facts += [("privacy", line) for line in run.ledger.terms.lines()]
    facts.append(("engine", run.engine.summary))
    if options := run.engine.repeat:
        line = f"what is measured may differ another time, and then the last bits do: repeat this run with {options}"
        facts.append(("bits", line))
    facts += [("metric", line) for line in _undefined(run)]
    facts.append(("folder", f"{folder}" + (f", from round {run.state.round}" if run.state.round else "")))
    return [(name, text) for name, text in facts if text]


def _warnings(run: Run) -> list[str]:
    sizes, averaged = run.data.train_sizes.tolist(), run.state.buffers is not None
    settings = setting_warnings(run.algorithm, run.rounds, sizes, averaged)
    return [*run.notices, *run.algorithm.explain().warnings, *settings]


def _undefined(run: Run) -> list[str]:
    """Which metrics the split leaves without a value, and what decides instead."""
    if "loss" in run.facts.undefined:
        return [f"nothing is evaluated, so no best model is kept: {run.facts.undefined['loss']}"]
    decides = "" if run.facts.headline == run.task.headline else f"; {run.facts.headline} decides which model is best"
    some = undefined_at(run.task, run.data) if run.options.evaluate_every is not None else None
    lines = [f"{name} is not defined: {why}{decides}" for name, why in run.facts.undefined.items()]
    return lines if some is None else [*lines, some]


def _steps_kept(run: Run) -> str:
    """The storage of the clients' single steps, where a stage combines them and the trainer has a budget."""
    trainer = run.algorithm.trainer
    if "steps" not in run.federation.flows[-1].needs or not isinstance(trainer, Trainer):
        return ""
    sizes = run.data.train_sizes
    ways: dict[str, list[tuple[StepPlan, int]]] = {}
    for size, clients in zip(*(each.tolist() for each in sizes.unique(return_counts=True)), strict=True):
        if (plan := trainer.step_plan(size, run.flat_module.layout)) is not None:
            ways.setdefault(plan.kept, []).append((plan, clients))
    kept = []
    for found in ways.values():
        most = max((plan for plan, _ in found), key=lambda plan: plan.bytes * plan.blocks)
        who = "" if len(ways) == 1 else f" for {sum(count for _, count in found)} of {len(sizes)} clients"
        kept.append(f"kept {most.summary}{who}, up to {bytes_text(most.bytes)} a client")
    return "; ".join(kept)

"""`headway attack`: what robust rules withstand, and what they cost where nobody attacks."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from headway.cli.run_command import free_path
from headway.cli.trial_progress import TrialProgress
from headway.core.errors import ConfigError
from headway.experiment.attack_grid_section import AttackGridSection
from headway.experiment.best_model import LOWER_IS_BETTER
from headway.experiment.deciding_metric import deciding_metric
from headway.experiment.grid_result import GridFacts, GridResult, backdoor_sentence, grid_sentence
from headway.experiment.robust_grid import grid_facts, grid_plan
from headway.experiment.runfile import load_runfile
from headway.experiment.trials import run_trials
from headway.observe.run_folder import write_atomically, writing
from headway.observe.text import bytes_text, emit, markdown_table, plain_table, show_table, strict
from headway.reports.attack_page import CAUTION, render_attacks
from headway.reports.attack_picture import attack_picture
from headway.reports.attack_tables import GridTable, backdoor_tables, clients_tables, seconds_table, value_tables

PAGE = "attacks.html"


@dataclass(frozen=True)
class GridOptions:
    """The options of the command line.  grid: what goes before the file's [attack_grid]."""

    grid: Mapping[str, Any] = field(default_factory=dict)
    workers: int | None = None
    out: Path | None = None
    as_json: bool = False


def attack_file(name: str, sets: Sequence[str], rounds: int | None, options: GridOptions) -> None:
    """Runs the grid, and writes a page, tables and a picture with a sentence.

    Raises:
        ConfigError: for an unknown rule, attack or partition, or a file that measures nothing.
    """
    runfile = load_runfile(name, sets, rounds=rounds)
    if runfile.sections.run.evaluate_every == "never":
        raise ConfigError('run.evaluate_every is "never", so that no model would be measured: give a number of rounds.')
    section = AttackGridSection.model_validate({**runfile.sections.attack_grid.model_dump(), **options.grid})
    metric, _, data = deciding_metric(runfile, section.seeds, False)
    plan = grid_plan(runfile, section, data)
    facts = grid_facts(runfile, section, plan, metric, data)
    folder = options.out or free_path(Path("attacks") / runfile.name)
    total = len(plan.runfiles) * section.seeds
    workers = options.workers or min(os.cpu_count() or 1, 2, total)
    work = TrialProgress(folder, workers, options.as_json)
    many = "1 run" if total == 1 else f"{total} runs"
    begun = "" if section.from_round == 1 else f", from round {section.from_round}"
    length = f"{len(facts.attackers)} of {facts.clients} clients attack and know {facts.known}{begun}; {many} of "
    work.begin(runfile.name, section.rules, f"{length}{facts.rounds} rounds", data, list(plan.left_out))
    seeds = range(runfile.sections.run.seed, runfile.sections.run.seed + section.seeds)
    trials = work.trials(
        lambda: run_trials(plan.runfiles, seeds, workers, folder, metric, plan.probes), total, runfile, False
    )
    result = GridResult.of(plan.cells, trials, metric not in LOWER_IS_BETTER)
    _write(folder, result, facts)
    _show(work, folder, result, facts)


def _tables(result: GridResult, facts: GridFacts) -> list[GridTable]:
    others = (backdoor_tables(result, facts), clients_tables(result, facts), [seconds_table(result)])
    return [*value_tables(result, facts), *(table for each in others for table in each)]


def _write(folder: Path, result: GridResult, facts: GridFacts) -> None:
    """The page, the results as JSON and Markdown, and the picture."""
    parts = [f"{words}\n" for words in (grid_sentence(result, facts), *facts.left_out)]
    for table in _tables(result, facts):
        note = f"\n\n{table.note}" if table.note else ""
        parts.append(f"{table.title}\n\n{markdown_table(table.columns, table.rows)}{note}\n")
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        write_atomically(folder / "table.md", "\n".join(parts).encode())
        write_atomically(
            folder / "results.json", (json.dumps(strict(_record(result, facts)), indent=1) + "\n").encode()
        )
        write_atomically(folder / "attacks.png", attack_picture(result, facts.metric))
        write_atomically(folder / PAGE, render_attacks(result, facts).encode())


def _record(result: GridResult, facts: GridFacts) -> dict[str, Any]:
    values = [
        {"rule": cell.rule, "attack": cell.attack, "setting": cell.setting, "value": value}
        | {"seeds": {str(seed): each for seed, each in result.by_seed[cell].items()}}
        | {"seconds_per_round": result.seconds[cell]}
        | ({"backdoor_success": dict(found)} if (found := result.backdoors[cell]) else {})
        | ({"failure": result.failures[cell]} if cell in result.failures else {})
        for cell, value in result.values.items()
    ]
    return {
        "metric": facts.metric,
        "data": facts.data,
        "attackers": list(facts.attackers),
        "clients": facts.clients,
        "from_round": facts.from_round,
        "knows": facts.knows,
        "rounds": facts.rounds,
        "left_out": list(facts.left_out),
        "values": values,
        "sentence": grid_sentence(result, facts),
        "rule": result.best_rule(),
    }


def _show(work: TrialProgress, folder: Path, result: GridResult, facts: GridFacts) -> None:
    if work.as_json:
        emit({"event": "attack", "folder": str(folder), **strict(_record(result, facts))})
        return
    for table in _tables(result, facts):
        work.screen.print(f"\n{table.title}", markup=False)
        show_table(work.screen, plain_table(table.columns, table.rows))
        if table.note:
            work.screen.print(table.note, markup=False, soft_wrap=True)
    page = folder / PAGE
    size = bytes_text(page.stat().st_size)
    work.screen.print(
        f"\n{page}: {size}; open it in a browser (beside it: attacks.png, table.md, results.json, runs/)",
        soft_wrap=True,
        markup=False,
    )
    for words in (grid_sentence(result, facts), backdoor_sentence(result, facts), CAUTION):
        if words:
            work.screen.print(words, markup=False, soft_wrap=True)

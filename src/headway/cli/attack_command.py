"""`headway attack`: what robust rules withstand, and what they cost where nobody attacks."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from headway.cli.run_command import free_path
from headway.cli.trial_progress import TrialProgress
from headway.core.errors import ConfigError, HeadwayError
from headway.experiment.best_model import LOWER_IS_BETTER
from headway.experiment.deciding_metric import deciding_metric
from headway.experiment.robust_grid import (
    ATTACKS,
    OWN,
    RULES,
    Cell,
    GridResult,
    grid_cells,
    grid_file,
    partition_of,
)
from headway.experiment.runfile import RunFile, load_runfile
from headway.experiment.trials import run_trials
from headway.observe.run_folder import write_atomically, writing
from headway.observe.text import emit, markdown_table, plain_table, show_table, strict
from headway.reports.attack_picture import attack_picture


@dataclass(frozen=True)
class GridOptions:
    """The options of the command line.

    attackers: how many clients attack; by default a fifth of all.  partitions: as `kind:name=number,...`; by default
        the file's own.  knows: what the attackers know.
    """

    rules: tuple[str, ...] = RULES
    attacks: tuple[str, ...] = ATTACKS
    partitions: tuple[str, ...] = ()
    attackers: int | None = None
    seeds: int = 1
    knows: Literal["attackers", "everyone"] = "everyone"
    workers: int | None = None
    out: Path | None = None
    as_json: bool = False


def attack_file(name: str, sets: Sequence[str], rounds: int | None, options: GridOptions) -> None:
    """Runs the grid, and shows a table for each partition, a picture and a sentence.

    Raises:
        ConfigError: for an unknown rule, attack or partition, or a file that measures nothing.
    """
    runfile = load_runfile(name, sets, rounds=rounds)
    if runfile.sections.run.evaluate_every == "never":
        raise ConfigError('run.evaluate_every is "never", so that no model would be measured: give a number of rounds.')
    metric, _, data = deciding_metric(runfile, options.seeds, False)
    count = options.attackers or max(1, len(data.clients) // 5)
    given = {text: partition_of(text) for text in options.partitions}
    places: dict[str, dict[str, Any] | None] = {**given} or {OWN: None}
    cells, runfiles, refused = (
        grid_cells(options.rules, options.attacks, places),
        dict[str, RunFile](),
        dict[str, str](),
    )
    for cell in cells:
        try:
            runfiles[cell.method] = grid_file(runfile, cell, places[cell.partition], count, options.knows)
            runfiles[cell.method].algorithm.flows(population=len(data.clients))
        except HeadwayError as error:
            refused[cell.rule] = str(error)
            runfiles.pop(cell.method, None)
    if not runfiles:
        raise ConfigError(f"no rule can be used with this file: {next(iter(refused.values()))}")
    folder = options.out or free_path(Path("attacks") / runfile.name)
    workers = options.workers or min(os.cpu_count() or 1, 2, len(runfiles) * options.seeds)
    work = TrialProgress(folder, workers, options.as_json)
    length = f"{count} of {len(data.clients)} clients attack and know {_known(options.knows)}; {len(runfiles)} runs of "
    left_out = [f"{rule} is left out: {why}" for rule, why in refused.items()]
    work.begin(runfile.name, list(options.rules), f"{length}{runfile.sections.run.rounds} rounds", data, left_out)
    seeds = range(runfile.sections.run.seed, runfile.sections.run.seed + options.seeds)
    trials = work.trials(
        lambda: run_trials(runfiles, seeds, workers, folder, metric), len(runfiles) * options.seeds, runfile, False
    )
    kept = [cell for cell in cells if cell.method in runfiles]
    result = GridResult.of(kept, trials, metric not in LOWER_IS_BETTER)
    _write(folder, result, metric)
    _show(work, folder, result, metric)


def _known(knows: str) -> str:
    return "all updates" if knows == "everyone" else "their own updates"


def _table(result: GridResult, partition: str) -> tuple[list[str], list[list[str]]]:
    """Columns, and a row for each rule."""
    rows = []
    for rule in result.rules:
        cells = [_text(result, Cell(rule, attack, partition)) for attack in result.attacks]
        worst, attack = result.worst(rule, partition)
        rows.append([rule, *cells, "" if math.isnan(worst) else f"{worst:.3f} ({attack})"])
    return ["rule", *result.attacks, "worst case"], rows


def _text(result: GridResult, cell: Cell) -> str:
    if cell in result.failures:
        return "diverged"
    value = result.values.get(cell, math.nan)
    return "" if math.isnan(value) else f"{value:.3f}"


def _write(folder: Path, result: GridResult, metric: str) -> None:
    """The results as JSON and Markdown, and the picture."""
    tables = [f"{metric}, data {part}\n\n{markdown_table(*_table(result, part))}\n" for part in result.partitions]
    parts = [f"{result.sentence(metric)}\n", *tables]
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        write_atomically(folder / "table.md", "\n".join(parts).encode())
        write_atomically(
            folder / "results.json", (json.dumps(strict(_facts(result, metric)), indent=1) + "\n").encode()
        )
        write_atomically(folder / "attacks.png", attack_picture(result, metric))


def _facts(result: GridResult, metric: str) -> dict[str, Any]:
    values = [
        {"rule": cell.rule, "attack": cell.attack, "partition": cell.partition, "value": value}
        | ({"failure": result.failures[cell]} if cell in result.failures else {})
        for cell, value in result.values.items()
    ]
    return {"metric": metric, "values": values, "sentence": result.sentence(metric), "rule": result.best_rule()}


def _show(work: TrialProgress, folder: Path, result: GridResult, metric: str) -> None:
    if work.as_json:
        emit({"event": "attack", "folder": str(folder), **strict(_facts(result, metric))})
        return
    for partition in result.partitions:
        work.screen.print(f"\n{metric}, data {partition}", markup=False)
        show_table(work.screen, plain_table(*_table(result, partition)))
    work.screen.print(f"\nPicture: {folder / 'attacks.png'} (beside it: table.md, results.json, runs/)", soft_wrap=True)
    work.screen.print(result.sentence(metric), markup=False, soft_wrap=True)
    work.screen.print(
        "A rule that withstood these attacks need not withstand others; an attacker that knows the rule may do more "
        "(LineSearch).",
        soft_wrap=True,
    )

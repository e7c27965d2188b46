"""The output of a comparison: its table, sentences and picture, on the screen and in its folder."""

from __future__ import annotations

import dataclasses
import json
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.markup import escape

from headway.cli.trial_progress import TrialProgress
from headway.experiment.baselines import by_client
from headway.experiment.comparison import Comparison, Summary, Tuned
from headway.experiment.runfile import RunFile
from headway.experiment.trials import RUNS, trial_folder
from headway.numerics.units import time_text
from headway.observe.run_folder import write_atomically, writing
from headway.observe.text import (
    bytes_text,
    difference_text,
    emit,
    markdown_table,
    number_text,
    plain_table,
    show_table,
    strict,
)
from headway.reports.comparison_picture import comparison_picture


def write_comparison(folder: Path, comparison: Comparison, runfiles: Mapping[str, RunFile]) -> None:
    """Writes the results, the table and the picture into the comparison's folder."""
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        _write_files(folder, comparison, runfiles)


def _write_files(folder: Path, comparison: Comparison, runfiles: Mapping[str, RunFile]) -> None:
    ranked = comparison.ranked()
    gaps = by_client(comparison.bounds, comparison.of(ranked[0].method)) if comparison.bounds and ranked else []
    results: dict[str, Any] = {
        "comparison": dataclasses.asdict(comparison),
        "summaries": [dataclasses.asdict(summary) for summary in comparison.summaries()],
        "sentence": comparison.sentence(),
        "sentences": sentences_of(comparison),
        "methods": {name: runfile.resolved() for name, runfile in runfiles.items()},
        "runs": {
            method: {t.seed: trial_folder(Path(), method, t.seed).as_posix() for t in comparison.of(method)}
            for method in comparison.methods
        },
        "gaps": [dict(zip(("client", "alone", "federated", "pooled"), row, strict=True)) for row in gaps],
    }
    write_atomically(folder / "results.json", json.dumps(strict(results), indent=1, allow_nan=False).encode())
    columns, rows = columns_of(comparison), rows_of(comparison)
    text = markdown_table(columns, rows)
    sentences = "\n\n".join(sentences_of(comparison))
    notes = f"{caption_of(comparison)}\n{tuning_text(comparison)}"
    write_atomically(folder / "table.md", f"{notes}\n\n{text}\n\n{sentences}\n".encode())
    comparison_picture(
        folder / "comparison.png",
        title=f"{comparison.description}, {seeds_text(comparison.seeds)}",
        metric=(
            comparison.metric,
            "on the central test set" if comparison.central else "over the clients' test parts",
        ),
        curves={m: [(t.rounds, t.values) for t in comparison.of(m)] for m in comparison.methods},
        times={m: [t.simulated_s for t in comparison.of(m)] for m in comparison.methods}
        if comparison.clocked
        else None,
        clients={m: _client_values(comparison, m) for m in comparison.methods},
        target=comparison.target if comparison.stated_target else None,
        stopped={trial.method for trial in comparison.trials if trial.failure},
    )


def sentences_of(comparison: Comparison) -> list[str]:
    """The verdict; at equal bytes and equal time, where those are other questions; and the gap to the bounds."""
    sentences = [comparison.sentence()]
    if (equal := comparison.budget_sentence()) is not None:
        sentences.append(f"At equal bytes, {bytes_text(comparison.budget)} each: {equal}")
    if (equal := comparison.time_sentence()) is not None:
        sentences.append(f"At equal simulated time, {time_text(comparison.time_budget)} each: {equal}")
    if (gap := comparison.gap_sentence()) is not None:
        sentences.append(gap)
    return sentences + comparison.failure_sentences()


def columns_of(comparison: Comparison) -> list[str]:
    """The titles of the table's columns."""
    columns = ["method", "mean", "+- 95 %", f"vs {comparison.methods[0]}", "spread", "worst client"]
    columns += ["rounds to target", "bytes to target", *(["time to target"] if comparison.clocked else [])]
    columns += ["bytes a round", *(["time a round"] if comparison.clocked else [])]
    columns += [f"at {bytes_text(comparison.budget)}"] if comparison.unequal_bytes else []
    return columns + ([f"at {time_text(comparison.time_budget)}"] if comparison.unequal_time else [])


def rows_of(comparison: Comparison) -> list[list[str]]:
    """The rows of the table, a method each."""
    return [_row(summary, comparison) for summary in comparison.summaries()]


def _row(summary: Summary, comparison: Comparison) -> list[str]:
    reached = summary.rounds_to_target
    return [
        summary.method + (f" ({summary.failures} failed)" if summary.failures else ""),
        number_text(summary.mean),
        number_text(summary.half_width),
        difference_text(summary.difference, summary.difference_half),
        number_text(summary.spread),
        number_text(summary.worst),
        "-" if reached is None else f"{reached:g}",
        "-" if summary.bytes_to_target is None else bytes_text(summary.bytes_to_target),
        *([time_text(summary.seconds_to_target)] if comparison.clocked else []),
        bytes_text(summary.bytes_a_round),
        *([time_text(summary.seconds_a_round)] if comparison.clocked else []),
        *([number_text(summary.at_budget)] if comparison.unequal_bytes else []),
        *([number_text(summary.at_time)] if comparison.unequal_time else []),
    ]


def caption_of(comparison: Comparison) -> str:
    """The line below the table: metric, data, seeds and target."""
    how = "as asked" if comparison.stated_target else "95 % of the best mean"
    return (
        f"{comparison.metric.replace('_', ' ')} over the last rounds; {comparison.description}; "
        f"{seeds_text(comparison.seeds)}. Target {comparison.target:.4f} ({how})."
    )


def tuning_text(comparison: Comparison) -> str:
    """The origin of the methods' numbers, in a sentence."""
    if not comparison.tuned:
        return "All methods are untuned: the numbers are those of the run file."
    tuned = [f"{method}: {setting_text(how)}, best of {how.tried}" for method, how in comparison.tuned.items()]
    plain = [method for method in comparison.methods if method not in comparison.tuned]
    untuned = f"; untuned: {', '.join(plain)}" if plain else ""
    return f"Tuned on held-out training examples: {'; '.join(tuned)}{untuned}."


def setting_text(how: Tuned) -> str:
    """The chosen numbers of a method, each with the last part of its path."""
    return ", ".join(f"{path.rpartition('.')[2]} {value}" for path, value in how.chosen.items())


def seeds_text(count: int) -> str:
    """The number of seeds in words."""
    return "1 seed" if count == 1 else f"{count} seeds"


def _client_values(comparison: Comparison, method: str) -> list[tuple[str, float]]:
    """Each client's value: by name over the seeds, or of every seed where a seed draws other clients."""
    values: dict[str, list[float]] = {}
    for trial in comparison.of(method):
        for client, value in trial.clients.items() if not trial.failure else ():
            values.setdefault(client, []).append(value)
    if comparison.drawn:
        return [("", value) for each in values.values() for value in each]
    return [(client, sum(each) / len(each)) for client, each in values.items()]


def show_comparison(work: TrialProgress, comparison: Comparison, folder: Path) -> None:
    """Prints the comparison: a table and sentences, or JSON."""
    if work.as_json:
        for summary in comparison.summaries():
            emit({"event": "method", **dataclasses.asdict(summary)})
        sentences = sentences_of(comparison)
        emit(
            {
                "event": "done",
                "sentence": sentences[0],
                "sentences": sentences,
                "target": comparison.target,
                "folder": str(folder),
                **work.known,
            }
        )
        return
    screen = work.screen
    screen.print()
    show_table(screen, plain_table(columns_of(comparison), rows_of(comparison)))
    screen.print()
    screen.print(caption_of(comparison), soft_wrap=True)
    screen.print(
        f"Vs {comparison.methods[0]}: paired by seed, +- half the width of the 95 % interval of each difference alone; "
        "the statements below are corrected for their number. "
        f"Spread: standard deviation over the last rounds. {tuning_text(comparison)}"
    )
    screen.print(f"\nPicture: {folder / 'comparison.png'} (beside it: table.md, results.json, {RUNS}/)", soft_wrap=True)
    screen.print(f"Curves, drift and clients on one page: headway report {shlex.quote(str(folder))}", soft_wrap=True)
    for sentence in sentences_of(comparison):
        screen.print(f"[bold]{escape(sentence)}[/bold]", soft_wrap=True)

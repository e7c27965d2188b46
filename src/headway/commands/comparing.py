"""`headway compare`."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import typer
from rich.console import Console

from headway.commands.training import free_path
from headway.compare import Comparison, Summary, Trial, gather, run_trials
from headway.core.errors import ConfigError, nearest
from headway.observe.folder import write_atomically, writing
from headway.observe.plot import comparison_picture
from headway.observe.progress import Meter
from headway.observe.text import bytes_text, console, emit, number_text, plain_table, show_table, strict
from headway.runfile import AlgorithmSection, RunFile, load_runfile

COLUMNS = [
    "method",
    "mean",
    "+- 95 %",
    "spread",
    "worst client",
    "rounds to target",
    "bytes to target",
    "bytes a round",
]


def compare_files(
    files: Sequence[str],
    methods: Sequence[str] | None,
    seeds: int | None,
    sets: Sequence[str],
    rounds: int | None,
    target: float | None,
    workers: int | None,
    out: Path | None,
    as_json: bool,
) -> None:
    """Runs methods x seeds, and shows a table, a picture and a sentence."""
    runfiles = _methods(files, methods, sets, rounds)
    first = next(iter(runfiles.values()))
    section = first.sections.compare
    seeds = seeds or section.seeds
    target = target if target is not None else section.target
    if target is not None and not math.isfinite(target):
        raise ConfigError(f"the target must be a finite number, found {target}.")
    workers = workers or min(os.cpu_count() or 1, 2, len(runfiles) * seeds)
    first.build()  # what is wrong with the data or the model is said before any training
    if out is not None and out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ConfigError(f"{out} exists already: choose another folder with --out.")
    folder = out or free_path(Path("comparisons") / first.name)
    screen = console()
    if not as_json:
        count = first.sections.run.rounds
        screen.print(f"[bold]{first.name}[/bold]: {', '.join(runfiles)}; {seeds} seeds of {count} rounds each")
    comparison = _run(screen, runfiles, seeds, workers, target, as_json)
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        _write(folder, comparison, runfiles)
    if as_json:
        for summary in comparison.summaries():
            emit({"event": "method", **dataclasses.asdict(summary)})
        emit({"event": "done", "sentence": comparison.sentence(), "target": comparison.target, "folder": str(folder)})
    else:
        _show(screen, comparison, folder)


def _methods(
    files: Sequence[str], methods: Sequence[str] | None, sets: Sequence[str], rounds: int | None
) -> dict[str, RunFile]:
    """The run file of every method; those of several files must train on the same data.

    Raises:
        ConfigError: if nothing is there to compare, or the files differ in their data.
    """
    runfiles: dict[str, RunFile] = {}
    _check_sets(sets, files)
    for file in files:
        plain = load_runfile(file, sets if methods is None else (), rounds=rounds) if len(files) > 1 else None
        names = methods or (load_runfile(file, _of_file(sets)).sections.compare.methods if plain is None else None)
        if plain is not None and names is None:
            if plain.name in runfiles:
                raise ConfigError(f"two of the files are named {plain.name!r}: give each its own [run] name.")
            runfiles[plain.name] = plain
            continue
        for name in names or ():
            method = load_runfile(file, _for_method(sets, file, name), rounds=rounds, method=name)
            runfiles[name if len(files) == 1 else f"{method.name} {name}"] = method
    if len(runfiles) < 2:
        raise ConfigError(
            "a comparison needs at least two methods: give --methods fedavg,scaffold, several files, or "
            "[compare] methods in the file."
        )
    _check_same_data(runfiles)
    if len(files) == 1:
        _check_reached(sets, runfiles)
    return runfiles


def _check_sets(sets: Sequence[str], files: Sequence[str]) -> None:
    """Refuses to set an option of a recipe where there are several methods, each with its own."""
    for keys in map(_keys, sets):
        if len(files) == 1 and len(keys) == 2 and keys[0] == "algorithm":
            raise ConfigError(
                f"--set {'.'.join(keys)} changes one recipe, and several methods are compared: set a stage's field "
                "(algorithm.FedProx.mu=0.1), or write a [methods.NAME] table."
            )


def _check_reached(sets: Sequence[str], runfiles: Mapping[str, RunFile]) -> None:
    """Refuses a change to a stage that no method has."""
    present = {label for runfile in runfiles.values() for label in runfile.algorithm.chain.labels}
    for keys in filter(_is_of_stage, map(_keys, sets)):
        if keys[1] not in present:
            raise ConfigError(
                f"--set {'.'.join(keys)}: none of the methods has a stage {keys[1]!r}{nearest(keys[1], present)}."
            )


def _keys(text: str) -> list[str]:
    return text.partition("=")[0].strip().split(".")


def _is_of_stage(keys: Sequence[str]) -> bool:
    return keys[0] == "algorithm" and len(keys) == 3 and keys[1] not in AlgorithmSection.model_fields


def _of_file(sets: Sequence[str]) -> list[str]:
    """The changes to a file's own keys, leaving out those to stages."""
    return [text for text in sets if not text.startswith("algorithm.")]


def _for_method(sets: Sequence[str], file: str, method: str) -> list[str]:
    """The changes that apply to a method: one addressed to a stage is for the methods that have it."""
    chain = {
        table["stage"] for table in load_runfile(file, _of_file(sets), method=method).resolved()["algorithm"]["chain"]
    }
    return [text for text in sets if not _is_of_stage(_keys(text)) or _keys(text)[1] in chain]


def _check_same_data(runfiles: Mapping[str, RunFile]) -> None:
    names = list(runfiles)
    for section in ("data", "model", "task"):
        tables = {name: runfiles[name].resolved().get(section, {}) for name in names}
        for name in names[1:]:
            if tables[name] != tables[names[0]]:
                raise ConfigError(
                    f"methods are compared on the same data and model, but [{section}] of {name!r} differs from that "
                    f"of {names[0]!r}: {tables[name]} and {tables[names[0]]}."
                )
    if len({runfile.sections.run.rounds for runfile in runfiles.values()}) > 1:
        raise ConfigError("methods are compared over the same number of rounds: give --rounds for all.")


def _run(
    screen: Console, runfiles: Mapping[str, RunFile], seeds: int, workers: int, target: float | None, as_json: bool
) -> Comparison:
    rounds = next(iter(runfiles.values())).sections.run.rounds
    trials: list[Trial] = []
    steps = run_trials(runfiles, seeds, workers)
    quiet = Console(quiet=True) if as_json else screen
    try:
        with Meter(quiet, "round", len(runfiles) * seeds * rounds) as meter:
            for step in steps:
                if not isinstance(step, Trial):
                    meter.step(f"{step[0]}, seed {step[1]}")
                    continue
                trials.append(step)
                if step.failure:
                    meter.say(f"[yellow]{step.method}, seed {step.seed}, stopped:[/yellow] {step.failure}")
                if as_json:
                    emit({"event": "trial", **dataclasses.asdict(step), "final": step.final})
    except KeyboardInterrupt:
        steps.close()  # type: ignore[attr-defined]
        screen.print("Stopped; nothing was written.")
        raise typer.Exit(130) from None
    name = next(iter(runfiles.values())).name
    return gather(name, runfiles, sorted(trials, key=lambda t: (list(runfiles).index(t.method), t.seed)), target)


def _write(folder: Path, comparison: Comparison, runfiles: Mapping[str, RunFile]) -> None:
    results: dict[str, Any] = {
        "comparison": dataclasses.asdict(comparison),
        "summaries": [dataclasses.asdict(summary) for summary in comparison.summaries()],
        "sentence": comparison.sentence(),
        "methods": {name: runfile.resolved() for name, runfile in runfiles.items()},
    }
    write_atomically(folder / "results.json", json.dumps(strict(results), indent=1, allow_nan=False).encode())
    rows = [_row(summary) for summary in comparison.summaries()]
    lines = [COLUMNS, ["---"] * len(COLUMNS), *rows]
    text = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    write_atomically(folder / "table.md", f"{_caption(comparison)}\n\n{text}\n\n{comparison.sentence()}\n".encode())
    comparison_picture(
        folder / "comparison.png",
        title=f"{comparison.description}, {comparison.seeds} seeds",
        metric=comparison.metric,
        where="on the central test set" if comparison.central else "over the clients' test parts",
        curves={m: [(t.rounds, t.values) for t in comparison.of(m)] for m in comparison.methods},
        clients={m: _client_values(comparison, m) for m in comparison.methods},
        target=comparison.target if comparison.stated_target else None,
    )


def _client_values(comparison: Comparison, method: str) -> list[tuple[str, float]]:
    """Each client's value: by name over the seeds, or of every seed where a seed draws other clients."""
    values: dict[str, list[float]] = {}
    for trial in comparison.of(method):
        for client, value in trial.clients.items() if not trial.failure else ():
            values.setdefault(client, []).append(value)
    if comparison.drawn:
        return [("", value) for each in values.values() for value in each]
    return [(client, sum(each) / len(each)) for client, each in values.items()]


def _row(summary: Summary) -> list[str]:
    reached = summary.rounds_to_target
    return [
        summary.method + (f" ({summary.failures} failed)" if summary.failures else ""),
        number_text(summary.mean),
        number_text(summary.half_width),
        number_text(summary.spread),
        number_text(summary.worst),
        "-" if reached is None else f"{reached:g}",
        "-" if summary.bytes_to_target is None else bytes_text(summary.bytes_to_target),
        bytes_text(summary.bytes_a_round),
    ]


def _caption(comparison: Comparison) -> str:
    how = "as asked" if comparison.stated_target else "95 % of the best mean"
    return (
        f"{comparison.metric.replace('_', ' ')} over the last rounds; {comparison.description}; "
        f"{comparison.seeds} seeds. Target {comparison.target:.4f} ({how})."
    )


def _show(screen: Console, comparison: Comparison, folder: Path) -> None:
    screen.print()
    show_table(screen, plain_table(COLUMNS, [_row(summary) for summary in comparison.summaries()]))
    screen.print()
    screen.print(_caption(comparison), soft_wrap=True)
    screen.print("Spread: standard deviation over the last rounds. All methods use the same trainer; none was tuned.")
    screen.print(f"\nPicture: {folder / 'comparison.png'} (beside it: table.md, results.json)", soft_wrap=True)
    screen.print(f"[bold]{comparison.sentence()}[/bold]")
    screen.print(f"Curves, drift and clients on one page: headway report {shlex.quote(str(folder))}", soft_wrap=True)

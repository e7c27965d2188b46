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
from rich.markup import escape

from headway.advice.settings import setting_warnings
from headway.cli.method_files import method_files, method_grids
from headway.cli.run_command import free_path
from headway.cli.trial_progress import TrialProgress
from headway.core.errors import ConfigError
from headway.data import FederatedData
from headway.data.dataset.dataset_view import View
from headway.experiment.baselines import ALONE, POOLED, bound_jobs, by_client, gather_alone, weights_alone
from headway.experiment.comparison import Comparison, Summary, Tuned, gather
from headway.experiment.grid_search import HELD_OUT, Candidate, choose, tuning_trials
from headway.experiment.runfile import RunFile
from headway.experiment.trials import RUNS, Trial, TrialJob, failed_trial, in_processes, run_trials, trial_folder
from headway.model.undefined_metrics import AREA, deciding, undefined_metrics
from headway.numerics.units import bytes_of, seconds_of, time_text
from headway.observe.run_folder import write_atomically, writing
from headway.observe.text import bytes_text, difference_text, emit, listed, number_text, plain_table, show_table, strict
from headway.reports.comparison_picture import comparison_picture


@dataclasses.dataclass(frozen=True)
class Options:
    """What the command line says of a comparison; None where the run file decides."""

    seeds: int | None = None
    target: float | None = None
    budget: str | None = None
    time_budget: str | None = None
    bounds: bool | None = None
    workers: int | None = None
    out: Path | None = None
    as_json: bool = False


def compare_files(
    files: Sequence[str], methods: Sequence[str] | None, sets: Sequence[str], rounds: int | None, options: Options
) -> None:
    """Runs methods x seeds, and shows a table, a picture and a sentence."""
    runfiles, refused = method_files(files, methods, sets, rounds)
    first = next(iter(runfiles.values()))
    section = first.sections.compare
    seeds = options.seeds or section.seeds
    target = options.target if options.target is not None else section.target
    if target is not None and not math.isfinite(target):
        raise ConfigError(f"the target must be a finite number, found {target}.")
    if any(runfile.sections.run.evaluate_every == "never" for runfile in runfiles.values()):
        raise ConfigError(
            'a comparison needs the values of models, but run.evaluate_every is "never", so none are measured: '
            "say every how many rounds."
        )
    budget = None if options.budget is None else bytes_of(options.budget, "--budget-bytes")
    time_budget = None if options.time_budget is None else _seconds(options.time_budget, runfiles)
    wanted = section.bounds if options.bounds is None else options.bounds
    if wanted and first.sections.run.until_s is not None:
        raise ConfigError(
            "the bounds train for as many rounds as the federation, and run.until_s ends that by its clock: leave "
            "run.until_s or the bounds out."
        )
    grids = method_grids(files, runfiles, sets, rounds)
    metric, notes, read = _deciding(first, seeds, bool(grids))  # what is wrong is found before any training
    folder = _folder(options.out, first.name)
    workers = options.workers or min(os.cpu_count() or 1, 2, len(runfiles) * seeds)
    work = TrialProgress(folder, workers, options.as_json)
    left_out = [f"{name} is left out: {why}" for name, why in refused.items()]
    length = f"{_seeds(seeds)} of {_length(first)} each"
    work.begin(first.name, list(runfiles), length, read, [*left_out, *notes, *_setting_warnings(runfiles, read)])
    tuned: dict[str, Tuned] = {}
    if grids:
        runfiles, tuned, failed = _tune(work, grids, runfiles, section.tuning_seeds, metric)
        refused |= failed
    count = len(runfiles) * seeds
    found = work.trials(lambda: run_trials(runfiles, range(seeds), work.workers, folder, metric), count, first)
    found += [failed_trial(name, seed, why) for name, why in refused.items() for seed in range(seeds)]
    order = [*runfiles, *refused]
    trials = sorted(found, key=lambda t: (order.index(t.method), t.seed))
    bounds = _bounds(work, first, seeds, metric) if wanted else {}
    comparison = gather(
        first.name,
        runfiles,
        trials,
        target,
        budget,
        time_budget=time_budget,
        bounds=bounds,
        tuned=tuned,
        metric=metric,
        refused=list(refused),
    )
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        _write(folder, comparison, runfiles)
    _tell(work, comparison, folder)
    if comparison.failure_sentences():
        raise typer.Exit(1)


def _setting_warnings(runfiles: Mapping[str, RunFile], data: FederatedData) -> list[str]:
    """A sentence for each setting that undoes itself, with the methods that have it."""
    found: dict[str, list[str]] = {}
    for method, runfile in runfiles.items():
        sections = runfile.sections
        averaged = sections.task.buffers == "average"
        for line in setting_warnings(runfile.algorithm, sections.run.rounds, data.train_sizes.tolist(), averaged):
            found.setdefault(line, []).append(method)
    return [f"{listed(methods)}: {line}" for line, methods in found.items()]


def _deciding(runfile: RunFile, seeds: int, tuned: bool) -> tuple[str, list[str], FederatedData]:
    """The metric that methods are compared by, the first that is defined at every seed; why those before are not; and
    the data of the first seed.

    Raises:
        ConfigError: if nothing can be evaluated at some seed.
        What `RunFile.build` raises.
    """
    views = [runfile, *([dataclasses.replace(runfile, view=View(held_out=HELD_OUT))] if tuned else [])]
    built = runfile.build()
    task = built.task
    undefined: dict[str, str] = {}
    drawn = any(name.endswith(AREA) for name in task.metric_names)  # whether it is defined depends on the draw
    checked = range(seeds) if drawn else range(1)
    for view in views:
        for seed in checked:
            found = undefined_metrics(task, view.with_seed(seed).load_data())
            if "loss" in found:
                raise ConfigError(f"methods are compared by what is evaluated, but {found['loss']}.")
            undefined = {name: f"{why}, at seed {seed}" for name, why in found.items()} | undefined
    metric = deciding(task, undefined)
    notes = [f"{name} is not defined: {why}; {metric} decides instead." for name, why in undefined.items()]
    return metric, notes, built.data


def _seconds(said: str, runfiles: Mapping[str, RunFile]) -> float:
    """The simulated time at which methods are compared."""
    seconds = seconds_of(said, "--budget-time")
    if without := [method for method, runfile in runfiles.items() if runfile.sections.clock is None]:
        raise ConfigError(
            f"--budget-time compares methods at equal simulated time, but {listed(without)} would run without a clock: "
            "give the run file a [clock] section, or say for example --set clock.preset=phones."
        )
    return seconds


def _folder(out: Path | None, name: str) -> Path:
    """Where the comparison is kept: a new place, or one that holds some of its runs already."""
    if out is None:
        return free_path(Path("comparisons") / name)
    if out.exists() and out.resolve() == Path.cwd():
        raise ConfigError("a comparison needs a folder of its own, not the one that it is started in: choose --out.")
    if out.exists() and not (out / RUNS).is_dir() and (not out.is_dir() or any(out.iterdir())):
        raise ConfigError(
            f"{out} exists already, and is no comparison to go on with: choose another folder with --out."
        )
    return out


def _tune(
    work: TrialProgress, grids: Sequence[Candidate], runfiles: Mapping[str, RunFile], seeds: int, metric: str
) -> tuple[dict[str, RunFile], dict[str, Tuned], dict[str, str]]:
    """The run files with the settings that did best; and the methods of which every setting failed, with the reason.

    Raises:
        ConfigError: if no method is left.
    """
    work.say(f"tuning: {len(grids)} settings, each client testing on {HELD_OUT:.0%} of its training examples")
    first = grids[0].runfile
    trials = work.trials(
        lambda: tuning_trials(grids, seeds, work.workers, work.folder, metric), len(grids) * seeds, first, shown=False
    )
    chosen, failed = choose(grids, trials, metric)
    tuned = {method: how for method, (_, how) in chosen.items()}
    for method, how in tuned.items():
        work.say(f"tuned: {method} takes {_setting(how)}, best of {how.tried}")
    for method, why in failed.items():
        work.say(f"[yellow]{method} is left out:[/yellow] {escape(why)}")
    left = {m: chosen[m][0].runfile if m in chosen else each for m, each in runfiles.items() if m not in failed}
    if not left:
        method, why = next(iter(failed.items()))
        raise ConfigError(f"no method is left to compare: of {method!r} {why}")
    return left, tuned, failed


def _setting(how: Tuned) -> str:
    return ", ".join(f"{path.rpartition('.')[2]} {value}" for path, value in how.chosen.items())


def _bounds(work: TrialProgress, runfile: RunFile, seeds: int, metric: str) -> dict[str, tuple[Trial, ...]]:
    """Each client alone and pooled training, at every seed."""
    weights = [weights_alone(runfile.with_seed(seed).load_data()) for seed in range(seeds)]
    jobs: list[TrialJob] = [
        job for seed, each in enumerate(weights) for job in bound_jobs(runfile, tuple(each), seed, work.folder, metric)
    ]
    work.say("bounds: each client alone, and pooled training")
    trials = work.trials(lambda: in_processes(jobs, work.workers), len(jobs), runfile, shown=False)
    alone = []
    for seed in range(seeds):
        own = [t for t in trials if t.seed == seed and t.method != POOLED]
        alone.append(gather_alone(own, weights[seed], seed))
    pooled = sorted((t for t in trials if t.method == POOLED), key=lambda t: t.seed)
    if failed := [t for t in (*alone, *pooled) if t.failure]:
        work.say(f"[yellow]no bounds, since {failed[0].method}, seed {failed[0].seed}, stopped:[/] {failed[0].failure}")
        return {}
    return {ALONE: tuple(alone), POOLED: tuple(pooled)}


def _write(folder: Path, comparison: Comparison, runfiles: Mapping[str, RunFile]) -> None:
    ranked = comparison.ranked()
    gaps = by_client(comparison.bounds, comparison.of(ranked[0].method)) if comparison.bounds and ranked else []
    results: dict[str, Any] = {
        "comparison": dataclasses.asdict(comparison),
        "summaries": [dataclasses.asdict(summary) for summary in comparison.summaries()],
        "sentence": comparison.sentence(),
        "sentences": _sentences(comparison),
        "methods": {name: runfile.resolved() for name, runfile in runfiles.items()},
        "runs": {
            method: {t.seed: trial_folder(Path(), method, t.seed).as_posix() for t in comparison.of(method)}
            for method in comparison.methods
        },
        "gaps": [dict(zip(("client", "alone", "federated", "pooled"), row, strict=True)) for row in gaps],
    }
    write_atomically(folder / "results.json", json.dumps(strict(results), indent=1, allow_nan=False).encode())
    columns, rows = _columns(comparison), _rows(comparison)
    text = "\n".join(f"| {' | '.join(line)} |" for line in [columns, ["---"] * len(columns), *rows])
    said = "\n\n".join(_sentences(comparison))
    notes = f"{_caption(comparison)}\n{_how_tuned(comparison)}"
    write_atomically(folder / "table.md", f"{notes}\n\n{text}\n\n{said}\n".encode())
    comparison_picture(
        folder / "comparison.png",
        title=f"{comparison.description}, {_seeds(comparison.seeds)}",
        metric=comparison.metric,
        where="on the central test set" if comparison.central else "over the clients' test parts",
        curves={m: [(t.rounds, t.values) for t in comparison.of(m)] for m in comparison.methods},
        times={m: [t.simulated_s for t in comparison.of(m)] for m in comparison.methods}
        if comparison.clocked
        else None,
        clients={m: _client_values(comparison, m) for m in comparison.methods},
        target=comparison.target if comparison.stated_target else None,
        stopped={trial.method for trial in comparison.trials if trial.failure},
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


def _sentences(comparison: Comparison) -> list[str]:
    """The verdict; at equal bytes and equal time, where those are other questions; and the gap to the bounds."""
    said = [comparison.sentence()]
    if (equal := comparison.budget_sentence()) is not None:
        said.append(f"At equal bytes, {bytes_text(comparison.budget)} each: {equal}")
    if (equal := comparison.time_sentence()) is not None:
        said.append(f"At equal simulated time, {time_text(comparison.time_budget)} each: {equal}")
    if (gap := comparison.gap_sentence()) is not None:
        said.append(gap)
    return said + comparison.failure_sentences()


def _columns(comparison: Comparison) -> list[str]:
    columns = ["method", "mean", "+- 95 %", f"vs {comparison.methods[0]}", "spread", "worst client"]
    columns += ["rounds to target", "bytes to target", *(["time to target"] if comparison.clocked else [])]
    columns += ["bytes a round", *(["time a round"] if comparison.clocked else [])]
    columns += [f"at {bytes_text(comparison.budget)}"] if comparison.unequal_bytes else []
    return columns + ([f"at {time_text(comparison.time_budget)}"] if comparison.unequal_time else [])


def _rows(comparison: Comparison) -> list[list[str]]:
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


def _caption(comparison: Comparison) -> str:
    how = "as asked" if comparison.stated_target else "95 % of the best mean"
    return (
        f"{comparison.metric.replace('_', ' ')} over the last rounds; {comparison.description}; "
        f"{_seeds(comparison.seeds)}. Target {comparison.target:.4f} ({how})."
    )


def _length(runfile: RunFile) -> str:
    section = runfile.sections.run
    until = "" if section.until_s is None else f", but no longer than {time_text(section.until_s)} of simulated time,"
    return f"{section.rounds} rounds{until}"


def _seeds(count: int) -> str:
    return "1 seed" if count == 1 else f"{count} seeds"


def _how_tuned(comparison: Comparison) -> str:
    """Where the methods' numbers come from."""
    if not comparison.tuned:
        return "All methods are untuned: the numbers are those of the run file."
    told = [f"{method}: {_setting(how)}, best of {how.tried}" for method, how in comparison.tuned.items()]
    plain = [method for method in comparison.methods if method not in comparison.tuned]
    untuned = f"; untuned: {', '.join(plain)}" if plain else ""
    return f"Tuned on held-out training examples: {'; '.join(told)}{untuned}."


def _tell(work: TrialProgress, comparison: Comparison, folder: Path) -> None:
    if work.as_json:
        for summary in comparison.summaries():
            emit({"event": "method", **dataclasses.asdict(summary)})
        said = _sentences(comparison)
        emit(
            {
                "event": "done",
                "sentence": said[0],
                "sentences": said,
                "target": comparison.target,
                "folder": str(folder),
                **work.known,
            }
        )
        return
    screen = work.screen
    screen.print()
    show_table(screen, plain_table(_columns(comparison), _rows(comparison)))
    screen.print()
    screen.print(_caption(comparison), soft_wrap=True)
    screen.print(
        f"Vs {comparison.methods[0]}: paired by seed, +- half the width of the 95 % interval of each difference alone; "
        "what is said below is corrected for their number. "
        f"Spread: standard deviation over the last rounds. {_how_tuned(comparison)}"
    )
    screen.print(f"\nPicture: {folder / 'comparison.png'} (beside it: table.md, results.json, {RUNS}/)", soft_wrap=True)
    screen.print(f"Curves, drift and clients on one page: headway report {shlex.quote(str(folder))}", soft_wrap=True)
    for sentence in _sentences(comparison):
        screen.print(f"[bold]{escape(sentence)}[/bold]", soft_wrap=True)

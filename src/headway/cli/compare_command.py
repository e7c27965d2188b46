"""`headway compare`."""

from __future__ import annotations

import dataclasses
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import typer
from rich.markup import escape

from headway.advice.settings import setting_warnings
from headway.cli.comparison_output import (
    seeds_text,
    setting_text,
    show_comparison,
    write_comparison,
)
from headway.cli.method_files import method_files, method_grids
from headway.cli.run_command import free_path
from headway.cli.trial_progress import TrialProgress
from headway.core.errors import ConfigError
from headway.data import FederatedData
from headway.experiment.baselines import ALONE, POOLED, baseline_jobs, gather_alone, weights_alone
from headway.experiment.comparison import Limits, Tuned, gather
from headway.experiment.deciding_metric import deciding_metric
from headway.experiment.grid_search import HELD_OUT, Candidate, choose, grid_trials
from headway.experiment.runfile import RunFile
from headway.experiment.trials import RUNS, Trial, TrialJob, failed_trial, in_processes, run_trials
from headway.numerics.units import bytes_of, seconds_of, time_text
from headway.observe.text import listed


@dataclasses.dataclass(frozen=True)
class Options:
    """The options of the command line; None where the run file decides."""

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
            "give the number of rounds between evaluations."
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
    metric, notes, read = deciding_metric(first, seeds, bool(grids))  # what is wrong is found before any training
    folder = _folder(options.out, first.name)
    workers = options.workers or min(os.cpu_count() or 1, 2, len(runfiles) * seeds)
    work = TrialProgress(folder, workers, options.as_json)
    left_out = [f"{name} is left out: {why}" for name, why in refused.items()]
    length = f"{seeds_text(seeds)} of {_length(first)} each"
    work.begin(first.name, list(runfiles), length, read, [*left_out, *notes, *_setting_warnings(runfiles, read)])
    tuned: dict[str, Tuned] = {}
    if grids:
        runfiles, tuned, failed = _tune(work, grids, runfiles, section.tuning_seeds, metric)
        refused |= failed
    count = len(runfiles) * seeds
    finished = work.trials(lambda: run_trials(runfiles, range(seeds), work.workers, folder, metric), count, first)
    finished += [failed_trial(name, seed, why) for name, why in refused.items() for seed in range(seeds)]
    order = [*runfiles, *refused]
    trials = sorted(finished, key=lambda t: (order.index(t.method), t.seed))
    bounds = _train_baselines(work, first, seeds, metric) if wanted else {}
    comparison = gather(
        first.name,
        runfiles,
        trials,
        Limits(target, budget, time_budget),
        bounds=bounds,
        tuned=tuned,
        metric=metric,
        refused=list(refused),
    )
    write_comparison(folder, comparison, runfiles)
    show_comparison(work, comparison, folder)
    if comparison.failure_sentences():
        raise typer.Exit(1)


def _setting_warnings(runfiles: Mapping[str, RunFile], data: FederatedData) -> list[str]:
    """A sentence for each setting that undoes itself, with the methods that have it."""
    methods_of: dict[str, list[str]] = {}
    for method, runfile in runfiles.items():
        sections = runfile.sections
        averaged = sections.task.buffers == "average"
        for line in setting_warnings(runfile.algorithm, sections.run.rounds, data.train_sizes.tolist(), averaged):
            methods_of.setdefault(line, []).append(method)
    return [f"{listed(methods)}: {line}" for line, methods in methods_of.items()]


def _seconds(text: str, runfiles: Mapping[str, RunFile]) -> float:
    """The simulated time at which methods are compared."""
    seconds = seconds_of(text, "--budget-time")
    if without := [method for method, runfile in runfiles.items() if runfile.sections.clock is None]:
        raise ConfigError(
            f"--budget-time compares methods at equal simulated time, but {listed(without)} would run without a clock: "
            "give the run file a [clock] section, or give for example --set clock.preset=phones."
        )
    return seconds


def _folder(out: Path | None, name: str) -> Path:
    """The folder of the comparison: a new one, or one that holds some of its runs already."""
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
        lambda: grid_trials(grids, seeds, work.workers, work.folder, metric), len(grids) * seeds, first, shown=False
    )
    chosen, failed = choose(grids, trials, metric)
    tuned = {method: how for method, (_, how) in chosen.items()}
    for method, how in tuned.items():
        work.say(f"tuned: {method} takes {setting_text(how)}, best of {how.tried}")
    for method, why in failed.items():
        work.say(f"[yellow]{method} is left out:[/yellow] {escape(why)}")
    left = {m: chosen[m][0].runfile if m in chosen else each for m, each in runfiles.items() if m not in failed}
    if not left:
        method, why = next(iter(failed.items()))
        raise ConfigError(f"no method is left to compare: of {method!r} {why}")
    return left, tuned, failed


def _train_baselines(work: TrialProgress, runfile: RunFile, seeds: int, metric: str) -> dict[str, tuple[Trial, ...]]:
    """Each client alone and pooled training, at every seed."""
    weights = [weights_alone(runfile.with_seed(seed).load_data()) for seed in range(seeds)]
    jobs: list[TrialJob] = [
        job
        for seed, each in enumerate(weights)
        for job in baseline_jobs(runfile, tuple(each), seed, work.folder, metric)
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


def _length(runfile: RunFile) -> str:
    section = runfile.sections.run
    until = "" if section.until_s is None else f", but no longer than {time_text(section.until_s)} of simulated time,"
    return f"{section.rounds} rounds{until}"

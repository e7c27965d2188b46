"""Putting found runs side by side: by method and seed, with no claim that they do not carry."""

from __future__ import annotations

import dataclasses
import math
import tempfile
from collections.abc import Sequence
from pathlib import Path

import torch

from headway.core.errors import ConfigError, HeadwayError, RunFolderError
from headway.experiment.comparison import Comparison, least_spent
from headway.experiment.runfile import load_runfile
from headway.experiment.trials import Trial, tail_of
from headway.model.metrics import measured_on
from headway.observe.text import number_text
from headway.reports.naming import chain_text, differing, label, tell_apart
from headway.reports.page import Evidence, Method, Partition, SeedRun, partition_of
from headway.reports.run_reader import ComparisonNotes, ReadRun, find, holds_runs

Groups = dict[str, list[ReadRun]]


def evidence(paths: Sequence[Path]) -> Evidence:
    """The evidence of the runs and comparisons in these folders; one that cannot be read is listed with the reason.

    Raises:
        RunFolderError: if a folder is no run and no comparison, or none of them can be read.
        ConfigError: if the runs measure different things, or a method is there twice at one seed.
    """
    found: list[ReadRun] = []
    comparison_notes: list[ComparisonNotes] = []
    dead: list[RunFolderError] = []
    for path in {path.resolve(): path for path in paths}.values():
        try:
            runs, one = find(path)
        except RunFolderError as error:
            if not holds_runs(path):
                raise
            dead.append(error)
            continue
        found += runs
        comparison_notes += [one] if one is not None else []
    if not found:
        raise dead[0]
    _check_metrics(found)
    found, unfinished = _finished(found)
    groups = _groups(found)
    only = comparison_notes[0] if len(comparison_notes) == 1 and all(each.given for each in found) else None
    comparison = only.comparison if only is not None else _compared(groups, found)
    left_out = [f"Left out: {words}" for words in (*map(str, dead), *(each.trouble for each in found if each.trouble))]
    notices = [*left_out, *unfinished, *_unlike(groups)]
    if any("federation" in each.tables for each in found):  # the run of a server
        notices.append(
            "Times of a federation are those of its server's clock, also where a heading says simulated time."
        )
    methods = _methods(groups, comparison)
    partition, seed = _partition(found)
    return Evidence(
        title=comparison.description or comparison.name,
        sentence=_sentence(comparison, methods, notices),
        more=only.sentences[1:] if only is not None else (),
        caption=_caption(groups, comparison),
        metric=comparison.metric,
        central=comparison.central,
        lower_is_better=comparison.lower_is_better,
        drawn=comparison.drawn,
        target=comparison.target,
        budget=comparison.budget if comparison.unequal_bytes else None,
        clocked=comparison.clocked,
        time_budget=comparison.time_budget if comparison.unequal_time else None,
        gaps=only.gaps if only is not None else (),
        tail=_tail(methods),
        methods=methods,
        partition=partition,
        partition_seed=seed,
        notices=tuple(notices),
    )


def _check_metrics(found: Sequence[ReadRun]) -> None:
    first = found[0]
    for each in found[1:]:
        if (each.metric, each.central) != (first.metric, first.central):
            one, other = (
                f"{f.metric} {'on a central test set' if f.central else 'over clients'} ({f.run.source})"
                for f in (first, each)
            )
            raise ConfigError(
                f"a report shows runs that measure the same, but these differ: {one} and {other}; report them apart."
            )


def _finished(found: list[ReadRun]) -> tuple[list[ReadRun], list[str]]:
    """The runs, of which those that stopped early count for nothing; unless all have come equally far."""
    late = [each for each in found if each.planned is not None and _last(each) < each.planned]
    if not late:
        return found, []
    if len({_last(each) for each in found}) == 1:
        return found, [
            f"Not finished: {'the run has' if len(found) == 1 else 'all runs have'} come to round {_last(late[0])} of "
            f"{late[0].planned}; the numbers are those so far."
        ]
    stopped = {
        id(each): dataclasses.replace(
            each, run=dataclasses.replace(each.run, failure=f"stopped at round {_last(each)} of {each.planned}")
        )
        for each in late
    }
    names = ", ".join(f"{each.run.source} (round {_last(each)} of {each.planned})" for each in late[:5])
    return (
        [stopped.get(id(each), each) for each in found],
        [f"Not finished, and counted for nothing: {names}{' and more' if len(late) > 5 else ''}."],
    )


def _last(found: ReadRun) -> int:
    return found.run.record.rounds[-1] if found.run.record is not None else max(found.run.rounds, default=0)


def _groups(found: Sequence[ReadRun]) -> Groups:
    """The runs by method: alike in all numbers, and in the name that a comparison gave.

    Raises:
        ConfigError: if a method is there twice at one seed.
    """
    groups: list[tuple[str | None, list[ReadRun]]] = []
    for each in sorted(found, key=lambda f: f.given is None):  # names that were given first
        for given, members in groups:
            if each.numbers == members[0].numbers and each.given in (None, given):
                members.append(each)
                break
        else:
            groups.append((each.given, [each]))
    names = tell_apart(
        [given or label(members[0].tables) for given, members in groups], [members[0].numbers for _, members in groups]
    )
    for name, (_, members) in zip(names, groups, strict=True):
        by_seed: dict[int, ReadRun] = {}
        for each in members:
            other = by_seed.setdefault(each.run.seed, each)
            if other is not each:
                raise ConfigError(
                    f"{other.run.source} and {each.run.source} are the same method ({name}) at the same seed, "
                    f"{each.run.seed}: a run that is counted twice adds nothing; leave one of them out."
                )
    return {name: sorted(members, key=lambda f: f.run.seed) for name, (_, members) in zip(names, groups, strict=True)}


def _compared(groups: Groups, found: Sequence[ReadRun]) -> Comparison:
    """The comparison of runs that were made apart; its target is 95 % of the best method's mean."""
    first = found[0]
    trials = tuple(_trial(name, each.run) for name, members in groups.items() for each in members)
    seeds = len({trial.seed for trial in trials})
    drawn = [each.drawn for each in found]
    prints = {each.run.fingerprint for each in found}
    comparison = Comparison(
        _title(found),
        first.metric,
        first.central,
        trials,
        tuple(groups),
        seeds,
        math.nan,
        stated_target=False,
        drawn=any(drawn) or (None in drawn and len(prints) > 1),
    )
    known = [summary.mean for summary in comparison.summaries() if not math.isnan(summary.mean)]
    if not known:
        return comparison
    lower = comparison.lower_is_better
    target = min(known) / 0.95 if lower else max(known) * 0.95
    whole = [trial for trial in trials if not trial.failure]
    return dataclasses.replace(
        comparison,
        target=target,
        budget=least_spent(trial.bytes_total for trial in whole),
        time_budget=least_spent(trial.simulated_s for trial in whole),
    )


def _title(found: Sequence[ReadRun]) -> str:
    """The names of the runs' files; else of the folders."""
    names = dict.fromkeys(str(each.tables.get("run", {}).get("name", each.path.name)) for each in found)
    shown = list(names)[:4]
    return ", ".join(shown) + (f" and {len(names) - 4} more" if len(names) > 4 else "")


def _trial(method: str, run: SeedRun) -> Trial:
    spent = (run.bytes_total, run.clients, run.failure, run.simulated_s)
    return Trial(method, run.seed, run.rounds, run.values, run.losses, *spent)


def _methods(groups: Groups, comparison: Comparison) -> tuple[Method, ...]:
    summaries = {summary.method: summary for summary in comparison.summaries()}
    methods = []
    for name, members in groups.items():
        first, summary = members[0], summaries[name]
        runs = tuple(each.run for each in members)
        methods.append(Method(name, runs, summary, chain_text(first.tables), first.numbers, first.runfile))
    return tuple(methods)


def _unlike(groups: Groups) -> list[str]:
    """Why the methods cannot be compared, if they cannot: other data, models, rounds or seeds."""
    first = next(iter(groups.values()))[0]
    notices = []
    others = [each for runs in groups.values() for each in runs]
    paths = [
        path for path in differing([each.numbers for each in others]) if path.split(".")[0] in ("data", "model", "task")
    ]
    if paths:
        notices.append(f"The runs differ in more than the method: {', '.join(paths)}; so their values are not ranked.")
    elif len({each.run.fingerprint for each in others if each.run.seed == first.run.seed} - {None}) > 1:
        notices.append("At the same seed the runs trained on different data, so their values are not ranked.")
    ends = sorted({_last(each) for each in others if not each.run.failure})
    if len(ends) > 1 and not _by_clock(others):
        notices.append(
            f"The runs have different numbers of rounds ({', '.join(map(str, ends))}), so their last values are not "
            "ranked."
        )
    seeds = {tuple(each.run.seed for each in runs) for runs in groups.values()}
    if len(seeds) > 1:
        notices.append("The methods were not run at the same seeds, so they are not paired and not ranked.")
    return notices


def _by_clock(found: Sequence[ReadRun]) -> bool:
    """Whether all runs ended at the same simulated time, and not after so many rounds."""
    ends = {each.tables.get("run", {}).get("until_s") for each in found}
    return len(ends) == 1 and None not in ends and all(each.planned is None for each in found)


def _sentence(comparison: Comparison, methods: Sequence[Method], notices: Sequence[str]) -> str:
    """The headline, which claims no more than the seeds show."""
    if len(methods) > 1 and not any("ranked" in notice for notice in notices):
        return comparison.sentence()
    where = measured_on(comparison.metric, comparison.central)
    head = f"Mean {comparison.metric} {where}, over {_tail(methods)}"
    if len(methods) > 1:
        return f"{head}, of {len(methods)} methods side by side; none is called better, for the reasons below."
    (method,) = methods
    total, count = method.summed, len(method.runs)
    if math.isnan(total.mean):
        why = next((run.failure for run in method.runs if run.failure), "see what went wrong.")
        return f"{method.name} has no final {comparison.metric}: {why}"
    head += f": {method.name} has {number_text(total.mean)}"
    if count == 1:
        return f"{head}, from one seed, which says nothing of chance."
    interval = f"{total.mean - total.half_width:.4f} to {total.mean + total.half_width:.4f}"
    return f"{head} (95 % interval {interval}, {count} seeds)."


def _tail(methods: Sequence[Method]) -> str:
    """The rounds that final values are the mean of."""
    runs = [run for method in methods for run in method.runs]
    return tail_of(run.rounds for run in runs if run.failure is None or all(run.failure for run in runs))


def _caption(groups: Groups, comparison: Comparison) -> str:
    seeds = sorted({each.run.seed for members in groups.values() for each in members})
    rounds = max(_last(each) for members in groups.values() for each in members)
    names = ", ".join(map(str, seeds)) if len(seeds) <= 10 else f"{seeds[0]} to {seeds[-1]}, {len(seeds)} in all"
    several = "methods" if len(groups) > 1 else "method"
    goal = "as asked" if comparison.stated_target else "95 % of the best mean"
    target = "" if math.isnan(comparison.target) else f" Target {number_text(comparison.target)} ({goal})."
    numbered = "seeds" if len(seeds) > 1 else "seed"
    return f"{len(groups)} {several}, {rounds} rounds, {numbered} {names}.{target}{_tuned(comparison)}"


def _tuned(comparison: Comparison) -> str:
    """The origin of the methods' numbers, where some were chosen by trying."""
    choices = [
        f"{method}: {', '.join(f'{path} {value}' for path, value in how.chosen.items())}, best of {how.tried}"
        for method, how in comparison.tuned.items()
    ]
    plain = [method for method in comparison.methods if method not in comparison.tuned]
    untuned = f"; untuned: {', '.join(plain)}" if plain else ""
    return f" Tuned on held-out training examples: {'; '.join(choices)}{untuned}." if choices else ""


def _partition(found: Sequence[ReadRun]) -> tuple[Partition | str, int]:
    """The examples of each client in the first run whose data can be read, or the reason why not; and the seed."""
    first = min(found, key=lambda each: each.run.seed)
    seed = first.run.seed
    if first.runfile is None:
        return f"The run in {first.run.source} was made in Python, so where its data came from is not recorded.", seed
    try:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "run.toml"
            path.write_text(first.runfile, "utf-8")
            runfile = load_runfile(str(path), seed=seed)
        data = runfile.load_data()
        own = data.to(getattr(torch, runfile.sections.task.dtype)).fingerprint()
    except (HeadwayError, OSError) as error:
        return f"The data could not be read again, so who holds what is not shown: {_ended(str(error))}", seed
    if first.run.fingerprint not in (None, own):
        return "The data read now are not those that the run trained on, so who holds what is not shown.", seed
    return partition_of(data), seed


def _ended(words: str) -> str:
    return words if words.endswith(".") else f"{words}."

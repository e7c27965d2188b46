"""The contents of a folder: one run, or all trials of a comparison."""

from __future__ import annotations

import json
import math
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tomli_w

from headway.core.errors import RunFolderError
from headway.experiment.comparison import Comparison, Tuned
from headway.experiment.trials import TAIL, Trial, trial_folder
from headway.observe.run_folder import CONFIG, DATA_NOTES, IDENTITY, JOURNAL, read_identity
from headway.reports.ledger_reader import read_privacy
from headway.reports.naming import Numbers, flat_numbers
from headway.reports.page import DataNotes, Record, SeedRun, read_record

RESULTS = "results.json"


@dataclass(frozen=True)
class ReadRun:
    """One run, and what is needed to compare it with others.

    given: the method's name, where a comparison gave one.  tables: what was set; without a run file only the
    algorithm.  planned: the rounds that it was to have, where known.  trouble: why its journal is not shown.
    """

    run: SeedRun
    metric: str
    central: bool
    tables: Mapping[str, Any]
    path: Path
    given: str | None = None
    planned: int | None = None
    runfile: str | None = None
    trouble: str = ""

    @property
    def numbers(self) -> Numbers:
        """All that was set but the seed, by path."""
        return flat_numbers(self.tables)

    @property
    def drawn(self) -> bool | None:
        """Whether each seed draws the clients' data anew; `None` where that is not known."""
        data = self.tables.get("data")
        return None if data is None else data.get("partition") is not None


@dataclass(frozen=True)
class ComparisonNotes:
    """A comparison as it was written: its verdicts, and each client's value alone, federated and pooled."""

    comparison: Comparison
    sentences: tuple[str, ...] = ()
    gaps: tuple[tuple[str, float, float, float], ...] = ()


def find(path: Path) -> tuple[list[ReadRun], ComparisonNotes | None]:
    """The runs of a folder, and the comparison that they belong to, if it is one.

    Raises:
        RunFolderError: if it is neither a run nor a comparison, or is damaged, or holds no round.
    """
    if (path / RESULTS).is_file():
        return _of_comparison(path)
    if (path / IDENTITY).is_file():
        return [_of_run(path)], None
    if not path.exists():
        raise RunFolderError(f"{path} does not exist; name a folder that `headway run` or `headway compare` wrote.")
    raise RunFolderError(
        f"{path} is neither a run nor a comparison: it has no {IDENTITY} and no {RESULTS}; name a folder that "
        "`headway run` or `headway compare` wrote."
    )


def holds_runs(path: Path) -> bool:
    """Whether a folder is that of a run or a comparison, readable or not."""
    return (path / RESULTS).is_file() or (path / IDENTITY).is_file()


def _of_run(path: Path) -> ReadRun:
    identity = read_identity(path)
    text, tables = _runfile(path / CONFIG)
    record = read_record(path / JOURNAL, TAIL)
    try:
        seed = int(identity["seed"])
        algorithm, versions = dict(identity["algorithm"]), _texts(identity.get("versions", {}))
        fingerprint = str(identity["data"]) if "data" in identity else None
        metrics = (tables or {}).get("task", {}).get("metrics", [])
        planned, by_clock = ((tables or {}).get("run", {}).get(name) for name in ("rounds", "until_s"))
        plain = {**(tables or {}), "algorithm": algorithm}
        flat_numbers(plain)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise RunFolderError(
            f"{path / IDENTITY} is damaged ({_why(error)}); restore it from a copy, or leave the run out."
        ) from error
    kept = read_data_notes(path, bool(record.central))
    metric = kept.headline or (str(metrics[0]) if metrics else next(iter({**record.central, **record.clients}), "loss"))
    values = record.headline(metric)
    until, times = record.bytes_until(), record.clock.get("ended_s", {})
    rounds = tuple(round_ for round_ in values if round_ in until)
    if by_clock is not None and max(times.values(), default=0.0) >= by_clock:
        planned = None  # its time was over
    run = SeedRun(
        seed,
        rounds,
        tuple(values[r] for r in rounds),
        tuple(record.loss.get(r, math.nan) for r in rounds),
        tuple(until[r] for r in rounds),
        record.tails.get(metric, {}),
        failure=None if rounds else _never(metric, kept),
        record=record,
        source=str(path),
        fingerprint=fingerprint,
        versions=versions,
        simulated_s=tuple(times[r] for r in rounds) if all(r in times for r in rounds) else (),
        data=kept,
        privacy=read_privacy(path, record),
    )
    return ReadRun(run, metric, metric in record.central, plain, path, None, planned, text)


def _never(metric: str, kept: DataNotes) -> str:
    why = kept.undefined.get(metric)
    return f"{metric} is not defined: {why}." if why else f"{metric} has no value in any round."


def read_data_notes(path: Path, central: bool) -> DataNotes:
    """The facts of its data that a run folder keeps; none of one that was made before it was kept, or that is damaged.

    central: whether the run's metrics are those on the central test set.
    """
    try:
        kept = json.loads((path / DATA_NOTES).read_text("utf-8"))
        constant = kept.get("constant") or {}
        return DataNotes(
            tuple(map(str, kept.get("notes") or ())),
            tuple(map(str, kept.get("class_names") or ())),
            _texts(kept.get("undefined") or {}),
            str(constant.get("answer", "")),
            {
                str(name): _number(value)
                for name, value in constant.get("central" if central else "clients", {}).items()
            },
            kept.get("headline"),
        )
    except (OSError, ValueError, TypeError, AttributeError):
        return DataNotes()


def _runfile(path: Path) -> tuple[str | None, dict[str, Any] | None]:
    """The run file's text and tables; nothing for a run that was made in Python."""
    if not path.is_file():
        return None, None
    try:
        text = path.read_text("utf-8")
        tables = tomllib.loads(text)
        for name, table in tables.items():
            if not isinstance(table, dict):
                raise ValueError(f"{name} is no table")
        return text, tables
    except (ValueError, OSError) as error:
        raise RunFolderError(f"{path} is damaged ({error}); restore it from a copy, or leave the run out.") from error


def _why(error: Exception) -> str:
    return f"{error} is missing" if isinstance(error, KeyError) else str(error)


def _texts(table: Mapping[str, Any]) -> dict[str, str]:
    return {str(name): str(value) for name, value in table.items()}


def _of_comparison(path: Path) -> tuple[list[ReadRun], ComparisonNotes]:
    file = path / RESULTS
    try:
        results = json.loads(file.read_text("utf-8"))
        comparison = read_comparison(results["comparison"])
        # a method that was refused has no run file
        methods = {name: dict(results["methods"].get(name, {})) for name in comparison.methods}
        for tables in methods.values():
            flat_numbers(tables)
        gaps = tuple(
            (str(gap["client"]), _number(gap["alone"]), _number(gap["federated"]), _number(gap["pooled"]))
            for gap in results.get("gaps", [])
        )
        notes = ComparisonNotes(comparison, tuple(map(str, results.get("sentences", []))), gaps)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise RunFolderError(f"{file} is damaged ({_why(error)}); restore it from a copy, or compare anew.") from error
    if not comparison.trials:
        raise RunFolderError(f"{file} holds no trial, so there is nothing to report; compare anew.")
    return [_of_trial(path, comparison, trial, methods[trial.method]) for trial in comparison.trials], notes


def _of_trial(path: Path, comparison: Comparison, trial: Trial, tables: Mapping[str, Any]) -> ReadRun:
    """A trial with its journal, where the comparison kept one that can be read."""
    folder = trial_folder(path, trial.method, trial.seed)
    record: Record | None = None
    fingerprint, versions, text, trouble = None, None, tomli_w.dumps(tables) if tables else None, ""
    if (folder / IDENTITY).is_file():
        try:
            identity = read_identity(folder)
            fingerprint, versions = str(identity.get("data", "")) or None, _texts(identity.get("versions", {}))
            text = _runfile(folder / CONFIG)[0] or text
            if trial.rounds or (folder / JOURNAL).is_file():
                record = read_record(folder / JOURNAL, TAIL)
        except RunFolderError as error:
            trouble = "" if trial.failure and not trial.rounds else str(error)
    run = SeedRun(
        trial.seed,
        trial.rounds,
        trial.values,
        trial.losses,
        trial.bytes_total,
        trial.clients,
        trial.failure,
        record,
        str(folder if record is not None else path),
        fingerprint,
        versions,
        trial.simulated_s,
        read_data_notes(folder, comparison.central),
        None if record is None else read_privacy(folder, record),
    )
    return ReadRun(run, comparison.metric, comparison.central, tables, path, trial.method, None, text, trouble)


def read_comparison(table: Mapping[str, Any]) -> Comparison:
    """The comparison that `headway compare` wrote as JSON; null stands for what was not a number.

    Raises:
        KeyError, TypeError, ValueError: if it is not one.
    """
    return Comparison(
        name=str(table["name"]),
        metric=str(table["metric"]),
        central=bool(table["central"]),
        trials=tuple(_trial(each) for each in table["trials"]),
        methods=tuple(map(str, table["methods"])),
        seeds=int(table["seeds"]),
        target=_number(table["target"]),
        stated_target=bool(table["stated_target"]),
        description=str(table.get("description", "")),
        drawn=bool(table.get("drawn", False)),
        budget=math.inf if table.get("budget") is None else float(table["budget"]),
        bounds={str(name): tuple(map(_trial, trials)) for name, trials in table.get("bounds", {}).items()},
        tuned={
            str(name): Tuned(int(how["tried"]), dict(how["chosen"]), _number(how["score"]))
            for name, how in table.get("tuned", {}).items()
        },
        time_budget=math.inf if table.get("time_budget") is None else float(table["time_budget"]),
    )


def _trial(table: Mapping[str, Any]) -> Trial:
    trial = Trial(
        str(table["method"]),
        int(table["seed"]),
        tuple(int(round_) for round_ in table["rounds"]),
        _floats(table["values"]),
        _floats(table["losses"]),
        tuple(int(count) for count in table["bytes_total"]),
        {str(client): _number(value) for client, value in table["clients"].items()},
        None if table["failure"] is None else str(table["failure"]),
        _floats(table.get("simulated_s", ())),
    )
    columns = (trial.values, trial.losses, trial.bytes_total, trial.simulated_s or trial.rounds)
    if any(len(column) != len(trial.rounds) for column in columns):
        raise ValueError(f"the trial of {trial.method} at seed {trial.seed} has columns of different lengths")
    return trial


def _floats(values: Sequence[Any]) -> tuple[float, ...]:
    return tuple(map(_number, values))


def _number(value: Any) -> float:
    return math.nan if value is None else float(value)

"""`headway run` and `headway resume`."""

from __future__ import annotations

import math
import shlex
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any

import torch
import typer
from rich.console import Console
from rich.markup import escape

from headway.cli.header import heading_record, show_heading
from headway.cli.run_page import RunPage, run_page
from headway.core import stopping
from headway.core.errors import RunFolderError
from headway.experiment.run import Run
from headway.experiment.runfile import RunFile, load_runfile
from headway.numerics.units import time_text
from headway.observe.alarms import Lines
from headway.observe.journal import Journal
from headway.observe.progress import Meter
from headway.observe.round_report import RoundReport
from headway.observe.run_folder import CONFIG, JOB, JOURNAL, read_identity, writing
from headway.observe.text import bytes_text, console, emit, metric_text, name_text, number_text, plain_table, show_table

EVALUATION_S, EVALUATION_SHARE = 30.0, 0.4  # evaluation that takes longer, and more of the time, is mentioned


def run_file(
    name: str,
    sets: Sequence[str],
    seed: int | None,
    rounds: int | None,
    out: Path | None,
    as_json: bool,
    watch: int | None = None,
) -> None:
    """Trains the run of a run file.

    watch: the port of the live page, 0 for a free one; `None` for no page.
    """
    runfile = load_runfile(name, sets, seed=seed, rounds=rounds)
    _set_threads(runfile)
    place = nullcontext(out) if out else free_folder(Path("runs") / f"{runfile.name}-s{runfile.sections.run.seed}")
    with run_page(runfile, watch) as page:
        with stopping.noticed("No round had been trained."), place as folder:
            run = runfile.start(folder, observers=page.observers)
        _train(run, runfile, folder, as_json, page)


def resume_folder(
    folder: Path, sets: Sequence[str], rounds: int | None, as_json: bool, watch: int | None = None
) -> None:
    """Goes on with a run; watch: see `run_file`.

    Raises:
        RunFolderError: if the folder is none, or was changed.
    """
    read_identity(folder)
    if not (folder / CONFIG).is_file():
        raise RunFolderError(
            f"{folder} has no {CONFIG}: the run was made in Python, and is resumed there with Run(..., resume=True)."
        )
    if (folder / JOB).is_file():
        raise RunFolderError(
            f"{folder} is the run of a server: `headway serve FILE --out {shlex.quote(str(folder))}` goes on with it, "
            "with the federation's file and the options of before."
        )
    runfile = load_runfile(str(folder / CONFIG), sets, rounds=rounds)
    with run_page(runfile, watch) as page:
        run = runfile.start(folder, resume=True, observers=page.observers)
        _go_on(run, runfile, folder, as_json, page)


def _go_on(run: Run, runfile: RunFile, folder: Path, as_json: bool, page: RunPage) -> None:
    """Trains the rounds that are left, if there are some."""
    if run.finished:
        if as_json:
            because = {"because": run.stopped_because} if run.stopped_because else {}
            emit({"event": "complete", "round": run.state.round, "folder": str(folder), **because})
        else:
            if run.stopped_because:
                console().print(f"{folder} has ended: {run.stopped_because}", markup=False, soft_wrap=True)
                run.close()
                return
            done = f"{run.state.round} of {run.rounds}" if run.state.round <= run.rounds else str(run.state.round)
            more = "" if run.state.round <= run.rounds else f", more than the {run.rounds} that were asked for"
            console().print(f"{folder} is complete: {done} rounds are done{more}.")
        run.close()
        return
    _train(run, runfile, folder, as_json, page)


def _set_threads(runfile: RunFile) -> None:
    if runfile.sections.run.threads is not None:
        torch.set_num_threads(runfile.sections.run.threads)


def free_path(path: Path) -> Path:
    """The path, or the next one with a number that is not taken."""
    number, free = 1, path
    while free.exists():
        number += 1
        free = path.with_name(f"{path.name}-{number}")
    return free


@contextmanager
def free_folder(path: Path) -> Iterator[Path]:
    """An empty folder at the path, or at the next one with a number that is free; no other process gets the same.

    What stays empty is removed.
    """
    made: list[Path] = []
    while True:
        path = free_path(path)
        try:
            with writing(path):
                made = [folder for folder in path.parents if not folder.exists()]
                path.parent.mkdir(parents=True, exist_ok=True)
            path.mkdir()
            break
        except FileExistsError:  # another process was faster
            continue
        except OSError as error:
            with writing(path):
                raise error

    def clear() -> None:
        with suppress(OSError):  # what holds something stays
            for folder in (path, *made):
                folder.rmdir()

    with stopping.undoing(clear):
        try:
            yield path
        except BaseException:
            clear()
            raise


def _meter(screen: Console, run: Run) -> Meter:
    """Counts rounds; or simulated seconds, where these end the run."""
    if run.until_s is None:
        return Meter(screen, "round", run.rounds, run.state.round)
    return Meter(screen, "simulated second", math.ceil(run.until_s), int(run.engine.now))


def _train(run: Run, runfile: RunFile, folder: Path, as_json: bool, page: RunPage) -> None:
    screen = console()
    known = heading_record(run, runfile, folder)
    if not as_json:
        show_heading(screen, run, runfile, folder)
    page.begin(run)
    if page.url and as_json:
        emit({"event": "watch", "url": page.url})
    elif page.url:
        screen.print(f"  watch   {page.url}", markup=False, soft_wrap=True)
    report: RoundReport | None = None
    lines, spent = Lines(), Spent()
    kept = f"The run is kept; go on with: {_how(folder)}"
    with _interruptible(screen, folder, as_json), stopping.deferred(kept), _meter(screen, run) as meter:
        try:
            for report in run:
                spent.add(report)
                if as_json:
                    emit(_record(report))
                else:
                    _warn(meter, report, lines)
                    meter.reach(report.round if run.until_s is None else int(run.engine.now), _news(report, run))
        finally:
            run.close()
    assert report is not None
    if as_json:
        emit({"event": "done", "round": report.round, "folder": str(folder), "best": run.notes["best"], **known})
    else:
        _footer(screen, run, report, folder)
        if (line := spent.line()) is not None:
            screen.print(line, soft_wrap=True)
        if (summary := lines.summary()) is not None:
            screen.print(f"[yellow]{escape(summary)}[/yellow] The journal has them round by round.", soft_wrap=True)


class Spent:
    """The seconds of a run, in training and in evaluation."""

    def __init__(self) -> None:
        self.training = self.evaluation = 0.0

    def add(self, report: RoundReport) -> None:
        """A round."""
        self.training += report.seconds
        self.evaluation += report.evaluation_seconds

    def line(self) -> str | None:
        """A sentence, where evaluation took long and a good part of the time."""
        share = self.evaluation / max(self.training + self.evaluation, 1e-9)
        if self.evaluation < EVALUATION_S or share < EVALUATION_SHARE:
            return None
        return (
            f"Evaluation took {time_text(self.evaluation)}, {100 * share:.0f} % of the run: with "
            "run.evaluate_every = 10 it takes a tenth of that."
        )


@contextmanager
def _interruptible(screen: Console, folder: Path, as_json: bool) -> Iterator[None]:
    """Prints the command that goes on, if a signal ends the run."""
    try:
        yield
    except (KeyboardInterrupt, stopping.Stopped) as stopped:
        if as_json:
            emit({"event": "interrupted", "resume": _how(folder)})
        else:
            screen.print(f"Stopped; the run is kept. Go on with: [bold]{escape(_how(folder))}[/bold]", soft_wrap=True)
        raise typer.Exit(getattr(stopped, "exit_code", 130)) from None


def _how(folder: Path) -> str:
    """The command that goes on with a run."""
    return f"headway resume {shlex.quote(str(folder))}"


def _warn(meter: Meter, report: RoundReport, lines: Lines) -> None:
    for client in report.clients.with_status("rejected"):
        who, why = escape(name_text(client.client)), escape(client.reason)
        meter.say(f"[yellow]round {report.round}: the update of {who} was rejected:[/] {why}")
    for note in report.notes:
        meter.say(f"[yellow]round {report.round}:[/] {escape(note)}")
    if not report.count("counted"):
        why = "no client was counted" if len(report.clients) else "the round is empty: no client was drawn"
        meter.say(f"[yellow]round {report.round}: {why}, so nothing was learned.[/]")
    for line in lines.of(report.round, report.alarms):
        meter.say(f"[yellow]round {report.round}:[/] {escape(line)}")


def _news(report: RoundReport, run: Run) -> str:
    parts = [] if report.train_loss is None else [f"loss {number_text(report.train_loss)}"]
    name = run.facts.headline
    if (value := report.headline(name)) is not None:
        parts.append(f"{name} {number_text(value)}")
    if report.clock:
        parts.append(f"{time_text(report.clock['ended_s'])} simulated")
    if run.ledger is not None:
        parts.append(run.ledger.spent(report.round).summary)
    return "  ".join([*parts, f"{bytes_text(report.bytes_up + report.bytes_down)} a round"])


def _record(report: RoundReport) -> dict[str, Any]:
    """A round as JSON."""
    return {
        "event": "round",
        "round": report.round,
        "train_loss": report.train_loss,
        "lr": report.lr,
        "metrics": dict(report.metrics),
        "central": dict(report.central),
        "drift": dict(report.drift),
        "clock": dict(report.clock),
        "privacy": dict(report.privacy),
        "reputation": dict(report.reputation),
        "quarantine": dict(report.quarantine),
        "alarms": [
            {"kind": a.kind, "clients": list(a.clients), "clusters": list(map(list, a.clusters)), "text": a.text}
            for a in report.alarms
        ],
        "notes": list(report.notes),
        "counted": report.count("counted"),
        "rejected": {c.client: c.reason for c in report.clients.with_status("rejected")},
        "dropped": list(report.clients.with_status("dropped").clients),
        "bytes_up": report.bytes_up,
        "bytes_down": report.bytes_down,
        "seconds": report.seconds,
    }


def _final_rows(run: Run, report: RoundReport, names: Sequence[str]) -> list[list[str]]:
    """The last evaluation: of each client, of all together and of the central test set, beside a constant answer's."""
    rows = [
        [client, str(len(run.data.test[client])), *(metric_text(scores.get(name)) for name in names)]
        for client, scores in list(report.evaluation.items())[:20]
    ]
    if len(report.evaluation) > 20:
        rows.append([f"... {len(report.evaluation) - 20} more in the journal"])
    constant, nothing = run.facts.constant, dict.fromkeys(run.facts.undefined, math.nan)
    if report.metrics:
        asked = report.evaluation
        total = sum(len(run.data.test[client]) for client in asked) if asked else int(run.data.test_sizes.sum())
        rows.append(["all clients", str(total), *(metric_text(report.metrics.get(name, math.nan)) for name in names)])
        if constant.clients:
            rows.append(
                [
                    f"({constant.answer})",
                    "",
                    *(metric_text({**nothing, **constant.clients}.get(name)) for name in names),
                ]
            )
    if run.data.central is not None:
        rows.append(
            ["central test", str(len(run.data.central)), *(metric_text(report.central.get(name)) for name in names)]
        )
        if constant.central:
            rows.append(
                [
                    f"({constant.answer})",
                    "",
                    *(metric_text({**nothing, **constant.central}.get(name)) for name in names),
                ]
            )
    return rows


def _empty_rounds(screen: Console, folder: Path) -> None:
    """Prints the number of rounds in which no client counted, where there are some."""
    journal = Journal(folder / JOURNAL)
    try:
        total, empty = journal.empty_rounds()
    finally:
        journal.close()
    if empty:
        whole = " Nothing was learned: this is the initial model." if empty == total else ""
        screen.print(f"[yellow]{empty} of {total} rounds counted no client.[/]{whole}", soft_wrap=True)


def _footer(screen: Console, run: Run, report: RoundReport, folder: Path) -> None:
    names = [*run.task.metric_names, "loss"]
    if rows := _final_rows(run, report, names):
        screen.print()
        show_table(screen, plain_table(["on the test part of", "examples", *names], rows))
    if "headway" in report.drift:
        along, across = number_text(report.drift["headway"]), number_text(report.drift["leeway"])
        screen.print(
            f"\nIn the last round a client's update went {along} along the cohort's common direction (headway) and "
            f"{across} across it (leeway), on average.",
            soft_wrap=True,
        )
    _empty_rounds(screen, folder)
    if report.clock:
        _clocked(screen, folder)
    best = run.notes["best"]
    if best is not None:
        screen.print(f"\nBest {best['metric']}: {number_text(best['value'])}, in round {best['round']}.")
    if run.ledger is not None:
        for line in run.ledger.lines():
            screen.print(line, markup=False, soft_wrap=True)
        screen.print(
            f"Computed again by other means: headway privacy verify {shlex.quote(str(folder))}", soft_wrap=True
        )
    screen.print(f"The run is in {folder}: resume it for more rounds, or `headway export {folder}`.")
    screen.print(f"Curves, drift and clients on one page: headway report {shlex.quote(str(folder))}", soft_wrap=True)


def _clocked(screen: Console, folder: Path) -> None:
    """Prints the costs of the run by its simulated clock, and which clients counted."""
    journal = Journal(folder / JOURNAL)
    try:
        work = journal.work()
    finally:
        journal.close()
    if work is None:
        return
    total = work.counted_s + work.vain_s
    vain = f", {time_text(work.vain_s)} of it in vain ({work.vain_s / total * 100:.0f} %)" if total else ""
    aged = f" Counted updates were {work.mean_age:.2g} rounds old on average." if any(work.ages) else ""
    screen.print(
        f"\nBy the simulated clock the run took {time_text(work.ends[-1])}. Clients worked {time_text(total)} together"
        f"{vain}.{aged}",
        soft_wrap=True,
    )
    never = round(work.never * work.clients)
    who = f"{never} of {work.clients} clients never counted" if never else f"Each of {work.clients} clients counted"
    screen.print(
        f"{who}; Jain's index of how often each did: {number_text(work.jain)} (1 where all counted alike).",
        soft_wrap=True,
    )

"""The trials of a comparison as they run: on the screen with a meter, or as JSON."""

from __future__ import annotations

import dataclasses
import shlex
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import typer
from rich.console import Console
from rich.markup import escape

from headway.core import stopping
from headway.data import FederatedData
from headway.experiment.runfile import RunFile
from headway.experiment.trials import Trial
from headway.observe.data_notes import reading_facts, reading_lines
from headway.observe.progress import Meter
from headway.observe.text import console, emit

Steps = Iterator[Trial | tuple[str, int]]


class TrialProgress:
    """Runs trials with a meter, on the screen or as JSON."""

    def __init__(self, folder: Path, workers: int, as_json: bool) -> None:
        self.folder, self.as_json, self.workers = folder, as_json, workers
        self.screen = console()
        self.known: dict[str, Any] = {}  # for the last object of `--json`

    @property
    def _how(self) -> str:
        return f"Go on with the same command and --out {shlex.quote(str(self.folder))}"

    def say(self, line: str) -> None:
        """A line for a reader."""
        if not self.as_json:
            self.screen.print(line)

    def begin(self, name: str, methods: list[str], length: str, data: FederatedData, warnings: list[str]) -> None:
        """Prints what is known before the first trial: methods, how the data were read, warnings."""
        self.known = {"data": data.name, "reading": reading_facts(data), "warnings": warnings}
        if self.as_json:
            return
        self.screen.print(f"[bold]{escape(name)}[/bold]: {', '.join(methods)}; {length}", soft_wrap=True)
        for line in reading_lines(data):
            self.screen.print(line, markup=False, soft_wrap=True)
        for line in warnings:
            self.screen.print(f"[yellow]{escape(line)}[/yellow]", soft_wrap=True)

    def trials(self, start: Callable[[], Steps], count: int, runfile: RunFile, shown: bool = True) -> list[Trial]:
        """All trials of `count` runs, when they are done."""
        steps, found = start(), []
        quiet = Console(quiet=True) if self.as_json else self.screen
        try:
            by_clock = runfile.sections.run.until_s is not None  # the number of rounds is not known then
            what, total = ("run", count) if by_clock else ("round", count * runfile.sections.run.rounds)
            with stopping.deferred(self._how), Meter(quiet, what, total) as meter:
                for step in steps:
                    if not isinstance(step, Trial):
                        if not by_clock:
                            meter.step(f"{step[0]}, seed {step[1]}")
                        continue
                    found.append(step)
                    if by_clock:
                        meter.step(f"{step.method}, seed {step.seed}")
                    if step.failure:
                        meter.say(f"[yellow]{step.method}, seed {step.seed}, stopped:[/yellow] {escape(step.failure)}")
                    if self.as_json and shown:
                        emit({"event": "trial", **dataclasses.asdict(step), "final": step.final})
        except (KeyboardInterrupt, stopping.Stopped) as stopped:
            steps.close()  # type: ignore[attr-defined]
            self.screen.print(f"Stopped. {self._how}", soft_wrap=True, markup=False)
            raise typer.Exit(getattr(stopped, "exit_code", 130)) from None
        return found

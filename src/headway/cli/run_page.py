"""The live page of `headway run` and `headway resume`: it exists while the run does."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import typer

from headway.experiment.run import Run
from headway.experiment.runfile import RunFile
from headway.observe.observer import Observer


class RunPage:
    """A live page, or none.

    observers: what a run needs to be shown on it.  url: its address, once the run has begun.
    """

    observers: Sequence[Observer] = ()
    url = ""

    def begin(self, run: Run) -> None:
        """Shows a run that is ready."""


class ServedPage(RunPage):
    """A live page on this machine.

    port: 0 for a free one.

    Raises:
        ConfigError: if the port is in use.
    """

    def __init__(self, name: str, rounds: int, port: int) -> None:
        from headway.federation.operations.run_watch import RunWatch

        self.watch = RunWatch(name, rounds, port)
        self.watch.bind()
        self.observers = (self.watch.observer,)

    def begin(self, run: Run) -> None:
        """Shows a run that is ready."""
        self.url = self.watch.begin(run)

    def end(self, error: BaseException | None) -> None:
        """Shows how the run ended, and ends the page."""
        self.watch.end(error, stopped=isinstance(error, typer.Exit))


@contextmanager
def run_page(runfile: RunFile, port: int | None) -> Iterator[RunPage]:
    """The live page of a run at a port, 0 for a free one; or none."""
    if port is None:
        yield RunPage()
        return
    page = ServedPage(runfile.name, runfile.sections.run.rounds, port)
    try:
        yield page
    except BaseException as error:
        page.end(error)
        raise
    page.end(None)

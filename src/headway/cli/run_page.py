"""The live page of `headway run` and `headway resume`: it exists while the run does."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import typer

from headway.core.errors import HeadwayError
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
        from headway.federation.operations.page_server import PageServer
        from headway.federation.operations.status_board import StatusBoard, StatusObserver

        self.board = StatusBoard("simulation", name, rounds)
        self.server = PageServer(self.board, port)
        self.observers = (StatusObserver(self.board),)
        self.run: Run | None = None

    def begin(self, run: Run) -> None:
        """Shows a run that is ready.  Its workers are there by now: none is made with the page's thread around."""
        from headway.federation.operations.run_facts import describe_run

        describe_run(self.board, run)
        self.board.set_state("running")
        self.board.set_phase("training", f"round {run.state.round + 1}")
        self.run, self.url = run, self.server.url
        self.server.start()

    def end(self, error: BaseException | None) -> None:
        """Shows how the run ended, and ends the page."""
        if isinstance(error, (HeadwayError, OSError)):
            self.board.set_state("failed", str(error))
        elif isinstance(error, Exception) and not isinstance(error, typer.Exit):
            self.board.set_state("failed", f"{type(error).__name__}: {error}")
        elif error is not None:
            self.board.set_state("stopped", "it was interrupted, and can be resumed")
        else:
            self.board.set_state("finished", "" if self.run is None else self.run.stopped_because)
        self.server.stop()


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

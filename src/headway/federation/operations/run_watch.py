"""The live page of a run of this process: it exists while the run does."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from headway.core.errors import HeadwayError
from headway.experiment.run import Run
from headway.federation.operations.page_server import PageServer
from headway.federation.operations.run_facts import describe_run
from headway.federation.operations.status_board import StatusBoard, StatusObserver


class RunWatch:
    """A live page for a run, on this machine alone.

    name, rounds: of the run, as the page shows them.  port: 0 for a free one.  observer: for `Run(observers=...)`.

    >>> watch = RunWatch("mine", rounds=20)  # doctest: +SKIP
    >>> run = hw.Run(algorithm, data, task, rounds=20, observers=[watch.observer])  # doctest: +SKIP
    >>> with watch.serving(run) as url:  # doctest: +SKIP
    ...     print(url)
    ...     reports = list(run)
    """

    def __init__(self, name: str, rounds: int, port: int = 0) -> None:
        self.board = StatusBoard("simulation", name, rounds)
        self.observer = StatusObserver(self.board)
        self.port = port
        self.server: PageServer | None = None
        self._run: Run | None = None

    def bind(self) -> PageServer:
        """Takes the port, before the run is made; whoever opens the page waits until it has begun.

        Raises:
            ConfigError: if it is in use.
        """
        if self.server is None:
            self.server = PageServer(self.board, self.port)
        return self.server

    def begin(self, run: Run) -> str:
        """Serves the page of a run that is ready; its address, with the token.

        The workers of the run are there by now: none is made with the page's thread around.
        """
        describe_run(self.board, run)
        self.board.set_state("running")
        self.board.set_phase("training", f"round {run.state.round + 1}")
        self._run, server = run, self.bind()
        server.start()
        return server.url

    def end(self, error: BaseException | None = None, stopped: bool = False) -> None:
        """Shows how the run ended, and ends the page.

        error: what ended it, if something did.  stopped: whether that was an interruption.
        """
        if error is None:
            self.board.set_state("finished", "" if self._run is None else self._run.stopped_because)
        elif stopped or not isinstance(error, Exception):
            self.board.set_state("stopped", "it was interrupted, and can be resumed")
        else:
            known = isinstance(error, (HeadwayError, OSError))
            self.board.set_state("failed", str(error) if known else f"{type(error).__name__}: {error}")
        if self.server is not None:
            self.server.stop()

    @contextmanager
    def serving(self, run: Run) -> Iterator[str]:
        """Serves the page while the run goes on; its address."""
        try:
            yield self.begin(run)
        except BaseException as error:
            self.end(error)
            raise
        self.end()

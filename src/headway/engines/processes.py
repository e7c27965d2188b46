"""The Processes engine: worker processes that train units of clients and return one sum each."""

from __future__ import annotations

import json
import os
import signal
import sys
import warnings
from collections.abc import Iterator, Sequence
from multiprocessing import Pipe
from multiprocessing.connection import Connection, wait
from typing import Any, ClassVar, Literal

from headway.core.ask import Ask
from headway.core.errors import ConfigError
from headway.core.total import Total
from headway.engines.dispatch import Hand, Lost, Unit, Work, WorkerEngine
from headway.engines.engine import Job
from headway.engines.worker import Areas, read_total, read_work, start


class _Hand(Hand):
    """A worker process, and this end of its pipe."""

    named: ClassVar[str] = "a worker process"

    def __init__(self, number: int, pid: int, pipe: Connection, areas: Areas) -> None:
        super().__init__(number)
        self.pid, self.pipe, self.areas = pid, pipe, areas

    def give(self, ask: Ask, unit: Unit) -> None:
        """Asks it by the pipe."""
        own = ask.of(unit.clients)
        request = {"unit": unit.clients, "first": unit.first, "cohort": len(ask.cohort), "attempt": ask.attempt}
        earlier = {client: version.round for client, version in own.earlier.items()}
        self._ask({**request, "messages": self.areas.places(own), "earlier": earlier, "steps": dict(own.steps)})

    def work(self, unit: Unit) -> Work | None:
        """Reads its answer, and what it has written to shared memory."""
        reply = self._answer()
        return None if "failed" in reply else read_work(reply, unit.clients, unit.first, self.areas)

    def total(self) -> Total | None:
        """Its sum, as views of shared memory."""
        self._ask({"sum": True})
        reply = self._answer()
        return None if "failed" in reply else read_total(reply, self.areas.sums[self.number])

    def bury(self) -> str:
        """Waits for its end."""
        how = _reap(self.pid)
        self.pipe.close()
        return how

    def _ask(self, request: dict[str, Any]) -> None:
        try:
            self.pipe.send_bytes(json.dumps(request).encode())
        except OSError as error:
            raise Lost from error

    def _answer(self) -> dict[str, Any]:
        try:
            reply: dict[str, Any] = json.loads(self.pipe.recv_bytes())
        except (EOFError, OSError) as error:
            raise Lost from error
        return reply


class ProcessEngine(WorkerEngine):
    """Clients in worker processes on this machine, each with one thread, over shared memory.

    The data are loaded once.  A worker returns one exact sum a round, so the result has the same bits for any number
    of workers; one that dies is replaced, its clients train again, and the result does not change.  What fails in a
    worker is run again in this process, where it fails under your debugger.

    workers: how many processes; `None` for one per core.  The others are as in `LocalEngine`.

    Raises:
        ConfigError: for a number below 1; when opened, where processes cannot be forked.
    """

    title: ClassVar[str] = "Processes"
    worker: ClassVar[tuple[str, str]] = ("worker process", "worker processes")

    def __init__(
        self,
        workers: int | None = None,
        *,
        lanes: int | Literal["auto"] = "auto",
        drift: bool = True,
        low_rank: bool | None = None,
        channels_last: bool | None = None,
        compiled: bool | None = None,
    ) -> None:
        super().__init__(cores() if workers is None else workers, lanes, drift, low_rank, channels_last, compiled)
        self.areas: Areas | None = None

    @property
    def hands(self) -> list[_Hand]:
        """The workers."""
        return [hand for hand in self.crew if isinstance(hand, _Hand)]

    def open(self, job: Job) -> None:
        """Makes ready; the workers start with the first round."""
        if not hasattr(os, "fork") or sys.platform == "darwin":
            raise ConfigError(
                "worker processes share the data by forking, which this system does not do safely: leave workers out."
            )
        super().open(job)
        job.memory.declare(self.runner.runner.first_memory())

    def close(self) -> None:
        """Stops the workers."""
        for hand in self.hands:
            hand.pipe.close()
        for hand in self.hands:
            _reap(hand.pid)
        self.crew, self.areas = [], None

    def prepare(self, ask: Ask) -> None:
        """Shared memory for the round, and the messages in it."""
        if self.areas is None or not self.areas.fit(ask):
            self.close()
            self.areas = Areas.of(ask, self.runner, self.workers)
        self.areas.write(ask)

    def hire(self, number: int, instead: bool = False) -> _Hand:
        """Forks a worker."""
        assert self.areas is not None
        ours, theirs = Pipe()
        with warnings.catch_warnings():  # Python warns that threads are not there after a fork: none is needed
            warnings.simplefilter("ignore", DeprecationWarning)
            sys.stdout.flush()
            pid = start(number, theirs, self.runner, self.areas, [ours, *(hand.pipe for hand in self.hands)])
        theirs.close()
        return _Hand(number, pid, ours, self.areas)

    def ready(self, busy: Sequence[Hand]) -> Iterator[Hand]:
        """Waits for their pipes."""
        by_pipe = {hand.pipe: hand for hand in busy if isinstance(hand, _Hand)}
        for pipe in wait(list(by_pipe)):
            assert isinstance(pipe, Connection)
            yield by_pipe[pipe]

    def kill(self) -> None:
        """Stops the workers at once, whatever they are at."""
        for hand in self.hands:
            os.kill(hand.pid, signal.SIGKILL)
        self.close()


def cores() -> int:
    """How many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _reap(pid: int) -> str:
    """Waits for a process to end; how it ended, as a phrase."""
    try:
        _, status = os.waitpid(pid, 0)
    except ChildProcessError:
        return "for a reason that is not known"
    if os.WIFSIGNALED(status):
        return f"by signal {signal.Signals(os.WTERMSIG(status)).name}"
    return f"with exit code {os.waitstatus_to_exitcode(status)}"

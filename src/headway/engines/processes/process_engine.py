"""The Processes engine: worker processes that train units of clients and return one sum each."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
import time
import warnings
from collections.abc import Iterator, Sequence
from multiprocessing import Pipe
from multiprocessing.connection import Connection, wait
from typing import Any, ClassVar, Literal

from headway.core import stopping
from headway.core.errors import ConfigError, HeadwayError
from headway.engines.engine import Job
from headway.engines.processes.worker import Areas, read_total, read_work, start
from headway.engines.worker_pool import Lost, Unit, WorkerEngine, WorkerHandle, WorkerTask, some_of
from headway.protocol.messages import Ask
from headway.protocol.sums import ExactTotal

CLOSING_S = 2.0  # for workers that have been told to end


class ProcessHandle(WorkerHandle):
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

    def work(self, unit: Unit) -> WorkerTask | None:
        """Reads its answer, and what it has written to shared memory."""
        reply = self._answer()
        return None if "failed" in reply else read_work(reply, unit.clients, unit.first, self.areas)

    def total(self) -> ExactTotal | None:
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
            while not self.pipe.poll(stopping.TICK_S):
                stopping.check()
            reply: dict[str, Any] = json.loads(self.pipe.recv_bytes())
        except (EOFError, OSError) as error:
            raise Lost from error
        return reply


class ProcessEngine(WorkerEngine):
    """Clients in worker processes on this machine, each with one thread, over shared memory.

    The data are loaded once.  A worker returns one exact sum a round, so the result has the same bits for any number
    of workers; one that dies is replaced, its clients train again, and the result does not change.  What fails in a
    worker is run again in this process, where it fails under your debugger.

    workers: how many processes; `None` for one per core.  client_timeout: seconds after which a client that has not
    ended is taken to hang, and the run stops with its name; `None` waits for ever.  The others are as in `LocalEngine`.

    Raises:
        ConfigError: for a number below 1 or a time not above 0; when opened, where processes cannot be forked; in a
            run, if a client takes longer than `client_timeout`.
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
        client_timeout: float | None = None,
    ) -> None:
        super().__init__(cores() if workers is None else workers, lanes, drift, low_rank, channels_last, compiled)
        if client_timeout is not None and not 0 < client_timeout < float("inf"):
            raise ConfigError(f"client_timeout must be above 0 seconds, or None, found {client_timeout!r}.")
        self.client_timeout = client_timeout
        self.areas: Areas | None = None

    @property
    def hands(self) -> list[ProcessHandle]:
        """The workers."""
        return [hand for hand in self.crew if isinstance(hand, ProcessHandle)]

    def open(self, job: Job) -> None:
        """Makes ready; the workers start with the first round."""
        if not hasattr(os, "fork") or sys.platform == "darwin":
            raise ConfigError(
                "worker processes share the data by forking, which this system does not do safely: leave workers out."
            )
        super().open(job)
        job.memory.declare(self.execution.setup.participant.first_memory())

    def close(self) -> None:
        """Stops the workers; those that do not end by themselves are killed."""
        for hand in self.hands:
            hand.pipe.close()
        until = time.monotonic() + CLOSING_S
        for hand in self.hands:
            _end(hand.pid, until)
        self.crew, self.areas = [], None

    def prepare(self, ask: Ask) -> None:
        """Shared memory for the round, and the messages in it."""
        if self.areas is None or not self.areas.fit(ask):
            self.close()
            self.areas = Areas.of(ask, self.execution.setup, self.workers)
        self.areas.write(ask)

    def hire(self, number: int, instead: bool = False) -> ProcessHandle:
        """Forks a worker."""
        assert self.areas is not None
        ours, theirs = Pipe()
        with warnings.catch_warnings():  # Python warns that threads are not there after a fork: none is needed
            warnings.simplefilter("ignore", DeprecationWarning)
            sys.stdout.flush()
            pid = start(number, theirs, self.groups, self.areas, [ours, *(hand.pipe for hand in self.hands)])
        theirs.close()
        return ProcessHandle(number, pid, ours, self.areas)

    def ready(self, busy: Sequence[WorkerHandle]) -> Iterator[WorkerHandle]:
        """Waits for their pipes."""
        by_pipe = {hand.pipe: hand for hand in busy if isinstance(hand, ProcessHandle)}
        while not (found := wait(list(by_pipe), stopping.TICK_S)):
            stopping.check()
            self._check_time(busy)
        for pipe in found:
            assert isinstance(pipe, Connection)
            yield by_pipe[pipe]

    def _check_time(self, busy: Sequence[WorkerHandle]) -> None:
        """Stops a run in which a client hangs.

        Raises:
            HeadwayError: naming the client, or those of which it is one.
        """
        for hand in busy:
            if self.client_timeout is None or hand.busy is None:
                continue
            limit = self.client_timeout * len(hand.busy.clients)
            if (spent := time.monotonic() - hand.since) > limit:
                who = some_of(hand.busy.clients)
                raise HeadwayError(
                    f"{who} trained for {spent:.3g} seconds without an end, and engine.client_timeout allows {limit:g} "
                    f"({self.client_timeout:g} a client): raise it if the work is so long; otherwise the model, the "
                    "loss or the data of one of these clients hangs."
                )

    def kill(self) -> None:
        """Stops the workers at once, whatever they are at."""
        for hand in self.hands:
            with contextlib.suppress(ProcessLookupError):
                os.kill(hand.pid, signal.SIGKILL)
        self.close()


def cores() -> int:
    """How many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _end(pid: int, until: float) -> None:
    """Waits for a process to end until a time, and kills it then."""
    while time.monotonic() < until:
        try:
            if os.waitpid(pid, os.WNOHANG)[0]:
                return
        except ChildProcessError:
            return
        time.sleep(0.002)
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
    _reap(pid)


def _reap(pid: int) -> str:
    """Waits for a process to end; how it ended, as a phrase."""
    try:
        _, status = os.waitpid(pid, 0)
    except ChildProcessError:
        return "for a reason that is not known"
    if os.WIFSIGNALED(status):
        return f"by signal {signal.Signals(os.WTERMSIG(status)).name}"
    return f"with exit code {os.waitstatus_to_exitcode(status)}"

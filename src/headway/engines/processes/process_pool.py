"""Forked worker processes, as a pool of workers."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from multiprocessing import Pipe
from multiprocessing.connection import Connection, wait
from typing import Any, ClassVar

from headway.core import stopping
from headway.core.errors import HeadwayError
from headway.core.update import Tensors
from headway.engines.group_runner import GroupRunner
from headway.engines.processes.worker import Areas, read_total, read_work, start, written_secrets
from headway.engines.worker_pool import Lost, Unit, WorkerHandle, WorkerPool, WorkerResult, some_of
from headway.protocol.messages import Ask, Evaluate
from headway.protocol.sums import ExactTotal

CLOSING_S = 2.0  # for workers that were asked to end


class ProcessHandle(WorkerHandle):
    """A worker process, and this end of its pipe."""

    named: ClassVar[str] = "a worker process"

    def __init__(self, number: int, pid: int, pipe: Connection, areas: Areas) -> None:
        super().__init__(number)
        self.pid, self.pipe, self.areas = pid, pipe, areas

    def give(self, ask: Ask, unit: Unit, secrets: Mapping[str, Tensors]) -> None:
        """Asks it by the pipe."""
        if unit.window is not None:
            kind = "evaluate" if isinstance(ask.request, Evaluate) else "measure"
            window = [unit.window.first, unit.window.stop, unit.window.offset]
            self._ask({kind: unit.clients, "window": window, "round": ask.round, "attempt": ask.attempt})
            return
        own = ask.of(unit.clients)
        request = {"unit": unit.clients, "first": unit.first, "cohort": len(ask.cohort), "attempt": ask.attempt}
        earlier = {client: version.round for client, version in own.earlier.items()}
        request |= {"earlier": earlier, "steps": dict(own.steps), "secrets": written_secrets(secrets)}
        self._ask({**request, "messages": self.areas.places(own)})

    def work(self, unit: Unit) -> WorkerResult | None:
        """Reads its answer, and what it has written to shared memory."""
        reply = self._answer()
        return None if "failed" in reply else read_work(reply, unit.clients, unit.first, self.areas)

    def total(self) -> ExactTotal | None:
        """Its sum, as views of shared memory."""
        self._ask({"sum": True})
        reply = self._answer()
        return None if "failed" in reply else read_total(reply, self.areas.sums[self.number])

    def dispose(self) -> str:
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


class ProcessPool(WorkerPool):
    """Forked worker processes, which share the data, the model's code and a round's messages with this process.

    client_timeout: seconds after which a client is taken to hang.
    """

    worker: ClassVar[tuple[str, str]] = ("worker process", "worker processes")

    def __init__(self, workers: int, groups: GroupRunner, client_timeout: float | None) -> None:
        super().__init__(workers)
        self.groups, self.client_timeout = groups, client_timeout
        self.areas: Areas | None = None

    @property
    def processes(self) -> list[ProcessHandle]:
        """The handles."""
        return [handle for handle in self.handles if isinstance(handle, ProcessHandle)]

    def close(self) -> None:
        """Stops the workers; those that do not end by themselves are killed."""
        for handle in self.processes:
            handle.pipe.close()
        until = time.monotonic() + CLOSING_S
        for handle in self.processes:
            _end(handle.pid, until)
        self.handles, self.areas = [], None

    def prepare(self, ask: Ask) -> None:
        """Shared memory for the round, and the messages in it."""
        if self.areas is None or not self.areas.fit(ask):
            self.close()
            self.areas = Areas.of(ask, self.groups.setup, self.workers)
        self.areas.write(ask)

    def prepare_evaluation(self, ask: Ask) -> bool:
        """Writes the model where workers read it; False before the first round, when there is no such place."""
        message = replace(ask.message, stages={})
        if self.areas is None or not self.areas.evaluated.fits(message):
            return False
        self.areas.evaluated.write(message)
        return True

    def hire(self, number: int, instead: bool = False) -> ProcessHandle:
        """Forks a worker."""
        assert self.areas is not None
        ours, theirs = Pipe()
        with warnings.catch_warnings():  # Python warns that threads are not there after a fork: none is needed
            warnings.simplefilter("ignore", DeprecationWarning)
            sys.stdout.flush()
            pid = start(number, theirs, self.groups, self.areas, [ours, *(handle.pipe for handle in self.processes)])
        theirs.close()
        return ProcessHandle(number, pid, ours, self.areas)

    def ready(self, busy: Sequence[WorkerHandle]) -> Iterator[WorkerHandle]:
        """Waits for their pipes."""
        by_pipe = {handle.pipe: handle for handle in busy if isinstance(handle, ProcessHandle)}
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
        for handle in busy:
            if self.client_timeout is None or handle.busy is None:
                continue
            limit = self.client_timeout * len(handle.busy.clients)
            if (spent := time.monotonic() - handle.since) > limit:
                who = some_of(handle.busy.clients)
                raise HeadwayError(
                    f"{who} trained for {spent:.3g} seconds without an end, and engine.client_timeout allows {limit:g} "
                    f"({self.client_timeout:g} a client): raise it if the work is so long; otherwise the model, the "
                    "loss or the data of one of these clients hangs."
                )

    def kill(self) -> None:
        """Stops the workers at once, whatever they are at."""
        for handle in self.processes:
            with contextlib.suppress(ProcessLookupError):
                os.kill(handle.pid, signal.SIGKILL)
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

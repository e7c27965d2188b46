"""The thread in which an agent trains, so that what it exchanges with the server does not wait for that."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import Future
from queue import SimpleQueue
from typing import Any, TypeVar

from headway.core import stopping
from headway.federation.agent.machine_limits import MachineLimits

T = TypeVar("T")
END_S = 5.0  # how long the end of a call is waited for that does not look whether it is still wanted


class WorkWithdrawn(Exception):
    """The work was interrupted, since its result is no longer wanted."""


class TrainingThread:
    """One thread that carries out calls one after another; a call is interrupted between two steps of training.

    limits: what it may use of the machine.
    """

    def __init__(self, limits: MachineLimits | None = None) -> None:
        self.limits = limits or MachineLimits()
        self._calls: SimpleQueue[tuple[Future[Any], Callable[[], Any]] | None] = SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="training", daemon=True)
        self._lock = threading.Lock()
        self._current: Future[Any] | None = None
        self._thread.start()

    async def run(self, call: Callable[[], T]) -> T:
        """The result of a call in the thread.

        Raises:
            WorkWithdrawn: if it was interrupted.
        """
        future: Future[T] = Future()
        self._calls.put((future, call))
        try:
            return await asyncio.wrap_future(future)
        except asyncio.CancelledError:
            self.interrupt()
            raise

    def interrupt(self) -> None:
        """Ends the present call at its next step, if there is one."""
        with self._lock:
            if self._current is not None and self._thread.ident is not None:
                stopping.interrupt(self._thread.ident)

    def close(self) -> bool:
        """Ends the thread; a call in it is interrupted, and waited for a moment; whether it has ended."""
        self.interrupt()
        self._calls.put(None)
        self._thread.join(timeout=END_S)
        return not self._thread.is_alive()

    def _run(self) -> None:
        with self.limits.applied():
            self._serve()

    def _serve(self) -> None:
        while (item := self._calls.get()) is not None:
            future, call = item
            if future.set_running_or_notify_cancel():
                self._carry_out(future, call)

    def _carry_out(self, future: Future[Any], call: Callable[[], Any]) -> None:
        with self._lock:
            self._current = future
        result: Any = None
        failure: BaseException | None = None
        try:
            result = call()
        except stopping.Interrupted:
            failure = WorkWithdrawn()
        except BaseException as error:
            failure = error
        with self._lock:
            self._current = None
            stopping.resume(threading.get_ident())
        if failure is not None:
            future.set_exception(failure)
        else:
            future.set_result(result)

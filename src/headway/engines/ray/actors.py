"""Calls of Ray actors: a passing error is distinguished from an actor's end, and every wait has a limit."""

from __future__ import annotations

import re
import time
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any

from headway.core import stopping
from headway.core.errors import ConfigError, HeadwayError
from headway.engines.worker_pool import Lost

Actor = object
Reference = object

TICK_S = 1.0  # how long one wait takes at most, before limits are looked at again
PASSING_S = 120.0  # an actor that cannot be reached for so long has ended: Ray needs 15 to 45 s to notice a lost node
SILENT_S = 300.0  # an actor without an answer for so long has ended, where it has next to nothing to compute
AGAIN_S = 60.0  # a call without an answer for so long is made a second time: the answer may have been lost
APART_S = 60.0  # errors so long apart have nothing to do with each other
PAUSE_S = 0.2  # before a call that failed is made again


class Unread(Lost):
    """An actor cannot read its arguments."""


@dataclass(eq=False)
class Call:
    """A call of an actor's method, and what is known of its result.

    Calls are made again after an error that passes, so a method must have the same effect and result when it is called
    twice with the same arguments.

    begun: when it was made, on the monotonic clock; failing, failed: since when the actor cannot be reached, and when
    that was noticed last.
    """

    actor: Actor
    method: str
    arguments: tuple[object, ...]
    reference: Reference
    begun: float = field(default_factory=lambda: time.monotonic())
    failing: float | None = None
    failed: float = 0.0
    done: bool = False
    value: Any = None
    error: Exception | None = None

    @property
    def seconds(self) -> float:
        """The seconds since the call was made."""
        return time.monotonic() - self.begun

    def fail(self, error: Exception) -> None:
        """Ends the call with an error."""
        self.done, self.error = True, error

    def result(self) -> Any:
        """The method's result.

        Raises:
            Lost: if the actor has ended.
            Exception: what the method raised.
        """
        if self.error is not None:
            raise self.error
        return self.value

    def __reduce__(self) -> Any:
        raise TypeError("a call belongs to the process that made it")


class RayActors:
    """The calls of actors, from the driver and from each other.

    repeated: how many calls were made again since `report` was called last, and why the last of them was.
    """

    def __init__(self) -> None:
        self.repeated: tuple[int, str] = (0, "")

    def put(self, value: object) -> Reference:
        """Brings a value into the object store of this node.

        Raises:
            HeadwayError: if the store does not take it.
        """
        ray = import_ray()
        try:
            put: Reference = ray.put(value)
        except ray.exceptions.RayError as error:
            raise HeadwayError(
                f"needed room for a round's data in Ray's object store on this node, found: {first_line(error)}. Give "
                "the cluster more memory (ray start --object-store-memory), or use fewer workers or lanes."
            ) from error
        return put

    def call(self, actor: Actor, method: str, *arguments: object) -> Call:
        """Calls a method, and does not wait; an argument may be another call, for its result."""
        given = tuple(each.reference if isinstance(each, Call) else each for each in arguments)
        return Call(actor, method, given, _send(actor, method, given))

    def get(self, call: Call) -> Any:
        """Waits for the result of a call to an actor that only keeps data.

        Raises:
            Lost: if the actor has ended, cannot be reached for `PASSING_S`, or does not answer for `SILENT_S`.
            Exception: what the method raised.
        """
        asked = time.monotonic()
        while not self.poll(call, TICK_S):
            stopping.check()
            if call.seconds > SILENT_S:
                call.fail(Lost(f"no answer for {call.seconds:.0f} s"))
            elif call.failing is None and time.monotonic() - asked > AGAIN_S:
                asked = time.monotonic()
                self._again(call, f"no answer for {AGAIN_S:.0f} s")
        return call.result()

    def poll(self, call: Call, wait_s: float = 0.0) -> bool:
        """Whether the call is done; waits for it so long, and makes it again after an error that passes."""
        if call.done:
            return True
        ray = import_ray()
        try:
            call.value = ray.get(call.reference, timeout=wait_s)
        except ray.exceptions.GetTimeoutError:
            return False
        except ray.exceptions.RayTaskError as error:
            call.fail(_cause(error))
        except ray.exceptions.ActorDiedError as error:
            call.fail(Lost(first_line(error)))
        except ray.exceptions.RayError as error:
            return self._passes(call, error)
        call.done = True
        return True

    def kill(self, actor: Actor) -> None:
        """Ends an actor; one that has ended already does no harm."""
        import_ray().kill(actor, no_restart=True)

    def add(self, repeated: tuple[int, str]) -> None:
        """Counts the calls that an actor had to repeat itself."""
        if repeated[0]:
            self.repeated = (self.repeated[0] + repeated[0], repeated[1])

    def report(self) -> list[str]:
        """A sentence about the calls that were made again since this was called last; nothing where there was none."""
        (count, why), self.repeated = self.repeated, (0, "")
        if not count:
            return []
        return [f"{count} {'call' if count == 1 else 'calls'} of Ray actors had to be repeated ({why})"]

    def _passes(self, call: Call, error: Exception) -> bool:
        """Makes the call again after an error that may pass, unless there have been errors for too long."""
        now = time.monotonic()
        if call.failing is None or now - call.failed > APART_S:
            call.failing = now
        call.failed = now
        if now - call.failing > PASSING_S:
            call.fail(Lost(f"not reached for {now - call.failing:.0f} s: {first_line(error)}"))
            return True
        time.sleep(PAUSE_S)
        self._again(call, type(error).__name__)
        return False

    def _again(self, call: Call, why: str) -> None:
        self.repeated = (self.repeated[0] + 1, why)
        call.reference = _send(call.actor, call.method, call.arguments)


def import_ray() -> ModuleType:
    """Ray.

    Raises:
        ConfigError: if it is not installed.
    """
    try:
        import ray
        import ray.util.scheduling_strategies
    except ImportError as error:
        raise ConfigError(
            f"the Ray engine needs Ray, which cannot be imported here ({error}): install headway with its extra, "
            '"headway[ray]", or use worker processes (--workers N without --engine ray).'
        ) from error
    module: ModuleType = ray
    return module


def first_line(error: BaseException) -> str:
    """The first line of an error's text, without colours."""
    text = re.sub(r"\x1b\[\d*m", "", str(error))
    return next((line.strip() for line in text.splitlines() if line.strip()), type(error).__name__).rstrip(".")


def _send(actor: Actor, method: str, arguments: tuple[object, ...]) -> Reference:
    sent: Reference = getattr(actor, method).remote(*arguments)
    return sent


def _cause(error: Any) -> Exception:
    """The error that a method raised; `Lost` where its arguments never reached it."""
    ray, cause = import_ray(), error.cause
    if isinstance(cause, ray.exceptions.RaySystemError):
        return Unread(first_line(cause))
    if isinstance(cause, ray.exceptions.RayError):
        return Lost(first_line(cause))
    return cause if isinstance(cause, Exception) else Lost(first_line(error))

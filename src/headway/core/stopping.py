"""Stopping by a signal: SIGINT and SIGTERM set a flag, and every loop and every wait looks at it.

An exception that a signal raises wherever the interpreter happens to be can be swallowed, or end a write halfway.  So
the command line calls `install` before anything heavy is imported, and from then on

- outside `deferred` a signal ends the process at once: there is nothing to lose;
- inside `deferred`, while a run trains, it is the next `check` that raises `Stopped`, between two steps of a client;
- if no `check` comes for `INSIST_S`, as in a model that hangs, `Stopped` is raised where the main thread is, outside
  `held`;
- a second signal ends the process at once, and so does the first if `GRACE_S` pass without an end.

However the process ends by a signal, what was registered by `undoing` is undone first.  A program that does not call
`install` keeps its own handlers: `check` never raises, and Ctrl-C is Python's KeyboardInterrupt.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import select
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any, NoReturn

TICK_S = 0.2  # a wait looks at the flag at least as often
INSIST_S = 3.0  # from the first signal, if nothing has looked at the flag
GRACE_S = 7.0  # from the first signal to an end at once
ECHO_S = 0.3  # a signal that comes sooner after the first is the same: `timeout` sends it to the process and its group
PR_SET_PDEATHSIG = 1  # of prctl(2), on Linux
SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Stopped(BaseException):
    """A signal asked to stop; number: which.  No `except Exception` swallows it."""

    def __init__(self, number: int) -> None:
        super().__init__(f"stopped by {signal.Signals(number).name}")
        self.number = number

    @property
    def exit_code(self) -> int:
        """The exit code that the shell expects: 130 after SIGINT, 143 after SIGTERM."""
        return 128 + self.number


class Interrupted(BaseException):
    """The work of a thread is no longer wanted.  No `except Exception` swallows it."""


class _Flag:
    """The state that the handlers, the watching thread and `check` share.

    number: of the first signal, `None` before it: a loop of short turns may look at it before it calls `check`.
    """

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """As it is before any signal."""
        self.number: int | None = None
        self.since = 0.0
        self.read: float | None = None  # when the watching thread has read the first signal, maybe long after it came
        self.depth = 0  # of `deferred`
        self.held = 0  # of `held`
        self.patient = 0  # of `patient`
        self.raised = False  # `Stopped`, by whatever
        self.insists = False
        self.sent = 0  # signals that the watching thread has sent to the main thread, and not yet read
        self.notice = ""
        self.undo: dict[object, Callable[[], object]] = {}
        self.before: dict[int, Any] = {}  # the handlers that were there
        self.ends: tuple[int, int] | None = None  # of the pipe that the C handler of Python writes to
        self.interrupted: set[int] = set()  # the threads in which `check` raises `Interrupted`


flag = _Flag()


def install() -> None:
    """Takes SIGINT and SIGTERM, if this is the main thread; does nothing the second time, nor on a system without
    signals to threads (Windows), where Ctrl-C is Python's KeyboardInterrupt."""
    if (
        not hasattr(signal, "pthread_kill")
        or flag.ends is not None
        or threading.current_thread() is not threading.main_thread()
    ):
        return
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    flag.reset()
    flag.ends = (reading, writing)
    threading.Thread(target=_watch, args=(reading,), name="signals", daemon=True).start()
    signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
    flag.before = {number: signal.signal(number, _note) for number in SIGNALS}


def uninstall() -> None:
    """Puts back the handlers that were there."""
    if flag.ends is None:
        return
    for number, handler in flag.before.items():
        signal.signal(number, handler)
    signal.set_wakeup_fd(-1)
    _, writing = flag.ends
    flag.ends, flag.number = None, None
    os.close(writing)  # the thread reads the end of the pipe, and closes the other side


@contextlib.contextmanager
def installed() -> Iterator[None]:
    """`install` and `uninstall`; nothing of either where the program has installed the handlers before."""
    already = flag.ends is not None
    install()
    try:
        yield
    finally:
        if not already:
            uninstall()


def is_installed() -> bool:
    """Whether signals set the flag here; a KeyboardInterrupt then comes from somebody's code and not from a signal."""
    return flag.ends is not None


def check() -> None:
    """Raises `Stopped` where a signal has asked for it, and `Interrupted` in a thread whose work is no longer wanted.

    To be called in every loop and wait that can be long.
    """
    if flag.interrupted and threading.get_ident() in flag.interrupted:
        raise Interrupted
    if flag.number is None or not flag.depth or flag.held:
        return
    if not flag.patient or time.monotonic() - flag.since > INSIST_S:
        flag.raised = True
        raise Stopped(flag.number)


def interrupt(thread: int) -> None:
    """Has the next `check` in a thread raise `Interrupted`, and each after it, until `resume`."""
    flag.interrupted.add(thread)


def resume(thread: int) -> None:
    """Lets a thread work again."""
    flag.interrupted.discard(thread)


def requested() -> bool:
    """Whether a signal has asked to stop."""
    return flag.number is not None


@contextlib.contextmanager
def noticed(notice: str) -> Iterator[None]:
    """Within, this is printed if a signal ends the process at once."""
    before, flag.notice = flag.notice, notice or flag.notice
    try:
        yield
    finally:
        flag.notice = before


@contextlib.contextmanager
def deferred(notice: str = "") -> Iterator[None]:
    """Within, a signal waits for the next `check`, or for the end; notice: what is printed if the process has to end
    at once."""
    flag.depth += 1
    try:
        with noticed(notice):
            yield
        check()
    finally:
        flag.depth -= 1


@contextlib.contextmanager
def held() -> Iterator[None]:
    """Within, `check` does not raise: for what must be whole, such as a checkpoint that is written after a signal."""
    flag.held += 1
    try:
        yield
    finally:
        flag.held -= 1


@contextlib.contextmanager
def patient() -> Iterator[None]:
    """Within, `check` does not raise in the first `INSIST_S` after the signal: for work that mostly is short, and is
    done again from further back if it is cut."""
    flag.patient += 1
    try:
        yield
    finally:
        flag.patient -= 1


@contextlib.contextmanager
def undoing(action: Callable[[], object]) -> Iterator[None]:
    """Within, an end at once calls the action first, such as the removal of a file that is half written."""
    token = object()
    flag.undo[token] = action
    try:
        yield
    finally:
        flag.undo.pop(token, None)


@contextlib.contextmanager
def blocked() -> Iterator[None]:
    """Within, signals wait: for a fork, whose child would share the parent's pipe until it calls `in_child`."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def in_child() -> None:
    """In a forked child: SIGINT is the parent's to handle, SIGTERM ends the child, and `check` never raises."""
    if flag.ends is not None:
        signal.set_wakeup_fd(-1)
        for end in flag.ends:
            os.close(end)
    flag.ends, flag.number, flag.depth, flag.undo = None, None, 0, {}
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)


def leave(code: object) -> NoReturn:
    """Ends the process with this exit code, after what was printed is written."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
    os._exit(code if isinstance(code, int) else 1)


def end_with(parent: int) -> None:
    """Has the system kill this process when its parent ends, however that is: one that hangs reads no pipe."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(0)


def _note(number: int, frame: FrameType | None) -> None:
    """The handler: no more than the flag; and `Stopped`, where the watching thread insists."""
    if flag.number is None:
        flag.number, flag.since = number, time.monotonic()
    elif frame is not None and flag.insists and not flag.raised:
        check()


def _watch(reading: int) -> None:
    """Reads the signals as they come, also while the main thread is in C code and runs no handler."""
    try:
        while True:
            if not select.select([reading], [], [], _left())[0]:
                _insist()
                continue
            came = os.read(reading, 64)
            if not came:
                return
            for number in came:
                if number in SIGNALS:
                    _signal(number)
    finally:
        os.close(reading)


def _left() -> float | None:
    """Seconds until the watching thread does something of its own."""
    if flag.number is None:
        return None
    passed = time.monotonic() - flag.since
    return max(0.0, INSIST_S - passed if passed < INSIST_S else min(1.0, GRACE_S - passed))


def _insist() -> None:
    """Interrupts what the main thread waits for, so that the handler raises there; or ends the process."""
    flag.insists = True
    if time.monotonic() - flag.since >= GRACE_S:
        _end_at_once()
    if not flag.raised:
        flag.sent += 1
        signal.pthread_kill(_main(), flag.number or signal.SIGINT)


def _main() -> int:
    main = threading.main_thread().ident
    assert main is not None
    return main


def _signal(number: int) -> None:
    if flag.sent:
        flag.sent -= 1
        return
    _note(number, None)
    again = flag.read is not None and time.monotonic() - flag.read > ECHO_S
    if flag.read is None:
        flag.read = time.monotonic()
    if again or not (flag.depth or flag.raised):
        _end_at_once()


def _end_at_once() -> None:
    """Undoes what was registered, prints the notice, and ends the process without running anything else."""
    for action in reversed(list(flag.undo.values())):
        with contextlib.suppress(BaseException):
            action()
    number = flag.number or signal.SIGTERM
    text = f"Stopped by {signal.Signals(number).name}. {flag.notice}".rstrip() + "\n"
    with contextlib.suppress(OSError):
        if os.isatty(1):
            os.write(1, b"\x1b[?25h\n")  # a progress line may have hidden the cursor
        os.write(2, text.encode(errors="replace"))
    os._exit(128 + number)

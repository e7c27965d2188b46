"""Signals set a flag; what looks at it stops, and what does not is stopped within seconds."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import headway
from headway.core import stopping

SOURCES = str(Path(headway.__file__).parents[1])


PATIENCE_S = 120  # with a program, which ends within seconds
NEVER = "stopping.GRACE_S = stopping.INSIST_S = 1000.0"  # for what is not tested, and a busy machine would come to


def program(body, *signals):
    """The exit code, output and errors of a program; signals: that it is sent once it has printed a line, which is left
    out of its output."""
    text = f"from headway.core import stopping\nimport os, signal, time\nstopping.install()\n{body}"
    with subprocess.Popen(
        [sys.executable, "-u", "-c", text],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": SOURCES},
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    ) as process:
        if signals:
            process.stdout.readline()
        for number in signals:
            process.send_signal(number)
        out, err = process.communicate(timeout=PATIENCE_S)
    return process.returncode, out, err


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_with_nothing_to_lose_a_signal_ends_the_process(number, code):
    found, out, err = program("print('on'); time.sleep(1000); print('never')", number)
    assert (found, out) == (code, "")
    assert err == f"Stopped by {signal.Signals(number).name}.\n"


LOOP = f"""
{NEVER}
try:
    with stopping.deferred():
        print('on')
        while True:
            stopping.check()
            try:
                time.sleep(0.05)
            except Exception:
                pass
except stopping.Stopped as stopped:
    print('kept')
    raise SystemExit(stopped.exit_code)
"""


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_loop_that_looks_at_the_flag_ends_by_itself(number, code):
    assert program(LOOP, number) == (code, "kept\n", "")


# a program that sends signals to itself: each once the one before has been handled, and then read
SENDS = f"""
{NEVER}
seen, read = [], stopping._signal
def late(number):
    while stopping.flag.number is None:
        time.sleep(0.01)
    read(number)
    seen.append(number)
stopping._signal = late
def send(number):
    count = len(seen)
    os.kill(os.getpid(), number)
    while len(seen) == count:
        time.sleep(0.01)
"""


def sends(count, echo_s):
    """A program that gets so many signals, with what is a second one."""
    return f"""
{SENDS}
stopping.ECHO_S = {echo_s}
try:
    with stopping.deferred("Go on."), stopping.undoing(lambda: print('undone')):
        for _ in range({count}):
            send(signal.SIGTERM)
except stopping.Stopped as stopped:
    print('kept')
    raise SystemExit(stopped.exit_code)
"""


def test_a_signal_twice_at_the_same_moment_is_one():
    assert program(sends(2, echo_s=1000.0)) == (143, "kept\n", "")


def test_a_signal_that_is_read_long_after_it_came_is_the_first():
    assert program(sends(1, echo_s=0.0)) == (143, "kept\n", "")


def test_a_second_signal_ends_at_once_and_undoes_what_is_half_done():
    assert program(sends(2, echo_s=0.0)) == (143, "undone\n", "Stopped by SIGTERM. Go on.\n")


HELD = """
with stopping.deferred("Go on."), stopping.held(), stopping.undoing(lambda: print('undone')):
    print('on')
    time.sleep(1000)
"""
HANGS = """
stopping.GRACE_S, stopping.INSIST_S = 1000.0, 0.5
try:
    with stopping.deferred():
        print('on')
        time.sleep(1000)
except stopping.Stopped as stopped:
    print('kept')
    raise SystemExit(stopped.exit_code)
"""


def test_what_hangs_is_interrupted():
    assert program(HANGS, signal.SIGTERM) == (143, "kept\n", "")


def test_what_cannot_be_interrupted_ends():
    assert program("stopping.GRACE_S = stopping.INSIST_S = 0.5" + HELD, signal.SIGTERM)[::2] == (
        143,
        "Stopped by SIGTERM. Go on.\n",
    )


def test_without_the_handlers_nothing_is_checked_and_interrupts_are_pythons(request):
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # which a shell's background jobs do not have
    request.addfinalizer(lambda: signal.signal(signal.SIGINT, before))
    assert not stopping.is_installed()
    with stopping.deferred():
        stopping.check()
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)


def test_the_handlers_are_put_back():
    before = signal.getsignal(signal.SIGTERM)
    with stopping.installed():
        assert stopping.is_installed()
        assert signal.getsignal(signal.SIGTERM) is not before
        with stopping.installed():
            pass
        assert stopping.is_installed()
    assert signal.getsignal(signal.SIGTERM) is before
    assert not stopping.is_installed()

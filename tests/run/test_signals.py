"""SIGTERM and SIGINT at any moment: a run ends within seconds, can be resumed, and leaves nothing behind."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import headway as hw
from headway.observe.run_folder import OWN, read_tensors

SOURCES = str(Path(hw.__file__).parents[1])
KINDS = {
    "local": [],
    "lanes": ["--lanes", "2"],
    "workers": ["--workers", "2", "--lanes", "1"],
    "planned": ["--workers", "2"],
    "clock": ["--set", "clock.preset=phones"],
    "scaffold": ["--set", "algorithm.recipe=scaffold", "--workers", "2", "--lanes", "2"],
}
COUNT = 200
WITHIN_S = 10


def started(folder, *arguments):
    return subprocess.Popen(
        [sys.executable, "-m", "headway", *arguments],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": SOURCES, "OMP_NUM_THREADS": "1", "XDG_CACHE_HOME": str(folder / "cache")},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )


def left_of(session):
    """The processes of a session that are still there."""
    found = []
    for entry in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = entry.read_text().rsplit(")", 1)[1].split()
        except OSError:
            continue
        if int(fields[3]) == session and fields[0] != "Z":
            found.append(int(entry.parent.name))
    return found


def ended(folder, arguments, number, wait, out="run"):
    """Starts a run, sends a signal once `wait` returns, and checks all that must hold; the output."""
    process = started(folder, "run", "hospitals", "--rounds", "100000", "--out", out, *arguments)
    wait()
    was_running = process.poll() is None
    begun = time.monotonic()
    process.send_signal(number)
    text, errors = process.communicate(timeout=60)
    spent = time.monotonic() - begun
    assert was_running, text + errors
    # before Python has come to the handlers, the signal does what it does to any program
    assert process.returncode in (128 + number, -number), (process.returncode, text, errors)
    assert spent < WITHIN_S, (spent, text, errors)
    assert "Traceback" not in text + errors or process.returncode == -number, errors
    time.sleep(0.2)
    assert left_of(process.pid) == []
    assert {each.name for each in folder.iterdir()} <= {out, "cache"}
    if (folder / out).exists():
        side = {f"{name}{end}" for name in ("journal.sqlite", "memory.sqlite") for end in ("-wal", "-shm", "-journal")}
        assert {each.name for each in (folder / out).iterdir()} <= OWN | side
        assert all(each.name.startswith("round-") for each in (folder / out / "checkpoints").iterdir())
    return text + errors


def goes_on(folder, headway, out="run"):
    """Resumes a run, in this process, for two rounds more than it has."""
    kept = sorted((folder / out / "checkpoints").iterdir())
    reached = read_tensors(kept[-1])[1]["round"] if kept else 0
    code, text, errors = headway("resume", folder / out, "--rounds", reached + 2)
    assert code == 0, text + errors
    return reached


@pytest.mark.parametrize(
    ("kind", "number"),
    [
        ("local", signal.SIGTERM),
        ("lanes", signal.SIGINT),
        ("workers", signal.SIGTERM),
        pytest.param("workers", signal.SIGINT, marks=pytest.mark.soak),
        ("clock", signal.SIGTERM),
        ("scaffold", signal.SIGINT),
    ],
)
def test_a_signal_while_it_trains(headway, tmp_path, kind, number):
    def trains():
        until = time.monotonic() + 60
        while not list(tmp_path.glob("run/checkpoints/round-*[1-9]*")) and time.monotonic() < until:
            time.sleep(0.05)

    text = ended(tmp_path, KINDS[kind], number, trains)
    assert "Stopped; the run is kept. Go on with: headway resume run" in text
    assert goes_on(tmp_path, headway) > 0


def test_the_workers_of_a_parent_that_is_killed_end_too(tmp_path):
    process = started(tmp_path, "run", "hospitals", "--rounds", "100000", "--out", "run", *KINDS["workers"])
    while not list(tmp_path.glob("run/checkpoints/round-*[1-9]*")) and process.poll() is None:
        time.sleep(0.05)
    assert len(left_of(process.pid)) == 3
    process.kill()
    process.communicate(timeout=60)
    until = time.monotonic() + 10
    while left_of(process.pid) and time.monotonic() < until:
        time.sleep(0.05)
    assert left_of(process.pid) == []


@pytest.mark.soak
def test_signals_at_random_moments(headway, tmp_path, capsys):
    """Half of them from the first tenth of a second on, half once it trains."""
    chance, lines = random.Random(0), []
    for place in range(int(os.environ.get("HEADWAY_SIGNALS", COUNT))):
        kind = chance.choice(sorted(KINDS))
        number = chance.choice([signal.SIGTERM, signal.SIGINT])
        first, moment = place % 2 == 0, 0.1 + chance.random() * 4
        folder = tmp_path / str(place)
        folder.mkdir()

        def wait(first=first, moment=moment, folder=folder):
            until = time.monotonic() + 120
            while not first and not list(folder.glob("run/checkpoints/*")) and time.monotonic() < until:
                time.sleep(0.02)
            time.sleep(moment)

        text = ended(folder, KINDS[kind], number, wait)
        reached = goes_on(folder, headway) if (folder / "run").exists() else None
        after = "the start" if first else "the first checkpoint"
        last = (text.splitlines() or [""])[-1]
        lines.append(f"{place} {kind} {number.name} {moment:.2f} s after {after}: round {reached}. {last}")
    with capsys.disabled():
        print("\n".join(lines))

"""SIGTERM and SIGINT at any moment: a run ends soon, can be resumed, and leaves nothing behind."""

import os
import random
import signal
import time

import forks
import pytest
from processes import in_session, until

from headway.observe.run_folder import OWN, read_tensors

KINDS = {
    "local": [],
    "lanes": ["--lanes", "2"],
    "workers": ["--workers", "2", "--lanes", "1"],
    "planned": ["--workers", "2"],
    "clock": ["--set", "clock.preset=phones"],
    "scaffold": ["--set", "algorithm.recipe=scaffold", "--workers", "2", "--lanes", "2"],
}
COUNT = 200
TRAINS_S = 300  # until a run trains; a plan is measured for some seconds before, and all of it on a busy machine


def started(folder, *arguments):
    return forks.command(*arguments, folder=folder, OMP_NUM_THREADS="1", XDG_CACHE_HOME=str(folder / "cache"))


def ended(folder, arguments, number, wait, out="run"):
    """Starts a run, sends a signal once `wait` returns, and checks all that must hold; the output."""
    process = started(folder, "run", "hospitals", "--rounds", "100000", "--out", out, *arguments)
    wait()
    was_running = process.fork.poll() is None
    process.fork.send_signal(number)
    code, text, errors = process.result()
    assert was_running, text + errors
    # before Python has come to the handlers, the signal does what it does to any program
    assert code in (128 + number, -number), (code, text, errors)
    assert "Traceback" not in text + errors or code == -number, errors
    until(lambda: not in_session(process.pid), what="a process is left")
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
        until(lambda: list(tmp_path.glob("run/checkpoints/round-*[1-9]*")), TRAINS_S)

    text = ended(tmp_path, KINDS[kind], number, trains)
    assert "Stopped; the run is kept. Go on with: headway resume run" in text
    assert goes_on(tmp_path, headway) > 0


def test_the_workers_of_a_parent_that_is_killed_end_too(tmp_path):
    process = started(tmp_path, "run", "hospitals", "--rounds", "100000", "--out", "run", *KINDS["workers"])
    until(lambda: list(tmp_path.glob("run/checkpoints/round-*[1-9]*")), TRAINS_S)
    assert len(in_session(process.pid)) == 3
    process.fork.kill()
    process.result()
    until(lambda: not in_session(process.pid), what="a worker is left")


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
            until(lambda: first or list(folder.glob("run/checkpoints/*")), TRAINS_S)
            time.sleep(moment)

        text = ended(folder, KINDS[kind], number, wait)
        reached = goes_on(folder, headway) if (folder / "run").exists() else None
        after = "the start" if first else "the first checkpoint"
        last = (text.splitlines() or [""])[-1]
        lines.append(f"{place} {kind} {number.name} {moment:.2f} s after {after}: round {reached}. {last}")
    with capsys.disabled():
        print("\n".join(lines))

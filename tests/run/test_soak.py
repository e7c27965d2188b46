"""Endurance, run by `make soak`: many kills at unforeseen moments."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from test_resume import assert_same, finish, make

KILLS = 40


@pytest.mark.soak
@pytest.mark.parametrize("recipe", ["scaffold+ecgr", "fedadam"])
def test_a_run_killed_again_and_again_ends_with_the_same_bits(recipe, tmp_path):
    here = Path(__file__).parent
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(here.parent), *sys.path])}
    folder, chance, reached = tmp_path / "run", random.Random(0), 0
    for _ in range(KILLS):
        resume = ["resume"] if (folder / "run.json").exists() else []
        process = subprocess.Popen(
            [sys.executable, str(here / "crash.py"), str(folder), recipe, "1000000", *resume],
            stdout=subprocess.PIPE,
            env=environment,
            text=True,
        )
        first = process.stdout.readline()
        assert first, "the resumed run must go on"
        assert int(first) >= reached - 3, "at most the rounds since the last checkpoint are run again"
        time.sleep(chance.random() * 0.3)
        process.send_signal(signal.SIGKILL)
        lines = process.stdout.read().split()
        process.wait()
        process.stdout.close()
        reached = int(lines[-1] if lines else first)
    resumed = make(recipe, folder, rounds=10**6, resume=True)
    resumed.rounds = resumed.state.round + 2
    assert_same(finish(resumed)[0], finish(make(recipe, rounds=resumed.rounds))[0])

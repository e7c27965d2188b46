"""Two checkouts of Headway on the same work, in turn, round by round: ratios of seconds, first rounds and memory.

    python benchmarks/two_checkouts.py OLD NEW [--workloads W1 W2 W3] [--options "" lanes=20 workers=2,lanes=20]
        [--rounds 9] [--data FOLDER]

OLD and NEW are folders of two checkouts.  Both run in the environment of this script, with the data, cohorts and models
of `benchmarks/peers`.  The ratio is that of the medians, NEW / OLD; `first` is the time from the start of the process
to the end of the first round, `memory` the peak resident set of the process.  Where both checkouts end with the same
weights, `bits` is "same".  The first round is not among those that are timed.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE / "peers"))


class Side:
    """One checkout at work."""

    def __init__(self, checkout: Path, workload: str, data: Path, options: str, file: Path) -> None:
        self.file, self.begun, self.seconds = file, time.perf_counter(), []
        environment = {**os.environ, "PYTHONPATH": str(checkout.resolve() / "src")}
        command = [sys.executable, str(HERE / "peers" / "on_headway.py"), workload, str(data), str(file)]
        self.process = subprocess.Popen(
            [*command, "--options", options], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment, text=True
        )
        self.answer()
        self.round()
        self.first = time.perf_counter() - self.begun
        self.seconds.clear()

    def answer(self) -> dict[str, Any]:
        """The process's next line."""
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit(f"{' '.join(map(str, self.process.args))} ended with code {self.process.wait()}")
        return json.loads(line)

    def step(self) -> dict[str, Any]:
        """Asks for the next answer."""
        assert self.process.stdin is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        return self.answer()

    def round(self) -> None:
        """Runs one round."""
        self.seconds.append(float(self.step()["seconds"]))

    def close(self) -> tuple[int, np.ndarray]:
        """The peak memory in bytes, and the weights at the end."""
        status = Path(f"/proc/{self.process.pid}/status")
        peak = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        self.step()
        self.process.wait()
        return int(peak.split()[1]) * 1024, np.load(self.file)


def main() -> None:
    """Prints one line for each workload and set of options."""
    from common import WORKLOADS
    from run import make_data

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("old", type=Path)
    parser.add_argument("new", type=Path)
    parser.add_argument("--workloads", nargs="+", default=list(WORKLOADS), choices=WORKLOADS)
    parser.add_argument("--options", nargs="+", default=["lanes=1", "lanes=20", "workers=2,lanes=20"])
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--data", type=Path, default=Path("~/.cache/headway-peers/data").expanduser())
    given = parser.parse_args()
    print(f"{'work':<4} {'options':<24} {'old s':>9} {'new s':>9} {'ratio':>6} {'first':>6} {'memory':>6}  bits")
    for name in given.workloads:
        make_data(WORKLOADS[name], given.data / name, given.rounds + 1)
        for options in given.options:
            files = [given.data / f"{side}.{name}.npy" for side in ("old", "new")]
            sides = [
                Side(checkout, name, given.data, options, file)
                for checkout, file in zip((given.old, given.new), files, strict=True)
            ]
            for number in range(given.rounds):
                for side in sides if number % 2 == 0 else reversed(sides):
                    side.round()
            medians = [statistics.median(side.seconds) for side in sides]
            (old_memory, old_weights), (new_memory, new_weights) = (side.close() for side in sides)
            same = "same" if np.array_equal(old_weights, new_weights) else "other"
            print(
                f"{name:<4} {options:<24} {medians[0]:>9.4f} {medians[1]:>9.4f} {medians[1] / medians[0]:>6.3f} "
                f"{sides[1].first / sides[0].first:>6.3f} {new_memory / old_memory:>6.3f}  {same}",
                flush=True,
            )


if __name__ == "__main__":
    main()

"""Two checkouts of Headway on the same work, in turn, round by round: ratios of seconds, first rounds and memory.

    python benchmarks/two_checkouts.py OLD NEW [--workloads W1 W2 W3] [--options "" lanes=20 workers=2,lanes=20]
        [--rounds 9] [--data FOLDER]

OLD and NEW are folders of two checkouts.  Both run in the environment of this script, with the data, cohorts and models
of `benchmarks/peers`.  The ratio is that of the medians, NEW / OLD; `first` is the time from the start of the process
to the end of the first round, `memory` the peak resident set of the process and its workers.  Where both checkouts end
with the same weights, `bits` is "same".  The first round is not among those that are timed.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent / "peers"))

PATIENCE = 600.0  # seconds for a round


def main() -> None:
    """Prints one line for each workload and set of options."""
    from common import WORKLOADS
    from run import Contender, Failed, make_data

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("old", type=Path)
    parser.add_argument("new", type=Path)
    parser.add_argument("--workloads", nargs="+", default=list(WORKLOADS), choices=WORKLOADS)
    parser.add_argument("--options", nargs="+", default=["lanes=1", "lanes=20", "workers=2,lanes=20"])
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--data", type=Path, default=Path("~/.cache/headway-peers/data").expanduser())
    given, cpus = parser.parse_args(), sorted(os.sched_getaffinity(0))
    print(f"{'work':<4} {'options':<24} {'old s':>9} {'new s':>9} {'ratio':>6} {'first':>6} {'memory':>6}  bits")
    for name in given.workloads:
        make_data(WORKLOADS[name], given.data / name, given.rounds + 1)
        for options in given.options:
            old, new = (
                Contender(
                    f"headway:{options}",
                    Path(sys.executable),
                    given.data,
                    PATIENCE,
                    label=label,
                    environment={"PYTHONPATH": str(checkout.resolve() / "src")},
                )
                for label, checkout in (("old", given.old), ("new", given.new))
            )
            started: list[Contender] = []
            try:
                for side in (old, new):
                    started.append(side)
                    side.start(WORKLOADS[name], cpus)
                for number in range(given.rounds):
                    for side in (old, new) if number % 2 == 0 else (new, old):
                        side.seconds.append(side.round())
                for side in (old, new):
                    side.finish()
            except Failed as trouble:
                raise SystemExit(str(trouble)) from trouble
            finally:
                for side in started:
                    side.stop()
            before, after = statistics.median(old.seconds), statistics.median(new.seconds)
            same = "same" if np.array_equal(old.weights, new.weights) else "other"
            print(
                f"{name:<4} {options:<24} {before:>9.4f} {after:>9.4f} {after / before:>6.3f} "
                f"{new.first / old.first:>6.3f} {new.peak / max(old.peak, 1):>6.3f}  {same}",
                flush=True,
            )


if __name__ == "__main__":
    main()

"""Whether a round costs as many times more as it has clients: milliseconds a client, cohorts growing.

    python benchmarks/cohort.py [--rounds 7] [--threads 1] [W1 W2 W3]

The workloads of lanes.py; at most 100 clients side by side on W1, one on W2, 1,000 on W3.  The cohorts take turns in
each round.
"""

from __future__ import annotations

import statistics

from lanes import WORK, asked_for, data_of, in_turn, rounds_of
from sizes import sized

LANES = {"W1": 100, "W2": 1, "W3": 1_000}
TIMES = {"W1": (0.5, 1, 2, 4, 8), "W2": (0.5, 1, 2), "W3": (0.5, 1, 2, 4, 8)}


def main() -> None:
    options = asked_for(__doc__, rounds=7)
    for name in options.workloads:
        _, usual, _, batch, _, make, _ = WORK[name]
        data = data_of(name)
        cohorts = [max(int(usual * times), 1) for times in sized(TIMES[name], (1, 2))]
        runs = {cohort: rounds_of(data, cohort, batch, make, min(LANES[name], cohort)) for cohort in cohorts}
        for cohort, seconds in in_turn(runs, options.rounds).items():
            median = statistics.median(seconds) * 1e3
            print(f"{name}  {cohort:6,d} clients  {median:8.1f} ms a round  {median / cohort:7.4f} ms a client")


if __name__ == "__main__":
    main()

"""What each stage costs: seconds a round of FedAvg, and of FedAvg with one stage more.

    python benchmarks/stages_cost.py [--rounds 5] [--workloads W1 W3] [--engine lanes=20] [--cores 2] [--out FILE]

The algorithms take turns round by round, each in a process of its own, on the data and with the measure of
benchmarks/peers/run.py.  --engine: options of LocalEngine for all of them; drift=true measures drift as well.
"""

from __future__ import annotations

import os
import statistics
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent / "peers"))

from common import WORKLOADS
from run import compare, machine, markdown, parser_of, present, ratio

RECIPES = {
    "fedavg": "FedAvg",
    "fedprox": "+ FedProx",
    "scaffold": "+ SCAFFOLD",
    "fedavg+ecgr": "+ ECGR",
}


def main() -> None:
    parser = parser_of(__doc__, ["W1", "W3"])
    parser.add_argument("--engine", default="", help="options of LocalEngine, such as lanes=20,drift=true")
    options = parser.parse_args()
    cpus, folder = sorted(os.sched_getaffinity(0))[: options.cores], options.envs / "data"
    parts = [f"Measured on {machine(cpus)}. Median of {options.rounds} rounds in turn, after one that warms up."]
    for name in options.workloads:
        workload = WORKLOADS[name]
        specs = {",".join(filter(None, [f"headway:recipe={each}", options.engine])): each for each in RECIPES}
        done = compare(workload, present(list(specs), options), folder, options.rounds, cpus)
        rows = [
            [RECIPES[specs[each.spec]], f"{statistics.median(each.seconds):.3f}", f"{ratio(each, done[0]):.2f}"]
            for each in done
        ]
        title = f"**{name}**: {workload.text}" + (f"; LocalEngine with {options.engine}" if options.engine else "")
        parts.append(f"{title}.\n\n" + markdown(("chain", "seconds a round", "times the first"), rows))
    text = "\n\n".join(parts) + "\n"
    print(text)
    if options.out is not None:
        options.out.write_text(text)


if __name__ == "__main__":
    main()

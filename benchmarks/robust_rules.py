"""Time and memory of the robust rules, beside one reading of the updates and a sort along the clients.

    python benchmarks/robust_rules.py [--clients 100] [--numbers 1000000] [--repeats 9] [--threads 2]

All are taken in turn in one process.  Printed is the shortest of the repeats in milliseconds, which other programs on
the machine lengthen the least, with the ratio to one reading of the n x d numbers (their plain mean over clients) and,
for rules by coordinate, to `torch.sort` along the clients; the median of the repeats; and the load of the machine.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections.abc import Callable
from types import SimpleNamespace

import torch
from sizes import sized

from headway.core.update import Rows
from headway.numerics.keys import Key
from headway.stages import (
    NNM,
    Bulyan,
    CentredClipping,
    GeometricMedian,
    Krum,
    MeanAroundMedian,
    Median,
    MultiKrum,
    TrimmedMean,
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clients", type=int, default=sized(100, 25))
    parser.add_argument("--numbers", type=int, default=sized(1_000_000, 1000))
    parser.add_argument("--repeats", type=int, default=sized(9, 1))
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    count, f = options.clients, options.clients // 5
    x = torch.randn(count, options.numbers)
    rows = Rows(tuple(f"c{i:04d}" for i in range(count)), {"delta": x}, torch.ones(count, dtype=torch.float64))
    ctx = SimpleNamespace(key=Key.root(0))
    rules = (
        *(Krum(f), MultiKrum(f), GeometricMedian(f), CentredClipping(tau=100.0), NNM(f, Krum(f))),
        *(Median(f), TrimmedMean(f), MeanAroundMedian(f), Bulyan(f)),
    )
    cases: dict[str, Callable[[], object]] = {"mean": lambda: x.mean(0), "torch.sort": lambda: x.sort(0)}
    for rule in rules:
        state = rule.init(x[0])
        cases[repr(rule)] = lambda rule=rule, state=state: rule.reduce(rows, state, ctx)
    times: dict[str, list[float]] = {name: [] for name in cases}
    for _ in range(options.repeats):
        for name, run in cases.items():
            begun = time.perf_counter()
            run()
            times[name].append(1e3 * (time.perf_counter() - begun))
    least = {name: min(values) for name, values in times.items()}
    load = ", ".join(f"{each:.1f}" for each in os.getloadavg())
    print(f"{count} clients, {options.numbers} numbers each, {torch.get_num_threads()} threads; load {load}")
    print(f"{'rule':40} {'ms':>9} {'x mean':>8} {'sort / it':>10} {'median ms':>10}")
    for name, value in least.items():
        ratios = f"{value / least['mean']:8.2f} {least['torch.sort'] / value:10.2f}"
        print(f"{name:40} {value:9.1f} {ratios} {statistics.median(times[name]):10.1f}")


if __name__ == "__main__":
    main()

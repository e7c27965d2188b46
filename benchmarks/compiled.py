"""Compiled steps beside those as they are, in one process, one client at a time and side by side.

    python benchmarks/compiled.py [--rounds 5] [--threads 1] [W1 LeNet]

W1: as in `lanes.py`, an MLP 784-200-10, 100 of 1,000 clients with 100 examples, batch 20.  LeNet: the same with LeNet-5
on 1x28x28.  One epoch of plain SGD; batches have weights of their own (`low_rank=False`); drift, evaluation and journal
off.  The engines take turns in each round, and the ratio to the same one without compiling is taken within the round.
The seconds until an engine is ready are nearly all of compiling; torch keeps what it has compiled on disk.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator

import lanes

import headway as hw
from headway.model import zoo as models

LENET = {"LeNet": (1_000, 100, 100, 20, (1, 28, 28), lambda: models.lenet((1, 28, 28), 10), (5,))}
WORK = {"W1": lanes.WORK["W1"]} | lanes.smaller(LENET)


def started(name: str, data: hw.FederatedData, width: int, compiled: bool) -> Iterator[object]:
    _, cohort, _, batch, _, make, _ = WORK[name]
    algorithm = hw.recipes.fedavg(trainer=hw.LocalSGD(lr=0.1, batch_size=batch), sampler=hw.Uniform(count=cohort))
    engine = hw.LocalEngine(drift=False, lanes=width, low_rank=False, compiled=compiled)
    begun = time.perf_counter()
    run = hw.Run(algorithm, data, hw.Task(make), rounds=10**6, evaluate_every=None, engine=engine)
    print(f"  {engine.summary or 'clients one at a time'}: ready after {time.perf_counter() - begun:.1f} s")
    return iter(run)


def main() -> None:
    options = lanes.asked_for(__doc__, rounds=5, work=WORK)
    for name in options.workloads:
        data, (*_, widths) = lanes.data_of(name, WORK), WORK[name]
        print(name)
        ways = [(width, compiled) for width in (1, *widths) for compiled in (False, True)]
        spent = lanes.in_turn({way: started(name, data, *way) for way in ways}, options.rounds)
        for (width, compiled), seconds in spent.items():
            pairs = zip(spent[width, False], seconds, strict=True)
            ratio = statistics.median(plain / here for plain, here in pairs)
            said = f"lanes {width:3d}" + ", compiled" * compiled
            print(f"  {said:21s} {statistics.median(seconds) * 1e3:8.1f} ms a round  {ratio:5.2f} x")


if __name__ == "__main__":
    main()

"""Clients in lanes beside clients one at a time, in one process, on three workloads.

    python benchmarks/lanes.py [--rounds 5] [--threads 1] [W1 W2 W3]

W1: MLP 784-200-10, 100 of 1,000 clients with 100 examples, batch 20.  W2: the CNN of the FedAvg paper on 3x32x32, 50 of
500 clients with 50 examples, batch 20.  W3: logistic regression 60-10, 1,000 of 10,000 clients with 20 examples, batch
10.  One epoch of plain SGD; drift, evaluation and journal off.  The widths take turns in each round, and the ratio to
one at a time is taken within the round.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from sizes import SMALL, sized

import headway as hw
from headway.model import zoo as models

WORK = {
    "W1": (1_000, 100, 100, 20, (784,), lambda: models.mlp((784,), 10), (5, 10, 20, 50)),
    "W2": (500, 50, 50, 20, (3, 32, 32), lambda: models.cnn((3, 32, 32), 10), (2, 5)),
    "W3": (10_000, 1_000, 20, 10, (60,), lambda: models.logistic((60,), 10), (10, 100, 1_000)),
}


def smaller(work: Mapping[str, tuple]) -> dict[str, tuple]:
    """The workloads with a fiftieth of their clients, if benchmarks are small."""
    if not SMALL:
        return dict(work)
    return {name: (clients // 50, cohort // 50, *rest, (2,)) for name, (clients, cohort, *rest, _) in work.items()}


WORK = smaller(WORK)


def data_of(name: str, work: Mapping[str, tuple] = WORK) -> hw.FederatedData:
    """Random examples of a workload's shape."""
    clients, _, examples, _, shape, _, _ = work[name]
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(clients * examples, *shape, generator=generator)
    targets = torch.randint(0, 10, (clients * examples,), generator=generator)
    index = torch.arange(clients * examples).split(examples)
    held = {f"{number:06d}": part for number, part in enumerate(index)}
    return hw.FederatedData(name, hw.Examples(inputs, targets), held, classes=10)


def rounds_of(data: hw.FederatedData, cohort: int, batch: int, make, lanes: int) -> Iterator[object]:
    algorithm = hw.recipes.fedavg(trainer=hw.LocalSGD(lr=0.1, batch_size=batch), sampler=hw.Uniform(count=cohort))
    engine = hw.LocalEngine(drift=False, lanes=lanes)
    return iter(hw.Run(algorithm, data, hw.Task(make), rounds=10**6, evaluate_every=10**6, engine=engine))


def asked_for(doc: str | None, rounds: int, work: Mapping[str, tuple] = WORK) -> argparse.Namespace:
    """What the command line says, with torch at its threads."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("workloads", nargs="*", default=list(work))
    parser.add_argument("--rounds", type=int, default=sized(rounds, 1))
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    print(f"torch {torch.__version__}, {options.threads} threads, median of {options.rounds} rounds")
    return options


def in_turn(runs: Mapping[Any, Iterator[object]], rounds: int) -> dict[Any, list[float]]:
    """The seconds of each run's rounds, which take turns, after one that warms up."""
    spent: dict[Any, list[float]] = {name: [] for name in runs}
    for number in range(rounds + 1):
        for name, run in runs.items():
            begun = time.perf_counter()
            next(run)
            if number:
                spent[name].append(time.perf_counter() - begun)
    return spent


def main() -> None:
    options = asked_for(__doc__, rounds=5)
    for name in options.workloads:
        _, cohort, _, batch, _, make, widths = WORK[name]
        data = data_of(name)
        runs = {width: rounds_of(data, cohort, batch, make, width) for width in (1, *widths)}
        spent = in_turn(runs, options.rounds)
        for width, seconds in spent.items():
            ratio = statistics.median(one / many for one, many in zip(spent[1], seconds, strict=True))
            print(f"{name}  lanes {width:5d}  {statistics.median(seconds) * 1e3:8.1f} ms a round  {ratio:6.2f} x")


if __name__ == "__main__":
    main()

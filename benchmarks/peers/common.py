"""What every contender shares: the workloads, their data on disk, and the lines it exchanges with run.py.

Only NumPy and the standard library are imported here, as every contender runs in an environment of its own.

The lines: a contender is started with a workload and the folder of its data.  It prepares, and answers
`{"ready": ..}`; for each line that it then reads it runs one round, and answers `{"seconds": ..}`; on one more line it
writes the weights that it ended with to a file, and answers `{"done": true}`.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Workload:
    """A cohort of clients that each train for one epoch of plain SGD; `weights` are the model's shapes, as in torch."""

    name: str
    text: str
    model: str
    shape: tuple[int, ...]
    weights: tuple[tuple[int, ...], ...]
    clients: int
    cohort: int
    examples: int
    batch: int
    lr: float

    @property
    def bounds(self) -> list[tuple[int, int]]:
        """Where each batch starts and stops."""
        return [(start, min(start + self.batch, self.examples)) for start in range(0, self.examples, self.batch)]


W1 = Workload(
    name="W1",
    text="MLP 784-200-10; 100 of 1,000 clients with 100 examples, batch 20",
    model="mlp",
    shape=(784,),
    weights=((200, 784), (200,), (10, 200), (10,)),
    clients=1_000,
    cohort=100,
    examples=100,
    batch=20,
    lr=0.1,
)
W2 = Workload(
    name="W2",
    text="CNN 5x5x32, 5x5x64, 512, 10 on 3x32x32; 50 of 500 clients with 50 examples, batch 20",
    model="cnn",
    shape=(3, 32, 32),
    weights=((32, 3, 5, 5), (32,), (64, 32, 5, 5), (64,), (512, 4096), (512,), (10, 512), (10,)),
    clients=500,
    cohort=50,
    examples=50,
    batch=20,
    lr=0.05,
)
W3 = Workload(
    name="W3",
    text="logistic regression 60-10; 1,000 of 100,000 clients with 20 examples, batch 10",
    model="logistic",
    shape=(60,),
    weights=((10, 60), (10,)),
    clients=100_000,
    cohort=1_000,
    examples=20,
    batch=10,
    lr=0.1,
)
WORKLOADS = {each.name: each for each in (W1, W2, W3)}
if os.environ.get("HEADWAY_SMALL"):  # as in ../sizes.py: everything is tried, and the figures mean nothing
    WORKLOADS = {
        name: replace(each, clients=each.cohort // 5, cohort=each.cohort // 25, text=f"{each.text}, but far fewer")
        for name, each in WORKLOADS.items()
    }


class Problem:
    """A workload with its data, mapped from disk.

    inputs, targets: of all clients, one client after another.  start: the first weights, flat.
    cohorts `[rounds, cohort]`: the clients of each round.  orders `[rounds, cohort, examples]`: the order in which each
    of them visits its examples.
    """

    def __init__(self, workload: Workload, folder: Path) -> None:
        self.workload, self.folder = workload, folder
        self.inputs, self.targets, self.start, self.cohorts, self.orders = (
            np.load(folder / f"{name}.npy", mmap_mode="c").view(np.ndarray)
            for name in ("inputs", "targets", "start", "cohorts", "orders")
        )

    def rows(self, number: int, place: int) -> np.ndarray:
        """Which rows of the inputs a client visits, in its order: the one at a place in the cohort of a round."""
        return self.cohorts[number, place] * self.workload.examples + self.orders[number, place]

    def examples(self, number: int, place: int) -> tuple[np.ndarray, np.ndarray]:
        """The inputs and targets of that client, in its order."""
        rows = self.rows(number, place)
        return self.inputs[rows], self.targets[rows]


def unflatten(flat: np.ndarray, workload: Workload) -> list[np.ndarray]:
    """The weights of each tensor, from all in one vector."""
    cuts = np.cumsum([int(np.prod(shape)) for shape in workload.weights])
    return [part.reshape(shape) for part, shape in zip(np.split(flat, cuts[:-1]), workload.weights, strict=True)]


def flatten(weights: list[np.ndarray]) -> np.ndarray:
    """All weights in one vector."""
    return np.concatenate([np.asarray(each, dtype=np.float32).ravel() for each in weights])


def cores() -> int:
    """How many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def options_of(text: str) -> dict[str, Any]:
    """Options from `lanes=20,mode=thread`: numbers, true and false as JSON has them, all else as text."""
    return {name: _value(value) for name, _, value in (part.partition("=") for part in text.split(",") if part)}


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return text


Rounds = Iterator[int]
"""The rounds to run: asking for the next one tells that the last is over, and starts the clock."""


def contend(run: Callable[[Problem, dict[str, Any], Rounds], np.ndarray], *packages: str) -> None:
    """A contender's main function: `run` prepares, takes all the rounds, and returns the weights it ends with.

    packages: those whose versions are told.
    """
    parser = argparse.ArgumentParser()
    parser.add_argument("workload", choices=WORKLOADS)
    parser.add_argument("folder", type=Path)
    parser.add_argument("weights", type=Path, help="the file to write the last weights to")
    parser.add_argument("--options", type=options_of, default={})
    given = parser.parse_args()
    problem = Problem(WORKLOADS[given.workload], given.folder / given.workload)
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print must not come between the answers

    def answer(**facts: Any) -> None:
        print(json.dumps(facts), file=answers, flush=True)

    def rounds() -> Rounds:
        answer(ready={name: _version(name) for name in packages})
        for number in range(len(problem.cohorts)):
            if not sys.stdin.readline():
                raise SystemExit("run.py has ended")
            begun = time.perf_counter()
            yield number
            answer(seconds=time.perf_counter() - begun)

    weights = run(problem, given.options, rounds())
    sys.stdin.readline()
    np.save(given.weights, weights)
    answer(done=True)


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:  # from its source tree
        return str(getattr(sys.modules.get(package), "__version__", "unknown"))

"""The path of one client through the package: the calls, functions, files and changes of room that it costs.

    python benchmarks/walk.py [--list]

Two runs differ only in their number of clients: SCAFFOLD, two local steps a client, one client at a time, without drift
and without evaluation.  Python calls inside `headway` are recorded during the third round of each, and what the larger
run has more of is divided by the clients that it has more.  So the figures are those of one client more, wherever the
code draws the line between a client, its engine and the server: what is done once for a round, or for a group of
clients, counts nothing.  A change of room is a call into another top-level package than the call before it was in.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from types import FrameType

import torch
from torch import nn

import headway as hw

FEW, MANY, ROUND = 4, 8, 3
ROOT = Path(hw.__file__).resolve().parent


@dataclass(frozen=True, order=True)
class Function:
    """A function by its file, below the package, and its qualified name."""

    file: str
    name: str

    @property
    def room(self) -> str:
        """The top-level package, or module."""
        return self.file.split("/")[0]


@dataclass(frozen=True)
class Walk:
    """The figures of one client more; each: how often each function is called."""

    calls: float
    changes: float
    each: dict[Function, float]

    @property
    def functions(self) -> int:
        """How many functions are called at least once."""
        return len(self.each)

    @property
    def files(self) -> int:
        """How many files they are in."""
        return len({function.file for function in self.each})

    def __str__(self) -> str:
        return (
            f"one client more: {self.calls:.0f} calls of {self.functions} functions in {self.files} files, "
            f"{self.changes:.0f} changes of room"
        )


def scaffold(clients: int) -> hw.Run:
    """A run of clients with eight examples each, in batches of four."""
    source = torch.Generator().manual_seed(5)
    held = {
        f"client-{number}": tuple(
            part
            for size in (8, 3)
            for part in (torch.randn(size, 4, generator=source), torch.randint(0, 3, (size,), generator=source))
        )
        for number in range(clients)
    }
    task = hw.Task(model=lambda: nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3)))
    trainer = hw.LocalSGD(lr=0.1, batch_size=4)
    algorithm = hw.Algorithm(hw.chain(hw.Scaffold(), hw.Mean()), trainer, hw.All())
    engine = hw.LocalEngine(lanes=1, drift=False)
    data = hw.FederatedData.from_clients(held, name="walk")
    return hw.Run(algorithm, data, task, rounds=ROUND, engine=engine, seed=0, evaluate_every=None)


def recorded(clients: int) -> list[Function]:
    """The functions that the last round of a run calls, in order."""
    rounds = iter(scaffold(clients))
    for _ in range(ROUND - 1):
        next(rounds)
    called: list[Function] = []

    def note(frame: FrameType, event: str, _: object) -> None:
        if event == "call" and (path := Path(frame.f_code.co_filename)).is_relative_to(ROOT):
            called.append(Function(path.relative_to(ROOT).as_posix(), frame.f_code.co_qualname))

    before = sys.getprofile()
    sys.setprofile(note)
    try:
        next(rounds)
    finally:
        sys.setprofile(before)
    return called


def measured() -> Walk:
    """The figures of one client more."""
    recorded(FEW)  # what is kept for the next run, such as derived keys, is kept from here on
    few, many = recorded(FEW), recorded(MANY)
    more = Counter(many)
    more.subtract(Counter(few))
    each = {function: count / (MANY - FEW) for function, count in sorted(more.items()) if count >= MANY - FEW}
    changes = [sum(one.room != other.room for one, other in pairwise(walk)) for walk in (few, many)]
    return Walk((len(many) - len(few)) / (MANY - FEW), (changes[1] - changes[0]) / (MANY - FEW), each)


def main() -> None:
    """Prints the figures, and with --list each function."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--list", action="store_true", help="print how often each function is called")
    walk = measured()
    print(walk)
    if parser.parse_args().list:
        for function, count in walk.each.items():
            print(f"{count:6.0f}  {function.file}  {function.name}")


if __name__ == "__main__":
    main()

"""What SCAFFOLD's variates cost to keep: a table in a sparse file, beside a dictionary of tensors.

    python benchmarks/memory.py [--clients 100000] [--numbers 8000] [--cohort 1000] [--rounds 20] [--folder DIR]

Every round takes the memory of a uniform cohort stacked, proposes another and settles it; the median over rounds is
shown for each part.  Each way is measured in a process of its own.  The peak is of resident memory (VmHWM), and does
not count the page cache, in which the kernel keeps as much of the table's file as there is room for; `written` is what
the table's files or the dictionary's tensors hold at the end.  Single is `get` and `propose` of one client.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from sizes import sized
from torch import Tensor

from headway.client_state.store import MemoryStore


class Dictionary:
    """The same, as plainly as can be."""

    def __init__(self) -> None:
        self.committed: dict[str, dict] = {}
        self.pending: dict[str, tuple] = {}

    def get(self, client: str) -> dict | None:
        return self.committed.get(client)

    def gather(self, clients: list[str], first: dict) -> dict:
        kept = [self.get(client) or first for client in clients]
        return {"Scaffold": {"control": torch.stack([each["Scaffold"]["control"] for each in kept])}}

    def propose(self, client: str, tag: tuple, memory: dict) -> None:
        self.pending[client] = (tag, {"Scaffold": {"control": memory["Scaffold"]["control"].clone()}})

    def propose_stacked(self, clients: list[str], tag: tuple, memory: dict) -> None:
        for client, row in zip(clients, memory["Scaffold"]["control"], strict=True):
            self.propose(client, tag, {"Scaffold": {"control": row}})

    def settle(self, tag: tuple, counted: list[str]) -> None:
        accepted = set(counted)
        self.committed |= {c: memory for c, (of, memory) in self.pending.items() if c in accepted and of == tag}
        self.pending = {}

    def written(self) -> int:
        return sum(kept["Scaffold"]["control"].nbytes for kept in self.committed.values())


def written(store: MemoryStore | Dictionary) -> int:
    if isinstance(store, Dictionary):
        return store.written()
    files = [table._bytes.file for table in store._tables.values()]
    return sum(os.fstat(file).st_blocks * 512 for file in files if file is not None)


def peak() -> int:
    """The most resident memory so far, in kB."""
    return int(next(line for line in open("/proc/self/status") if line.startswith("VmHWM")).split()[1])


def timed(spent: list[float], work: Callable[[], object]) -> object:
    begun = time.perf_counter()
    found = work()
    spent.append(time.perf_counter() - begun)
    return found


def measure(way: str, options: argparse.Namespace) -> dict:
    torch.set_num_threads(1)
    names = [f"client-{i:07}" for i in range(options.clients)]
    first = {"Scaffold": {"control": torch.zeros(options.numbers)}}
    draw = random.Random(0)
    outcome = torch.randn(options.cohort, options.numbers)
    start = peak()
    store = Dictionary() if way == "dictionary" else MemoryStore(names, options.folder)
    parts: dict[str, list[float]] = {"gather": [], "propose": [], "settle": [], "get 1": [], "propose 1": []}
    for round_ in range(options.rounds):
        cohort = sorted(draw.sample(names, options.cohort))
        stacked = timed(parts["gather"], lambda c=cohort: store.gather(c, first))
        fresh: Tensor = stacked["Scaffold"]["control"].add_(outcome)
        memory, tag = {"Scaffold": {"control": fresh}}, (round_, 0)
        timed(parts["propose"], lambda c=cohort, t=tag, m=memory: store.propose_stacked(c, t, m))
        timed(parts["settle"], lambda c=cohort, t=tag: store.settle(t, c))
    found = {"peak": (peak() - start) * 1024, "written": written(store)}
    for client in cohort:
        one = {"Scaffold": {"control": outcome[0]}}
        timed(parts["propose 1"], lambda c=client, m=one: store.propose(c, (options.rounds, 0), m))
        timed(parts["get 1"], lambda c=client: store.get(c))
    return found | {name: statistics.median(spent) for name, spent in parts.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clients", type=int, default=sized(100_000, 2_000))
    parser.add_argument("--numbers", type=int, default=sized(8_000, 100))
    parser.add_argument("--cohort", type=int, default=sized(1_000, 50))
    parser.add_argument("--rounds", type=int, default=sized(20, 3))
    parser.add_argument("--folder", type=Path, help="where the table's file lies (default: where temporary files do)")
    parser.add_argument("--way", choices=("table", "dictionary"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.way is not None:
        print(json.dumps(measure(options.way, options)))
        return
    whole = options.clients * options.numbers * 4
    print(f"torch {torch.__version__}, one thread; {options.clients:,} clients x {options.numbers:,} float32", end="")
    print(f" = {whole / 1e9:.1f} GB, {options.cohort:,} clients a round, {options.rounds} rounds")
    print(f"{'':12} {'ms a round':>10} {'gather':>8} {'propose':>8} {'settle':>8}", end="")
    print(f" {'us, get 1':>10} {'propose 1':>10} {'peak MB':>9} {'written MB':>11}")
    for way in ("table", "dictionary"):
        command = [sys.executable, __file__, *sys.argv[1:], "--way", way]
        found = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
        ms = [found[part] * 1e3 for part in ("gather", "propose", "settle")]
        print(f"{way:12} {sum(ms):10.1f} " + " ".join(f"{part:8.1f}" for part in ms), end="")
        print(f" {found['get 1'] * 1e6:10.1f} {found['propose 1'] * 1e6:10.1f}", end="")
        print(f" {found['peak'] / 1e6:9.0f} {found['written'] / 1e6:11.0f}")


if __name__ == "__main__":
    main()

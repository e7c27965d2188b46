"""What a run costs as the population grows: peak memory, time to the first round, seconds a round.

    python benchmarks/population.py [--populations 10000 100000 1000000] [--cohort 1000] [--examples 4] [--rounds 5]
    python benchmarks/population.py --draws         # the cohort alone

Each population runs in a process of its own, on examples mapped from files that are written first: `--examples`
for each client, each of 32 float32 numbers and a label of 10 (at 4 examples and a million clients, 544 MB on disk).  A
logistic model is trained, batches of 4, nobody is evaluated.  Peak memory is told twice: all of it, with the pages
of the mapped files, which the system takes back when it needs them, and what the process holds itself.
"""

from __future__ import annotations

import argparse
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from sizes import sized

FEATURES, CLASSES, BLOCK = 32, 10, 100_000


def write(folder: Path, count: int) -> None:
    """`x.npy` and `y.npy` of `count` examples, block by block."""
    import numpy as np

    generator = np.random.default_rng(0)
    x = np.lib.format.open_memmap(folder / "x.npy", "w+", np.float32, (count, FEATURES))
    y = np.lib.format.open_memmap(folder / "y.npy", "w+", np.int64, (count,))
    for start in range(0, count, BLOCK):
        block = generator.standard_normal((min(BLOCK, count - start), FEATURES), dtype=np.float32)
        x[start : start + len(block)] = block
        y[start : start + len(block)] = block[:, :CLASSES].argmax(1)
    x.flush()
    y.flush()


def measure(folder: Path, clients: int, cohort: int, rounds: int) -> None:
    """Runs and prints one line; the process has done nothing else."""
    begun = time.perf_counter()
    import torch

    torch.set_num_threads(1)
    import headway as hw

    imported, held = time.perf_counter() - begun, own_memory()
    data = hw.data.mapped(folder, clients=clients, test_share=0.0)
    task = hw.Task(lambda: torch.nn.Linear(FEATURES, CLASSES))
    algorithm = hw.Algorithm(
        hw.chain(hw.Mean(), hw.ServerSGD()), hw.LocalSGD(lr=0.1, batch_size=4), hw.Uniform(count=cohort)
    )
    kept = folder / "run"
    run = hw.Run(algorithm, data, task, rounds=rounds, evaluate_every=None, folder=kept)
    opened = time.perf_counter() - begun - imported
    seconds, first, most = [], 0.0, own_memory()
    last = time.perf_counter()
    for report in run:
        now = time.perf_counter()
        assert report.count("counted") == cohort
        first = first or now - begun
        seconds.append(now - last)
        last, most = now, max(most, own_memory())
    run.close()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    disk = sum((folder / name).stat().st_size for name in ("x.npy", "y.npy"))
    print(
        f"{clients:>10,} {disk / 1e6:>8.0f} {peak / 1e6:>8.0f} {most / 1e6:>8.0f} {held / 1e6:>8.0f} {imported:>8.2f} "
        f"{opened:>8.2f} {first:>8.2f} {statistics.median(seconds[1:] or seconds):>8.3f}",
        flush=True,
    )


def draws(populations: list[int], cohort: int) -> None:
    """How long it takes to draw a cohort, and how much of it are the random bits."""
    import headway as hw
    from headway.numerics.keys import Key

    sampler, key = hw.Uniform(count=cohort), Key.root(0)
    print(f"{cohort} clients drawn; milliseconds, the best and the median of 25")
    for clients in populations:
        names = hw.data.Numbered(clients)
        for what, call in (
            ("draw", lambda names=names: sampler.draw(names, 0, key)),
            ("bits", lambda clients=clients: key.bits(clients)),
        ):
            times = []
            for _ in range(25):
                begun = time.perf_counter()
                call()
                times.append((time.perf_counter() - begun) * 1e3)
            print(f"{clients:>10,} {what} {min(times):8.2f} {statistics.median(times):8.2f}")


def own_memory() -> int:
    """The bytes of this process that no file backs (Linux)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("RssAnon")).split()[1]) * 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--populations", type=int, nargs="+", default=sized([10_000, 100_000, 1_000_000], [2_000]))
    parser.add_argument("--cohort", type=int, default=sized(1000, 20))
    parser.add_argument("--examples", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=sized(5, 2))
    parser.add_argument("--draws", action="store_true")
    parser.add_argument("--inside", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.draws:
        draws(options.populations, options.cohort)
        return
    if options.inside is not None:
        measure(options.inside, options.populations[0], options.cohort, options.rounds)
        return
    print(f"{options.cohort} clients a round, {options.examples} examples each; MB and seconds")
    names = ("clients", "on disk", "peak RSS", "own", "at start", "import", "opening", "1st done", "a round")
    print(f"{names[0]:>10} " + " ".join(f"{name:>8}" for name in names[1:]))
    for clients in options.populations:
        with tempfile.TemporaryDirectory() as folder:
            write(Path(folder), clients * options.examples)
            numbers = [f"--{name}={getattr(options, name)}" for name in ("cohort", "examples", "rounds")]
            command = [sys.executable, __file__, "--populations", str(clients), *numbers, "--inside", folder]
            subprocess.run(command, check=True, env=dict(os.environ))


if __name__ == "__main__":
    main()

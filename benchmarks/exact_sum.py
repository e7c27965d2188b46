"""What one exact add costs, in float32 adds of the same vector.

    python benchmarks/exact_sum.py [--size 159010] [--threads 1]

The exact accumulator is paid once per group of clients, per arriving update and per relay.  Terms are
float64 group sums of float32 updates of very different magnitudes; the two alternate.
"""

from __future__ import annotations

import argparse
import statistics
import time

import torch
from sizes import sized

from headway.numerics.exact_sum import ExactSum


def seconds(call, repeats: int) -> float:
    begun = time.perf_counter()
    for _ in range(repeats):
        call()
    return (time.perf_counter() - begun) / repeats


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", type=int, default=sized(159_010, 5_000))
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    generator = torch.Generator().manual_seed(0)
    plain = torch.zeros(options.size)
    print(f"torch {torch.__version__}, {options.threads} threads, {options.size} numbers, median of 15 pairs")
    for name, spread in (("alike, 1e-3 to 1", 3), ("spread, 1e-9 to 1", 9), ("hostile, 1e-30 to 1", 30)):
        magnitude = 10 ** (-spread * torch.rand(options.size, generator=generator, dtype=torch.float64))
        update = (torch.randn(options.size, generator=generator) * magnitude).float()
        term, total = update.double() * 100, ExactSum()
        total.add(term)
        pairs = [
            (seconds(lambda: total.add(term), 5), seconds(lambda: plain.add_(update, alpha=0.5), 50))  # noqa: B023
            for _ in range(15)
        ]
        exact = statistics.median(a for a, _ in pairs)
        ratio = statistics.median(a / b for a, b in pairs)
        print(f"{name:20} {exact * 1e3:7.2f} ms an add, {ratio:6.0f} float32 adds, {len(total.bins)} bins")


if __name__ == "__main__":
    main()

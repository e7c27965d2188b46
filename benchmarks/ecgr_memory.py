"""What ECGR's memory budget costs in time: full precision, half precision, and replay in 1, 4 and 16 blocks.

    python benchmarks/ecgr_memory.py [--rounds 5] [--threads 1]

LeNet on 28 x 28 pictures, one client of 640 examples, batch 32, one epoch: 20 steps of 61,706 numbers.  FedAvg,
which keeps no steps, is the measure; the ways alternate within a round, and the median of the ratios of each round
is taken.  The bytes are those of the scratch memory; the last column is the distance of the first round's model
from that in full precision, as a part of the movement.
"""

from __future__ import annotations

import argparse
import statistics
import time

import torch
from sizes import sized

import headway as hw
from headway import recipes
from headway.model import zoo as models

CLIENTS, EXAMPLES, BATCH = 1, sized(640, 96), 32


def make_data() -> hw.FederatedData:
    generator = torch.Generator().manual_seed(0)
    return hw.FederatedData.from_clients(
        {
            f"client-{i}": (
                torch.randn(EXAMPLES, 1, 28, 28, generator=generator),
                torch.randint(0, 10, (EXAMPLES,), generator=generator),
            )
            for i in range(CLIENTS)
        }
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=sized(5, 1))
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    options = parser.parse_args()
    torch.set_num_threads(options.threads)

    data, task = make_data(), hw.Task(model=models.factory("lenet", (1, 28, 28), 10))
    steps = -(-EXAMPLES // BATCH)
    numbers = 61_706
    ways: dict[str, tuple[str, dict]] = {"fedavg": ("fedavg", {})}
    ways |= {kept: ("fedavg+ecgr", {"steps_kept": kept}) for kept in ("full", "half")}
    for blocks in (1, 4, 16):
        width = -(-numbers // blocks)
        width = width if blocks == 1 else -(-width // 4096) * 4096  # whole chunks of the Gram matrix
        memory = {"steps_kept": "replay", "steps_memory": steps * width * 4}
        ways[f"replay, {-(-numbers // width)} blocks"] = ("fedavg+ecgr", memory)
    runs = {
        name: hw.Run(
            recipes.recipe(recipe, trainer=hw.LocalSGD(lr=0.01, batch_size=BATCH, momentum=0.9, **kept)),
            data,
            task,
            rounds=10**6,
            evaluate_every=10**6,
            engine=hw.LocalEngine(drift=False),
        )
        for name, (recipe, kept) in ways.items()
    }
    start = runs["full"].state.params.clone()
    rounds = {name: iter(run) for name, run in runs.items()}
    first: dict[str, torch.Tensor] = {}
    spent: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(options.rounds + 1):
        for name, run in rounds.items():
            begun = time.perf_counter()
            next(run)
            if number:  # the first round warms up
                spent[name].append(time.perf_counter() - begun)
            else:
                first[name] = runs[name].state.params.clone()
    print(f"torch {torch.__version__}, {options.threads} threads, {options.rounds} rounds of {CLIENTS * steps} steps")
    print(f"{'':20} {'ms a round':>10} {'times fedavg':>13} {'scratch bytes':>14} {'from full':>10}")
    moved = float((first["full"] - start).norm())
    for name, run in runs.items():
        ratio = statistics.median(a / b for a, b in zip(spent[name], spent["fedavg"], strict=True))
        away = "" if name == "fedavg" else f"{float((first[name] - first['full']).norm()) / moved:10.1e}"
        middle = statistics.median(spent[name]) * 1e3
        scratch = run.engine.execution.setup.flat_module.scratch_bytes
        print(f"{name:20} {middle:10.1f} {ratio:13.2f} {scratch:14,} {away:>10}")


if __name__ == "__main__":
    main()

"""Robust rules on 8x8 digits under attack: 15 honest clients and 4 attackers, softmax regression, 200 steps.

    python benchmarks/robust_digits.py [--partition iid|sorted] [--rules mean,NNM+Krum,...] [--seeds 1]

Every client makes one step on 32 examples in each round (lr 0.5), the server has momentum 0.9, and the attackers know
all updates.  Printed: accuracy on the central test set after 200 rounds, of the last model that was finite where a run
diverged (marked *), and the worst case of each rule; of several seeds, which draw the division of the data too, the
mean and the standard deviation.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Sequence

import torch
from sizes import sized

import headway as hw
from headway.attacks import (
    ALIE,
    Attack,
    AttackedEngine,
    AttackPlan,
    FallOfEmpires,
    InnerProduct,
    LabelFlip,
    Mimic,
    SignFlip,
)
from headway.core.stage import Aggregator

F, HONEST, ROUNDS = 4, 15, sized(200, 1)
RULES: dict[str, Aggregator] = {
    "mean": hw.Mean("clients"),
    "Median": hw.Median(F),
    "TrimmedMean": hw.TrimmedMean(F),
    "Krum": hw.Krum(F),
    "GeometricMedian": hw.GeometricMedian(F),
    "NNM+Krum": hw.NNM(F, hw.Krum(F)),
    "NNM+Median": hw.NNM(F, hw.Median(F)),
}
ATTACKS: dict[str, Attack | None] = {
    "none": None,
    "sign flip": SignFlip(),
    "label flip": LabelFlip(),
    "IPM 3": InnerProduct(3.0),
    "FOE 10": FallOfEmpires(10.0),
    "ALIE": ALIE(),
    "mimic": Mimic(),
}
PARTITIONS = {"iid": {"kind": "iid"}, "sorted": {"kind": "shards", "per_client": 1}}


def accuracy(rule: Aggregator, attack: Attack | None, partition: str, seed: int = 0) -> tuple[float, bool]:
    """The accuracy of the last model, and whether the run diverged."""
    given = {"partition": PARTITIONS[partition], "central_share": 0.2, "test_share": 0.0}
    data = hw.data.load("digits", clients=F + HONEST, key=seed, **given)
    task = hw.Task(model=lambda: hw.models.logistic(data.input_shape, 10))
    engine = hw.LocalEngine(lanes=F + HONEST, drift=False)
    if attack is not None:
        engine = AttackedEngine(engine, AttackPlan(attack, count=F, knows="everyone"))
    links = hw.chain(rule, hw.ServerSGD(lr=1.0, momentum=0.9))
    algorithm = hw.Algorithm(links, hw.LocalSGD(lr=0.5, batch_size=32, steps=1), hw.All())
    run = hw.Run(algorithm, data, task, rounds=ROUNDS, seed=seed, engine=engine, evaluate_every=ROUNDS)
    diverged = False
    try:
        for _ in run:
            pass
    except hw.Diverged:
        diverged = True
    with torch.no_grad():
        predicted = run.model()(data.central.inputs).argmax(1)
    run.close()
    return float((predicted == data.central.targets).double().mean()), diverged


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--partition", choices=sorted(PARTITIONS), default="iid")
    parser.add_argument("--rules", default=sized(",".join(RULES), "mean,NNM+Krum"))
    parser.add_argument("--seeds", type=int, default=1)
    options = parser.parse_args()
    print(f"{'rule':16}" + "".join(f"{name:>12}" for name in (*ATTACKS, "worst")))
    for name in options.rules.split(","):
        found = [
            [accuracy(RULES[name], attack, options.partition, seed) for attack in ATTACKS.values()]
            for seed in range(options.seeds)
        ]
        columns = [*zip(*found, strict=True), [(min(value for value, _ in line), False) for line in found]]
        print(f"{name:16}" + "".join(f"{cell(column):>12}" for column in columns), flush=True)


def cell(found: Sequence[tuple[float, bool]]) -> str:
    """The mean and the deviation over the seeds, in percent; * where a run diverged."""
    return mean_and_spread([100 * value for value, _ in found]) + "*" * any(diverged for _, diverged in found)


def mean_and_spread(values: Sequence[float]) -> str:
    """The mean, and the standard deviation of several."""
    spread = f" ± {statistics.stdev(values):.1f}" if len(values) > 1 else ""
    return f"{statistics.fmean(values):.1f}{spread}"


if __name__ == "__main__":
    main()

"""Robust rules on 8x8 digits under attack: 15 honest clients and 4 attackers, softmax regression, 200 steps.

    python benchmarks/robust_digits.py [--partition iid|sorted] [--rules mean,NNM+Krum,...]

Every client makes one step on 32 examples in each round (lr 0.5), the server has momentum 0.9, and the attackers know
all updates.  Printed: accuracy on the central test set after 200 rounds, of the last model that was finite where a run
diverged (marked *), and the worst case of each rule.
"""

from __future__ import annotations

import argparse

import torch

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

F, HONEST, ROUNDS = 4, 15, 200
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


def accuracy(rule: Aggregator, attack: Attack | None, partition: str, rounds: int = ROUNDS) -> tuple[float, bool]:
    """The accuracy of the last model, and whether the run diverged."""
    given = {"partition": PARTITIONS[partition], "central_share": 0.2, "test_share": 0.0}
    data = hw.data.load("digits", clients=F + HONEST, **given)
    task = hw.Task(model=lambda: hw.models.logistic(data.input_shape, 10))
    engine = hw.LocalEngine(lanes=F + HONEST, drift=False)
    if attack is not None:
        engine = AttackedEngine(engine, AttackPlan(attack, count=F, knows="everyone"))
    links = hw.chain(rule, hw.ServerSGD(lr=1.0, momentum=0.9))
    algorithm = hw.Algorithm(links, hw.LocalSGD(lr=0.5, batch_size=32, steps=1), hw.All())
    run = hw.Run(algorithm, data, task, rounds=rounds, engine=engine, evaluate_every=rounds)
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
    parser.add_argument("--rules", default=",".join(RULES))
    options = parser.parse_args()
    print(f"{'rule':16}" + "".join(f"{name:>12}" for name in (*ATTACKS, "worst")))
    for name in options.rules.split(","):
        found = [accuracy(RULES[name], attack, options.partition) for attack in ATTACKS.values()]
        cells = [f"{100 * value:.1f}{'*' if diverged else ''}" for value, diverged in found]
        cells.append(f"{100 * min(value for value, _ in found):.1f}")
        print(f"{name:16}" + "".join(f"{cell:>12}" for cell in cells), flush=True)


if __name__ == "__main__":
    main()

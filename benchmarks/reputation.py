"""What a quarantine by reputation gives and costs: 8x8 digits, 15 honest clients and 4 that flip signs.

    python benchmarks/reputation.py [--seeds 3] [--rounds 100] [--below 0.3] [--partitions iid,sorted]

Softmax regression; every client that is drawn makes one step on 32 examples in each round (lr 0.5), the rule is the
mean over clients, the server has momentum 0.9, and the quarantine has its default numbers but its threshold.  Printed:
accuracy on the central test set in percent without and with the quarantine, the mean over the seeds and the standard
deviation; of each seed, the first round without any attacker and how many honest clients come into quarantine; and the
share of their rounds that honest clients miss by it.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Sequence

from robust_digits import HONEST, PARTITIONS, F, mean_and_spread
from sizes import sized

import headway as hw
from headway.attacks import Attack, AttackedEngine, AttackPlan, SignFlip
from headway.observe.round_report import RoundReport

ATTACKS: dict[str, Attack | None] = {"SignFlip": SignFlip(), "SignFlip 5": SignFlip(5.0), "none": None}


def trained(attack: Attack | None, partition: str, seed: int, options: argparse.Namespace, below: float | None):
    """The accuracy of the last model, the rounds' reports and the names of the attackers."""
    given = {"partition": PARTITIONS[partition], "central_share": 0.2, "test_share": 0.0}
    data = hw.data.load("digits", clients=F + HONEST, key=seed, **given)
    task = hw.Task(model=lambda: hw.models.logistic(data.input_shape, 10))
    engine = hw.LocalEngine(lanes=F + HONEST, drift=False)
    attackers = set[str]()
    if attack is not None:
        plan = AttackPlan(attack, count=F, knows="everyone")
        engine, attackers = AttackedEngine(engine, plan), set(plan.among(data.clients))
    policy = None if below is None else hw.Reputation(quarantine_below=below)
    links = hw.chain(hw.Mean("clients"), hw.ServerSGD(lr=1.0, momentum=0.9))
    trainer = hw.LocalSGD(lr=0.5, batch_size=32, steps=1)
    algorithm = hw.Algorithm(links, trainer, hw.All(), reputation=policy)
    run = hw.Run(algorithm, data, task, rounds=options.rounds, seed=seed, engine=engine, evaluate_every=options.rounds)
    reports = list(run)
    run.close()
    return reports[-1].central["accuracy"], reports, attackers


def found(reports: Sequence[RoundReport], attackers: set[str], clients: int) -> tuple[float, float, float]:
    """The first round without attackers (infinite if there is none), how many honest clients were in quarantine, and
    the share of honest clients' rounds that they spent there."""
    inside = [set(report.quarantine) for report in reports]
    clean = [place + 2 for place, names in enumerate(inside) if attackers and attackers <= names]
    honest = [names - attackers for names in inside]
    lost = sum(map(len, honest)) / (len(reports) * (clients - len(attackers)))
    return (clean or [float("inf")])[0], len(set[str]().union(*honest)), 100 * lost


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=sized(3, 1))
    parser.add_argument("--rounds", type=int, default=sized(100, 2))
    parser.add_argument("--below", type=float, default=0.3)
    parser.add_argument("--partitions", default=sized("iid,sorted", "iid"))
    options = parser.parse_args()
    print("| clients | attack | mean | with quarantine | attackers out | honest clients hit | of their rounds |")
    print("|---|---|---|---|---|---|---|")
    for partition in options.partitions.split(","):
        for name, attack in list(ATTACKS.items())[: sized(len(ATTACKS), 1)]:
            plain, judged, facts = [], [], []
            for seed in range(options.seeds):
                plain.append(100 * trained(attack, partition, seed, options, None)[0])
                value, reports, attackers = trained(attack, partition, seed, options, options.below)
                judged.append(100 * value)
                facts.append(found(reports, attackers, F + HONEST))
            rounds, hit, share = zip(*facts, strict=True)
            out = "-" if attack is None else ", ".join("never" if r == float("inf") else f"{r:g}" for r in rounds)
            numbers = (
                mean_and_spread(plain),
                mean_and_spread(judged),
                out,
                ", ".join(f"{h:g}" for h in hit),
                f"{statistics.fmean(share):.1f} %",
            )
            print(f"| {partition} | {name} | " + " | ".join(numbers) + " |", flush=True)


if __name__ == "__main__":
    main()

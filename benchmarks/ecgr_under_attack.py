"""Does client-side regulation (ECGR) help or hurt robust rules?  8x8 digits, 15 honest clients and 4 attackers.

    python benchmarks/ecgr_under_attack.py [--seeds 3] [--rounds 25] [--steps 5] [--partitions iid,sorted]

Softmax regression, full participation, local steps on 16 examples (lr 0.5), attackers that know all updates.  The
data, ECGR, the attacks and the rules are Headway's; the clients' local training is written out here for all clients at
once, so that the whole grid takes minutes.  The same grid through `headway attack`, a run folder for each cell,
is benchmarks/attacks/ecgr.toml.  Printed: accuracy on the central test set, mean over the seeds, from FedAvg to ECGR
clients, and the standard deviation of the difference over the seeds.
"""

from __future__ import annotations

import argparse
import statistics
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import torch
from sizes import sized
from torch import Tensor

import headway as hw
from headway.attacks import (
    ALIE,
    Attack,
    AttackView,
    FallOfEmpires,
    InnerProduct,
    LabelFlip,
    Mimic,
    SignFlip,
)
from headway.core.update import Rows
from headway.data import Examples, FederatedData
from headway.numerics.keys import Key

F, HONEST, LR, BATCH = 4, 15, 0.5, 16
CLIENTS, PIXELS, CLASSES = F + HONEST, 64, 10
RULES: dict[str, Any] = {
    "mean": None,
    "Median": hw.Median(F),
    "Krum": hw.Krum(F),
    "NNM+Krum": hw.NNM(F, hw.Krum(F)),
    "NNM+Median": hw.NNM(F, hw.Median(F)),
}
ATTACKS: dict[str, Attack | None] = {
    "none": None,
    "SignFlip": SignFlip(),
    "LabelFlip": LabelFlip(),
    "ALIE": ALIE(),
    "IPM 3": InnerProduct(3.0),
    "FOE 10": FallOfEmpires(10.0),
    "Mimic": Mimic(),
}
PARTITIONS: dict[str, dict[str, Any]] = {"iid": {"kind": "iid"}, "sorted": {"kind": "shards", "per_client": 1}}


@dataclass(frozen=True)
class Clients:
    """The training examples of all clients, attackers last, padded: `[C, N, 64]`, `[C, N]`, and how many there are."""

    inputs: Tensor
    targets: Tensor
    sizes: Tensor

    @classmethod
    def of(cls, data: FederatedData, attack: Attack | None, key: Key) -> Clients:
        """Those of the data, the last F of them as the attack changes them."""
        parts = [data.train_of(client) for client in sorted(data.clients)]
        if attack is not None:
            parts[HONEST:] = [attack.poison(part, CLASSES, key) for part in parts[HONEST:]]
        longest = max(map(len, parts))
        padded = [torch.nn.functional.pad(p.inputs.flatten(1), (0, 0, 0, longest - len(p))) for p in parts]
        targets = [torch.nn.functional.pad(p.targets, (0, longest - len(p))) for p in parts]
        return cls(torch.stack(padded), torch.stack(targets), torch.tensor([len(p) for p in parts]))


def steps_of(params: Tensor, clients: Clients, count: int, generator: torch.Generator) -> Tensor:
    """The local steps of all clients from the same model, `[C, K, P]`."""
    rows = torch.arange(CLIENTS)[:, None]
    here = params.expand(CLIENTS, -1).clone()
    steps = []
    for _ in range(count):
        drawn = (torch.rand(CLIENTS, BATCH, generator=generator) * clients.sizes[:, None]).long()
        x, y = clients.inputs[rows, drawn], clients.targets[rows, drawn]
        weight, bias = here[:, : PIXELS * CLASSES].view(CLIENTS, PIXELS, CLASSES), here[:, None, PIXELS * CLASSES :]
        error = torch.softmax(torch.baddbmm(bias, x, weight), -1) - torch.nn.functional.one_hot(y, CLASSES)
        gradient = torch.cat([torch.bmm(x.transpose(1, 2), error).flatten(1), error.sum(1)], 1) / BATCH
        steps.append(-LR * gradient)
        here = here + steps[-1]
    return torch.stack(steps, 1)


def deltas_of(steps: Tensor, ecgr: hw.ECGR | None) -> Tensor:
    """What honest clients send, float64 `[C, P]`."""
    steps = steps.double()
    if ecgr is None:
        return steps.sum(1)
    facts: Any = SimpleNamespace(
        steps=torch.full((CLIENTS,), steps.shape[1]), squared_movement=steps.sum(1).square().sum(-1)
    )
    coefficients = ecgr.combine(steps @ steps.transpose(1, 2), facts)
    return (coefficients.unsqueeze(-1) * steps).sum(1)


def aggregate(rule: Any, updates: Tensor) -> Tensor:
    """The rule's aggregate `[P]`."""
    if rule is None:
        return updates.mean(0)
    names = tuple(f"{index:02d}" for index in range(len(updates)))
    return rule.reduce(Rows(names, {"delta": updates}, torch.ones(len(updates)).double()), {}, None)[0].delta


def accuracy(
    rule: Any, attack: Attack | None, data: FederatedData, ecgr: hw.ECGR | None, seed: int, options: Any
) -> float:
    """The accuracy after all rounds."""
    key, generator = Key.root(seed), torch.Generator().manual_seed(seed)
    clients = Clients.of(data, attack, key)
    params = torch.zeros(PIXELS * CLASSES + CLASSES)
    for round_ in range(options.rounds):
        updates = deltas_of(steps_of(params, clients, options.steps, generator), ecgr)
        if attack is not None:
            view = AttackView(
                round_, key.derive(round_), updates[HONEST:], updates[:HONEST], torch.ones(F), lambda u: u, CLIENTS
            )
            updates = torch.cat([updates[:HONEST], attack.craft(view)])
        params = (params + aggregate(rule, updates).float()).clamp(-1e6, 1e6)
    return tested(params, data.central)


def tested(params: Tensor, examples: Examples | None) -> float:
    """The share of right answers."""
    assert examples is not None
    weight, bias = params[: PIXELS * CLASSES].view(PIXELS, CLASSES), params[PIXELS * CLASSES :]
    found = (examples.inputs.flatten(1) @ weight + bias).argmax(1)
    return float((found == examples.targets).double().mean())


def cell(found: dict[tuple[str, int], float], seeds: int) -> str:
    """Means of both kinds of clients, and the deviation of their difference, in percent."""
    before, after = ([100 * found[kind, seed] for seed in range(seeds)] for kind in ("FedAvg", "ECGR"))
    gained = [b - a for a, b in zip(before, after, strict=True)]
    spread = f" ± {statistics.stdev(gained):.1f}" if seeds > 1 else ""
    return f"{statistics.fmean(before):.1f} {statistics.fmean(gained):+.1f}{spread}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=sized(3, 1))
    parser.add_argument("--rounds", type=int, default=sized(25, 1))
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--partitions", default=sized("iid,sorted", "iid"))
    options = parser.parse_args()
    for place in options.partitions.split(","):
        given = {"partition": PARTITIONS[place], "central_share": 0.2, "test_share": 0.0}
        data = [hw.data.load("digits", clients=CLIENTS, key=seed, **given) for seed in range(options.seeds)]
        print(f"\n{place}: accuracy of FedAvg clients in percent, and what ECGR changes")
        print("| rule | " + " | ".join(ATTACKS) + " | worst |\n|" + "---|" * (len(ATTACKS) + 2))
        for name, rule in RULES.items():
            line, worst = [], dict[tuple[str, int], float]()
            for attack in ATTACKS.values():
                found = {
                    (kind, seed): accuracy(rule, attack, data[seed], ecgr, seed, options)
                    for kind, ecgr in (("FedAvg", None), ("ECGR", hw.ECGR()))
                    for seed in range(options.seeds)
                }
                worst = {which: min(worst.get(which, 1.0), value) for which, value in found.items()}
                line.append(cell(found, options.seeds))
            print(f"| {name} | " + " | ".join([*line, cell(worst, options.seeds)]) + " |", flush=True)


if __name__ == "__main__":
    main()

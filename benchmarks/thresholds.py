"""What the figures of `headway advise` come to on partitions of MNIST-5k: docs/choosing.md sets its thresholds by it.

python benchmarks/thresholds.py
"""

import math

import torch
from sizes import sized

from headway.advice.likeness import likeness
from headway.advice.probe import Probe, probe
from headway.data import label_skew, load
from headway.experiment.runfile import load_runfile
from headway.numerics.keys import Key

MODEL = ['model.name="mlp"', "model.hidden=[50]"]
ALPHAS, SEEDS = sized((None, 10.0, 1.0, 0.5, 0.1), (None, 0.1)), sized(3, 1)
SKEWED = {10: "dirichlet-niid"} | sized(
    {100: "dirichlet-client"}, {}
)  # the first cannot always serve a hundred clients


def partition(kind, alpha):
    return {"kind": "iid"} if alpha is None else {"kind": kind, "alpha": alpha}


def label_mixes():
    for alpha in ALPHAS:
        each = []
        for seed in range(SEEDS):
            data = load("mnist5k", key=seed, partition=partition("dirichlet-niid", alpha), clients=10)
            each.append(likeness(data, Key.root(seed)).labels.beyond_chance)
        print(f"label mix, 10 clients, dirichlet-niid alpha {alpha}: {[round(value, 2) for value in each]}")
    for kind in ("dirichlet-niid", "dirichlet-client"):
        parts = [load("mnist5k", key=seed, partition=partition(kind, 1.0), clients=10) for seed in range(SEEDS)]
        print(f"distance, 10 clients, {kind} alpha 1: {[round(label_skew(data).distance, 2) for data in parts]}")


def drifts():
    for clients, kind in SKEWED.items():
        for alpha in ALPHAS:
            each = []
            for seed in range(min(SEEDS, 2)):
                table = ", ".join(
                    f'{k} = "{v}"' if k == "kind" else f"{k} = {v}" for k, v in partition(kind, alpha).items()
                )
                sets = [f"data.partition={{ {table} }}", f"data.clients={clients}", *MODEL]
                run = load_runfile("mnist", sets, seed=seed).build()
                *_, found = probe(run.data, run.task, run.algorithm.trainer, seed)
                assert isinstance(found, Probe)
                own, dealt = found.lost or (math.nan, math.nan)
                each.append(own - dealt)
            print(f"drift, {clients} clients, {kind} alpha {alpha}: {[round(value, 2) for value in each]}", flush=True)


if __name__ == "__main__":
    torch.set_num_threads(1)
    label_mixes()
    drifts()

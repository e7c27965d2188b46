"""The hashes of whole runs, to see whether a change altered any number.

    python benchmarks/golden_runs.py --out before.json            # with the code as it was
    python benchmarks/golden_runs.py --against before.json        # with the code as it is: lists what differs

Every recipe on the hospitals (uneven sizes, own test parts), with an engine each of: one client at a time, four side by
side, two worker processes with lanes of two, and a simulated clock; models with BatchNorm, dropout and convolutions
beside.  A hash covers the model, the server's state and the reported losses, metrics, drift and bytes of every round.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import tempfile
import warnings
from pathlib import Path

import torch
from sizes import SMALL
from torch import nn

import headway as hw
from headway import recipes

ROUNDS = 3
LATE = {"fedbuff": {"buffer": 2, "concurrency": 3}, "fedasync": {"concurrency": 3}}


def mlp() -> nn.Module:
    return nn.Sequential(nn.Linear(35, 16), nn.ReLU(), nn.Linear(16, 2))


def dropout() -> nn.Module:
    return nn.Sequential(nn.Linear(35, 16), nn.ReLU(), nn.Dropout(0.3), nn.Linear(16, 2))


def norm() -> nn.Module:
    return nn.Sequential(nn.Linear(35, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 2))


def convolution() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(64, 16), nn.Linear(16, 10)
    )


def engines() -> dict[str, hw.LocalEngine]:
    return {
        "one": hw.LocalEngine(),
        "lanes-4": hw.LocalEngine(lanes=4),
        "lanes-4-plain": hw.LocalEngine(lanes=4, drift=False),
        "workers-2": hw.ProcessEngine(2, lanes=2),
        "clock": hw.ClockEngine(hw.LocalEngine(), hw.DeviceFleet()),
    }


def trainers() -> dict[str, hw.LocalSGD]:
    return {
        "sgd": hw.LocalSGD(lr=0.05, batch_size=32),
        "momentum": hw.LocalSGD(lr=0.02, batch_size=32, epochs=2, momentum=0.9, schedule=hw.Schedule(kind="step")),
    }


def digest(run: hw.Run) -> str:
    """Trains, and hashes all that came of it."""
    made = hashlib.sha256()
    for report in run:
        numbers = [report.train_loss, report.metrics, report.central, report.drift, report.bytes_up, report.bytes_down]
        made.update(repr(numbers).encode())
    for name, tensor in sorted(run.state.tensors().items()):
        made.update(name.encode() + tensor.detach().cpu().contiguous().numpy().tobytes())
    run.close()
    return made.hexdigest()[:20]


def cases() -> dict[str, tuple]:
    """By name: algorithm, data, task, engine."""
    hospitals, digits = (
        hw.data.load("hospitals"),
        hw.data.load("digits", partition={"kind": "dirichlet-niid", "alpha": 0.5}, clients=6),
    )
    metrics = ("balanced_accuracy", "auroc")
    found = {}
    for name in recipes.names():
        for label, trainer in trainers().items():
            if not recipes.takes_trainer(name) and label != "sgd":
                continue
            late = LATE.get(name.partition("+")[0], {})
            options = late | ({"trainer": trainer} if recipes.takes_trainer(name) else {})
            for place, engine in engines().items():
                if late and place != "clock":
                    continue
                task = hw.Task(model=mlp, metrics=metrics)
                found[f"{name} {label} {place}"] = (recipes.recipe(name, **options), hospitals, task, engine)
    small = hw.LocalSGD(lr=0.05, batch_size=32)
    for place in engines():
        for model, more in ((dropout, {}), (norm, {"buffers": "average"}), (norm, {"buffers": "local"})):
            task = hw.Task(model=model, metrics=metrics, **more)
            name = f"{model.__name__} {more.get('buffers', '')} {place}"
            found[name] = (recipes.scaffold(trainer=small), hospitals, task, engines()[place])
        task = hw.Task(model=convolution)
        found[f"convolution {place}"] = (recipes.fedavg(trainer=small, ecgr=True), digits, task, engines()[place])
    return found


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--out", type=Path)
    options.add_argument("--against", type=Path)
    given = options.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    hashes = {}
    for name, (algorithm, data, task, engine) in cases().items():
        if SMALL and not name.startswith("fedavg sgd"):
            continue
        with tempfile.TemporaryDirectory() as folder:
            try:
                hashes[name] = digest(
                    hw.Run(algorithm, data, task, rounds=ROUNDS, seed=1, engine=engine, folder=Path(folder) / "run")
                )
            except hw.HeadwayError as error:
                hashes[name] = f"refused: {str(error)[:100]}"
    if given.out is not None:
        given.out.write_text(json.dumps(hashes, indent=1))
    if given.against is not None:
        before = json.loads(given.against.read_text())
        differing = [name for name in {**before, **hashes} if before.get(name) != hashes.get(name)]
        for name in differing:
            print(f"{name}: {before.get(name)} before, {hashes.get(name)} now")
        print(f"{len(hashes) - len(differing)} of {len(hashes)} runs have the same bits as before")
        raise SystemExit(bool(differing))


if __name__ == "__main__":
    main()

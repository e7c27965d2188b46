"""What privacy costs on Fashion-MNIST: accuracy by epsilon, population, algorithm, and where the noise is drawn.

    python benchmarks/privacy_accuracy.py [--data FOLDER] [--out FILE] [--seeds 0 1 2] [--rows 1000/fedavg/ 100/]
    python benchmarks/privacy_accuracy.py --table docs/results.md --picture docs/images/privacy-accuracy.png

The first command trains what is not yet in the file of results, one line a run, so that it goes on where it stopped;
the second writes the tables between two marks of a page, and the picture.  Data: Debian's dataset-fashion-mnist, or a
folder with its four files.

Clients have unlike mixes of classes (`dirichlet-niid`, alpha 0.5).  Each takes part in each of 30 rounds with the same
probability, by itself (Poisson): 0.2 of 1,000 clients, 0.5 of 100.  Softmax regression on pictures that are averaged to
14x14 (1,970 parameters), one local epoch, learning rate 0.5, batch 20 of 1,000 clients and 60 of 100.  Updates are
clipped to norm 1, also without noise.  Privacy is that of clients, at delta 1e-5, by the accountant of the ledger, and
the epsilon of each finished run is checked to be within the budget.  Central: GaussianNoise on the mean.  Distributed:
Quantize to 16 bits, Skellam shares at the clients, SecureSum (mode "ideal": the sum of the real protocol, bit for bit),
the noise being enough with the fewest survivors, 130 of about 200 and 20 of about 50.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from sizes import SMALL, sized
from torch import nn

import headway as hw
from headway.numerics.keys import Key
from headway.privacy.calibration import noise_for
from headway.privacy.options import PrivacyOptions
from headway.privacy.spends import Sampling

ROUNDS, DELTA, BITS = sized(30, 2), 1e-5, 16
EPSILONS = (None, 8.0, 3.0, 1.0)
BEGIN, END = "<!-- privacy-accuracy: begin -->", "<!-- privacy-accuracy: end -->"


def model() -> nn.Module:
    """Softmax regression on averages of four pixels."""
    return nn.Sequential(nn.AvgPool2d(2), nn.Flatten(), nn.Linear(196, 10))


@dataclass(frozen=True)
class Population:
    """A population's clients, the probability of each, the batch, the clip norm and the fewest survivors of a sum."""

    clients: int
    rate: float
    batch: int
    clip: float
    survivors: int


POPULATIONS = (Population(1000, 0.2, 20, 1.0, 130), Population(100, 0.5, 60, 1.0, 20))


@dataclass(frozen=True)
class Cell:
    """A row of the table: noise is "none", "central" or "distributed", secure whether only the sum is seen."""

    clients: int
    algorithm: str
    epsilon: float | None
    noise: str
    secure: bool

    @property
    def name(self) -> str:
        """The row's name in the file of results."""
        secure = "+securesum" * self.secure
        return f"{self.clients}/{self.algorithm}/{self.noise}{secure}/{self.epsilon or 'inf'}"


def cells() -> Iterator[Cell]:
    """All rows, those that decide the most first."""
    populations = POPULATIONS[1:] if SMALL else POPULATIONS
    for population in populations:
        for algorithm in ("fedavg", "ecgr"):
            yield Cell(population.clients, algorithm, None, "none", False)
            yield Cell(population.clients, algorithm, None, "none", True)
            for epsilon in EPSILONS[1:2] if SMALL else EPSILONS[1:]:
                yield Cell(population.clients, algorithm, epsilon, "central", False)
                yield Cell(population.clients, algorithm, epsilon, "distributed", True)
            if not SMALL:
                yield Cell(population.clients, algorithm, 8.0, "central", True)


def stages_of(cell: Cell, multiplier: float) -> list[hw.Stage]:
    """The chain of a row."""
    population = next(each for each in POPULATIONS if each.clients == cell.clients)
    stages: list[hw.Stage] = [hw.ECGR(select=0.5, beta=0.2)] if cell.algorithm == "ecgr" else []
    stages.append(hw.Clip(population.clip))
    if cell.secure:
        stages.append(hw.Quantize(bits=BITS))
    if cell.noise == "distributed":
        stages.append(hw.Skellam(multiplier, survivors=population.survivors))
    if cell.secure:
        fewest = {"min_cohort": population.survivors, "min_survivors": population.survivors}
        stages.append(hw.SecureSum(mode="ideal", **(fewest if cell.noise == "distributed" else {})))
    stages.append(hw.Mean(over="expected"))
    if cell.noise == "central":
        stages.append(hw.GaussianNoise(multiplier))
    return stages


def algorithm_of(cell: Cell, multiplier: float = 1.0) -> hw.Algorithm:
    """The algorithm of a row."""
    population = next(each for each in POPULATIONS if each.clients == cell.clients)
    trainer = hw.LocalSGD(lr=0.5, batch_size=population.batch, epochs=1)
    return hw.Algorithm(hw.chain(*stages_of(cell, multiplier)), trainer, hw.Poisson(rate=population.rate))


def multiplier_of(cell: Cell, size: int, known: dict[str, float]) -> float:
    """The noise multiplier with which the row's epsilon is kept over all rounds; the same for both algorithms."""
    name = replace(cell, algorithm="").name
    if cell.epsilon is None:
        return 0.0
    if name not in known:
        algorithm = algorithm_of(cell)
        last = algorithm.flows(None, cell.clients, size)[-1]
        known[name] = noise_for(cell.epsilon, DELTA, ROUNDS, Sampling.of_flow(last), last.events) * 1.0001
    return known[name]


def data_of(source: str, clients: int, seed: int) -> hw.FederatedData:
    """Fashion-MNIST, divided anew for each seed; random pictures where benchmarks are small."""
    if not SMALL:
        partition: Any = {"kind": "dirichlet-niid", "alpha": 0.5}
        return hw.data.load(source, key=seed, partition=partition, clients=clients, test_share=0.0)
    generator = torch.Generator().manual_seed(seed)
    inputs, targets = torch.randn(clients * 4, 1, 28, 28, generator=generator), torch.arange(clients * 4) % 10
    index = {f"{number:04d}": part for number, part in enumerate(torch.arange(clients * 4).split(4))}
    pool = hw.Examples(inputs, targets)
    return hw.FederatedData("random", pool, index, central=pool, classes=10)


def result_of(cell: Cell, seed: int, data: hw.FederatedData, known: dict[str, float]) -> dict[str, Any]:
    """The accuracy of one run, a mean over its last five rounds' models, and what it spent."""
    task = hw.Task(model)
    size = sum(parameter.numel() for parameter in task.build(Key.root(0)).parameters())
    multiplier = multiplier_of(cell, size, known)
    options = PrivacyOptions(epsilon=cell.epsilon, delta=DELTA) if cell.epsilon else PrivacyOptions(delta=DELTA)
    algorithm = algorithm_of(cell, multiplier or 1.0)
    engine = hw.LocalEngine(drift=False, lanes=sized(100, 4))
    begun, accuracies, spent = time.perf_counter(), list[float](), 0.0
    run = hw.Run(algorithm, data, task, rounds=ROUNDS, seed=seed, engine=engine, privacy=options)
    for report in run:
        accuracies.append(report.central["accuracy"])
        spent = report.privacy.get("client", 0.0)
    assert len(accuracies) == ROUNDS, f"the run ended after {len(accuracies)} rounds"
    assert cell.epsilon is None or 0.95 * cell.epsilon < spent <= cell.epsilon, f"epsilon {spent} of {cell.epsilon}"
    row = {"name": cell.name, "seed": seed, **asdict(cell), "rounds": ROUNDS, "multiplier": multiplier, "spent": spent}
    return {**row, "accuracy": statistics.fmean(accuracies[-5:]), "seconds": time.perf_counter() - begun}


def read(path: Path) -> list[dict[str, Any]]:
    """The results so far; a line that was cut off is left out."""
    rows = []
    for line in path.read_text().splitlines() if path.exists() else ():
        try:
            rows.append(json.loads(line))
        except ValueError:
            continue
    return rows


def train(options: argparse.Namespace) -> None:
    """Trains what is missing."""
    rows = read(options.out)
    done, known = {(row["name"], row["seed"]) for row in rows}, dict[str, float]()
    for row in rows:
        cell = Cell(row["clients"], "", row["epsilon"], row["noise"], row["secure"])
        if cell.epsilon is not None:
            known[cell.name] = row["multiplier"]
    for seed in options.seeds:
        data: dict[int, hw.FederatedData] = {}
        for cell in cells():
            if (cell.name, seed) in done or cell.clients not in options.clients:
                continue
            if not cell.name.startswith(tuple(options.rows)):
                continue
            if cell.clients not in data:
                data[cell.clients] = data_of(options.data, cell.clients, seed)
            row = result_of(cell, seed, data[cell.clients], known)
            with options.out.open("a") as file:
                file.write(json.dumps(row) + "\n")
            print(f"{cell.name} seed {seed}: {row['accuracy']:.4f} (z {row['multiplier']:.3f}, {row['seconds']:.0f} s)")


def accuracies(rows: Sequence[dict[str, Any]]) -> dict[Cell, list[float]]:
    """The accuracies of each row of the table, by seed."""
    found: dict[Cell, list[float]] = {}
    for row in sorted(rows, key=lambda row: int(row["seed"])):
        cell = Cell(row["clients"], row["algorithm"], row["epsilon"], row["noise"], row["secure"])
        found.setdefault(cell, []).append(row["accuracy"])
    return found


def text_of(values: Sequence[float] | None) -> str:
    """A mean with its seeds' standard deviation, in per cent."""
    if not values:
        return "-"
    mean = 100 * statistics.fmean(values)
    return f"{mean:.2f}" if len(values) < 2 else f"{mean:.2f} +- {100 * statistics.stdev(values):.2f}"


def table_of(rows: Sequence[dict[str, Any]]) -> str:
    """The two tables, in Markdown."""
    found, noise = accuracies(rows), {row["name"]: row["multiplier"] for row in rows}
    lines = [
        "| clients | algorithm | noise | epsilon 1 | epsilon 3 | epsilon 8 | no noise |",
        "|---|---|---|---|---|---|---|",
    ]
    for population in POPULATIONS:
        for algorithm in ("fedavg", "ecgr"):
            for kind, secure in (("central", False), ("distributed", True)):
                each = [Cell(population.clients, algorithm, epsilon, kind, secure) for epsilon in (1.0, 3.0, 8.0)]
                shown = [text_of(found.get(cell)) for cell in each]
                shown.append(text_of(found.get(Cell(population.clients, algorithm, None, "none", secure))))
                lines.append(f"| {population.clients:,} | {algorithm} | {kind} | {' | '.join(shown)} |")
    lines += ["", "| clients | noise | z at epsilon 1 | at 3 | at 8 |", "|---|---|---|---|---|"]
    for population in POPULATIONS:
        for kind, secure in (("central", False), ("distributed", True)):
            each = [Cell(population.clients, "fedavg", epsilon, kind, secure).name for epsilon in (1.0, 3.0, 8.0)]
            shown = [f"{noise[name]:.3f}" if name in noise else "-" for name in each]
            lines.append(f"| {population.clients:,} | {kind} | {' | '.join(shown)} |")
    lines += ["", "| clients | algorithm | noise | without SecureSum | with | points apart, paired by seed |"]
    lines.append("|---|---|---|---|---|---|")
    for population in POPULATIONS:
        for algorithm in ("fedavg", "ecgr"):
            for epsilon, kind in ((None, "none"), (8.0, "central")):
                pair = [Cell(population.clients, algorithm, epsilon, kind, secure) for secure in (False, True)]
                plain, summed = map(found.get, pair)
                apart = [100 * (b - a) for a, b in zip(plain or (), summed or (), strict=False)]
                shown = f"{statistics.fmean(apart):+.2f}" if apart else "-"
                what = "none" if epsilon is None else f"central, epsilon {epsilon:g}"
                both = f"{text_of(plain)} | {text_of(summed)}"
                lines.append(f"| {population.clients:,} | {algorithm} | {what} | {both} | {shown} |")
    return "\n".join(lines)


def picture(rows: Sequence[dict[str, Any]], path: Path) -> None:
    """Accuracy by epsilon, for each population."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    found, places = accuracies(rows), {1.0: 0, 3.0: 1, 8.0: 2, None: 3}
    figure, axes = pyplot.subplots(1, len(POPULATIONS), figsize=(9, 3.6), sharey=True)
    for axis, population in zip(axes, POPULATIONS, strict=True):
        for algorithm, colour in (("fedavg", "#1f5fa8"), ("ecgr", "#c4572b")):
            for kind, secure, line in (("central", False, "-"), ("distributed", True, "--")):
                points = []
                for epsilon, place in places.items():
                    cell = Cell(population.clients, algorithm, epsilon, kind if epsilon else "none", secure)
                    if values := found.get(cell):
                        points.append((place, 100 * statistics.fmean(values)))
                if points:
                    axis.plot(*zip(*points, strict=True), line, marker="o", color=colour, label=f"{algorithm}, {kind}")
        axis.set_xticks(list(places.values()), ["1", "3", "8", "no noise"])
        axis.set_title(f"{population.clients:,} clients")
        axis.set_xlabel("epsilon")
        axis.grid(alpha=0.3)
    axes[0].set_ylabel("accuracy, %")
    axes[-1].legend(fontsize=8)
    figure.tight_layout()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)


def main() -> None:
    """Trains, and writes the table and the picture where these are asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="fashion-mnist")
    parser.add_argument("--out", type=Path, default=Path("privacy_accuracy.jsonl"))
    parser.add_argument("--seeds", type=int, nargs="+", default=sized([0, 1, 2], [0]))
    parser.add_argument("--clients", type=int, nargs="+", default=[each.clients for each in POPULATIONS])
    parser.add_argument("--rows", nargs="+", default=[""], help="how the names of the rows begin, as in 100/fedavg/")
    parser.add_argument("--table", type=Path, help="a page with two marks, between which the tables go")
    parser.add_argument("--picture", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.table is None and options.picture is None:
        train(options)
    rows = read(options.out)
    print(table_of(rows))
    if options.table is not None:
        before, _, rest = options.table.read_text().partition(BEGIN)
        _, mark, after = rest.partition(END)
        assert mark, f"{options.table} has no marks {BEGIN} and {END}"
        options.table.write_text(f"{before}{BEGIN}\n\n{table_of(rows)}\n\n{END}{after}")
    if options.picture is not None:
        picture(rows, options.picture)


if __name__ == "__main__":
    main()

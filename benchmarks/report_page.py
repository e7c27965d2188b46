"""How large a report of 5 methods x 5 seeds is, and how long it takes to write and to open.

    python benchmarks/report_page.py [--methods 5] [--seeds 5] [--rounds 50] [--clients 100] [--clock] [--keep FOLDER]

The comparison is made up, with real journals of all clients and rounds; its clients are drawn anew by each seed,
so that every client of every seed has a dot of its own.  The time to open is that of headless Chromium from its
start to a dump of the loaded page, with the time for an empty page beside it.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import shutil
import statistics
import subprocess
import tempfile
import time
from dataclasses import replace
from pathlib import Path

from sizes import sized

from headway.experiment.comparison import Comparison
from headway.experiment.runfile import load_runfile
from headway.experiment.trials import Trial, trial_folder
from headway.observe.journal import Journal
from headway.observe.round_report import RoundReport
from headway.observe.run_folder import CONFIG, IDENTITY, JOURNAL
from headway.protocol.reports import ClientReport
from headway.reports import evidence
from headway.reports.page import render

METHODS = ("fedavg", "fedprox", "scaffold", "fedavg+ecgr", "feddyn", "fednova", "qfedavg", "fedavgm")

USUAL = (("methods", 5), ("seeds", 5), ("rounds", 50), ("clients", 100))
LITTLE = (("methods", 2), ("seeds", 2), ("rounds", 5), ("clients", 8))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    for name, value in sized(USUAL, LITTLE):
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--clock", action="store_true", help="with simulated time, late updates and lost clients")
    parser.add_argument("--keep", type=Path, help="keep the comparison and its report in this new folder")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        folder = options.keep or Path(place) / "comparison"
        methods = METHODS[: options.methods]
        write_comparison(folder, methods, options.seeds, options.rounds, options.clients, options.clock)
        begun = time.perf_counter()
        gathered = evidence([folder])
        read = time.perf_counter() - begun
        page = render(gathered).encode()
        wrote = time.perf_counter() - begun
        path = folder / "report.html"
        path.write_bytes(page)
        print(
            f"{options.methods} methods x {options.seeds} seeds x {options.rounds} rounds x {options.clients} clients"
        )
        print(f"page    {len(page) / 1e6:.2f} MB")
        print(f"build   {wrote:.2f} s, of which reading {read:.2f} s")
        chromium = shutil.which("chromium") or shutil.which("google-chrome") or shutil.which("chrome")
        if chromium is None:
            print("open    not measured: no chromium was found")
            return
        empty = Path(place) / "empty.html"
        empty.write_text("<!doctype html><title>nothing</title>")
        opened, nothing = (median_seconds(chromium, each) for each in (path, empty))
        print(f"open    {opened:.2f} s, of which an empty page takes {nothing:.2f} s (medians of 5)")


def median_seconds(chromium: str, path: Path) -> float:
    seconds = []
    for _ in range(sized(5, 1)):
        begun = time.perf_counter()
        arguments = [chromium, "--headless=new", "--no-sandbox", "--disable-gpu", "--dump-dom", path.resolve().as_uri()]
        subprocess.run(arguments, check=True, capture_output=True)
        seconds.append(time.perf_counter() - begun)
    return statistics.median(seconds)


def write_comparison(
    folder: Path, methods: tuple[str, ...], seeds: int, rounds: int, clients: int, clock: bool
) -> None:
    sets = ["data.source=digits", f"data.clients={clients}", "task.metrics=['accuracy']", f"run.rounds={rounds}"]
    partition = "data.partition={kind='dirichlet-client', alpha=0.3}"
    runfiles = {name: load_runfile("hospitals", [*sets, partition], method=name) for name in methods}
    trials = []
    for place, method in enumerate(methods):
        for seed in range(seeds):
            run = trial_folder(folder, method, seed)
            run.mkdir(parents=True)
            runfile = runfiles[method].with_seed(seed)
            algorithm = runfile.resolved()["algorithm"]
            versions = {"headway": "0.1.0", "python": "3.11", "torch": "2.13"}
            identity = {"format": 1, "versions": versions, "seed": seed, "algorithm": algorithm}
            (run / IDENTITY).write_text(json.dumps(identity))
            (run / CONFIG).write_text(runfile.to_toml())
            trials.append(journal(run / JOURNAL, method, place, seed, rounds, clients, clock))
    finals = [statistics.fmean(t.final for t in trials if t.method == name) for name in methods]
    description = f"digits, {clients} clients, dirichlet-client alpha 0.3"
    comparison = Comparison(
        "made-up",
        "accuracy",
        True,
        tuple(trials),
        methods,
        seeds,
        0.95 * max(finals),
        False,
        description,
        drawn=True,
        budget=min(t.bytes_total[-1] for t in trials),
        time_budget=min(t.simulated_s[-1] for t in trials) if clock else math.inf,
    )
    results = {
        "comparison": comparison.__dict__ | {"trials": [trial.__dict__ for trial in trials]},
        "methods": {name: runfile.resolved() for name, runfile in runfiles.items()},
    }
    (folder / "results.json").write_text(json.dumps(results))


def timed(report: ClientReport, begun: float, chance: random.Random) -> ClientReport:
    """A report with made-up times: asked up to three rounds ago, and answered or given up in this one."""
    age = min(int(chance.expovariate(1.0)), 3)
    asked, ended = max(begun - 60 * age, 0.0), begun + chance.uniform(0, 60)
    times = {"asked_s": asked, "ended_s": ended, **({"age": float(age)} if report.status == "counted" else {})}
    return replace(report, metrics={**report.metrics, **times})


def journal(path: Path, method: str, place: int, seed: int, rounds: int, clients: int, clock: bool) -> Trial:
    """One made-up run: a curve that saturates, clients around it, drift that shrinks, some that drop out."""
    chance = random.Random(f"{method} {seed}")
    offsets = {f"client-{i:03d}": chance.gauss(0, 0.08) for i in range(clients)}
    book = Journal(path)
    values, losses, totals, tails = [], [], [], []
    total = 0
    for round_ in range(1, rounds + 1):
        level = 0.93 - 0.02 * place - 0.8 * math.exp(-round_ / (6 + place)) + chance.gauss(0, 0.008)
        scores = {name: {"accuracy": min(max(level + off, 0), 1)} for name, off in offsets.items()}
        reports = []
        for name, off in offsets.items():
            drops = chance.random() < 0.02
            shrink = math.exp(-round_ / 30)
            along, across = shrink * (0.3 + off), shrink * (0.5 + 2 * abs(off) + 0.05 * place)
            numbers = {"headway": along, "leeway": across, "cosine": along / math.hypot(along, across)}
            reports.append(
                ClientReport(name, "dropped", reason="a straggler, and the policy drops those", bytes_down=6000)
                if drops
                else ClientReport(name, "counted", 14, 5, 0.6, 0.01, 6000 * (1 + (place == 2)), 6000, numbers)
            )
        up, down = sum(r.bytes_up for r in reports), sum(r.bytes_down for r in reports)
        drift = {"headway": 0.3, "leeway": 0.5 + 0.05 * place, "diversity": 1.4, "dissimilarity": 2.0, "alignment": 0.2}
        drift = {name: value * math.exp(-round_ / 60) * chance.uniform(0.95, 1.05) for name, value in drift.items()}
        loss, central = 2.3 * math.exp(-round_ / 12) + 0.05 * place + 0.02, {"accuracy": level, "loss": 1 - level}
        begun, ended = 60.0 * (round_ - 1), 60.0 * round_
        if clock:
            reports = [timed(report, begun, chance) for report in reports]
        figures = {"begun_s": begun, "ended_s": ended, "wasted_s": 100.0, "population": 1.2 * clients} if clock else {}
        means = {"accuracy": statistics.fmean(s["accuracy"] for s in scores.values())}
        more = {"metrics": means, "central": central, "evaluation": scores, "drift": drift, "clock": figures}
        book.record(
            RoundReport(round_, loss, tuple(reports), 0.8 + 0.1 * place, up, down, evaluation_seconds=0.1, **more)
        )
        total += up + down
        values.append(level)
        losses.append(loss)
        totals.append(total)
        tails.append({name: score["accuracy"] for name, score in scores.items()})
    book.close()
    times = tuple(60.0 * round_ for round_ in range(1, rounds + 1)) if clock else ()
    last = {name: statistics.fmean(tail[name] for tail in tails[-10:]) for name in offsets}
    return Trial(
        method, seed, tuple(range(1, rounds + 1)), tuple(values), tuple(losses), tuple(totals), last, None, times
    )


if __name__ == "__main__":
    main()

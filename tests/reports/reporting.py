"""Runs and comparisons that the tests of reports read."""

import dataclasses
import json
from html.parser import HTMLParser
from pathlib import Path

import torch

import headway as hw
from headway.experiment.comparison import gather
from headway.experiment.run import Run
from headway.experiment.runfile import RunFile, load_runfile
from headway.experiment.trials import TAIL, Trial
from headway.observe.text import strict

SMALL = ["model.hidden=[4]", "algorithm.trainer.epochs=1", "run.rounds=3"]
VOID = {"meta", "link", "br", "img", "input", "hr"}


def runfile(method=None, sets=(), seed=0) -> RunFile:
    return load_runfile("hospitals", [*SMALL, *sets], seed=seed, method=method)


def make_run(folder: Path, method=None, sets=(), seed=0, rounds=None):
    """A run folder, and the reports of its rounds; `rounds` stops it early."""
    torch.set_num_threads(1)
    run = runfile(method, sets, seed).start(folder)
    reports = []
    for report in run:
        reports.append(report)
        if report.round == rounds:
            break
    run.close()
    return reports


def make_comparison(folder: Path, methods=("fedavg", "scaffold+ecgr"), seeds=2, sets=(), keep=True) -> Path:
    """A comparison folder as `headway compare` writes it, with a run folder per trial if `keep`."""
    runfiles = {method: runfile(method, sets) for method in methods}
    trials = []
    for method in methods:
        for seed in range(seeds):
            reports = make_run(folder / "runs" / f"{method}-s{seed}", method, sets, seed)
            trials.append(trial_of(method, seed, reports))
    comparison = gather("hospitals", runfiles, trials)
    results = {
        "comparison": dataclasses.asdict(comparison),
        "sentence": comparison.sentence(),
        "methods": {name: each.resolved() for name, each in runfiles.items()},
    }
    (folder / "results.json").write_text(json.dumps(strict(results)))
    if not keep:
        (folder / "runs").rename(folder.with_name(f"{folder.name}-runs"))
    return folder


def trial_of(method, seed, reports):
    """A trial, worked out from the reports and not from the journal."""
    metric = next(iter(reports[0].metrics))
    total, totals = 0, []
    for report in reports:
        total += report.bytes_up + report.bytes_down
        totals.append(total)
    tails = [report.evaluation for report in reports[-TAIL:]]
    return Trial(
        method,
        seed,
        tuple(report.round for report in reports),
        tuple(report.headline(metric) for report in reports),
        tuple(report.train_loss for report in reports),
        tuple(totals),
        {client: sum(tail[client][metric] for tail in tails) / len(tails) for client in tails[0]},
        simulated_s=tuple(report.clock["ended_s"] for report in reports if report.clock),
    )


def make_python_run(folder: Path, data: hw.FederatedData, task: hw.Task, rounds=2, **trainer):
    """A run that was made in Python, so without a run file."""
    algorithm = hw.Algorithm(hw.chain(hw.Mean()), hw.LocalSGD(lr=0.1, batch_size=4, **trainer), hw.All())
    run = Run(algorithm, data, task, rounds=rounds, folder=folder)
    reports = list(run)
    run.close()
    return reports


class Page(HTMLParser):
    """A parsed page: its elements with attributes, the text in each kind, and whether tags match."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict]] = []
        self.texts: list[tuple[str, str]] = []
        self.open: list[str] = []
        self.feed(source)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        names = [name for name, _ in attrs]
        assert len(names) == len(set(names)), f"{tag} has an attribute twice"
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.texts.append((self.open[-1] if self.open else "", data))

    def all(self, tag):
        return [attributes for name, attributes in self.elements if name == tag]

    def text(self, *tags):
        return " ".join(" ".join(data for tag, data in self.texts if not tags or tag in tags).split())

    def plots(self):
        """The data behind each chart with lines, by its name."""
        return {each["aria-label"]: json.loads(each["data-plot"]) for each in self.all("svg") if "data-plot" in each}

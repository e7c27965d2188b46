"""The baselines of a federation: each client alone, and all examples in one place."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

from headway import recipes
from headway.data import FederatedData
from headway.data.dataset.dataset_view import View
from headway.experiment.runfile import RunFile
from headway.experiment.trials import Trial, TrialJob, trial_folder

ALONE, POOLED = "alone", "pooled"


def baseline_jobs(
    runfile: RunFile, clients: Sequence[str], seed: int, folder: Path, metric: str | None = None
) -> list[TrialJob]:
    """The runs to which a federation of these clients is compared at a seed: plain training with the file's trainer.

    Each client alone makes as many rounds of local training as in the federation, and so does the one that holds
    all; both take the metrics that the federation takes.
    """
    alone = _plain(runfile, View(), runfile.sections.run.rounds)
    place = trial_folder(folder, ALONE, seed)
    jobs = [
        TrialJob(
            f"{ALONE}, {client}",
            replace(alone, view=View(only=client)),
            seed,
            trial_folder(place, client, seed),
            metric,
        )
        for client in clients
    ]
    pooled = _plain(runfile, View(pooled=True), runfile.sections.run.evaluate_every)
    return [TrialJob(POOLED, pooled, seed, trial_folder(folder, POOLED, seed), metric), *jobs]


def weights_alone(data: FederatedData) -> dict[str, int]:
    """The weight of each client in the mean of the clients alone: by test examples where each has its own test part."""
    return {client: 1 if data.central is not None else len(index) for client, index in data.test.items()}


def gather_alone(trials: Sequence[Trial], weights: Mapping[str, int], seed: int) -> Trial:
    """The clients' own trials as one: the mean over clients, by these weights."""
    own = {trial.method.removeprefix(f"{ALONE}, "): trial for trial in trials}
    known = {client: trial.final for client, trial in own.items() if not trial.failure and not math.isnan(trial.final)}
    if not known:
        return Trial(ALONE, seed, (), (), (), (), {}, "no client could be trained or measured alone.")
    value = sum(weights[c] * known[c] for c in known) / sum(weights[c] for c in known)
    loss = statistics.fmean(own[c].losses[-1] for c in known)
    clients = {client: mean for trial in own.values() for client, mean in trial.clients.items()}
    return Trial(ALONE, seed, own[next(iter(known))].rounds, (value,), (loss,), (0,), clients)


def by_client(bounds: Mapping[str, Sequence[Trial]], best: Sequence[Trial]) -> list[tuple[str, float, float, float]]:
    """For each client its value alone, in the federation and with pooled data, each the mean over seeds."""

    def mean(trials: Sequence[Trial], client: str) -> float:
        known = [trial.clients[client] for trial in trials if client in trial.clients]
        return statistics.fmean(known) if known else math.nan

    names = sorted({client for trial in best for client in trial.clients})
    return [(c, mean(bounds[ALONE], c), mean(best, c), mean(bounds[POOLED], c)) for c in names]


def _plain(runfile: RunFile, view: View, evaluate_every: int | Literal["never"]) -> RunFile:
    """FedAvg with the file's trainer, which over one client is plain training."""
    run = runfile.sections.run.model_copy(update={"evaluate_every": evaluate_every})
    algorithm = replace(recipes.fedavg(), trainer=runfile.algorithm.trainer)
    return replace(
        runfile,
        sections=runfile.sections.model_copy(update={"run": run, "clock": None}),
        algorithm=algorithm,
        view=view,
    )

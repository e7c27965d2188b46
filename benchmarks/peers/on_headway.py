"""Headway, through its public names.

    headway, headway:lanes=20, headway:workers=2,lanes=auto, headway:recipe=scaffold,drift=true,
    headway:device=cuda,lanes=auto,precision=tf32

Options: threads (as many as there are cores), recipe (fedavg); workers makes it ProcessEngine instead of LocalEngine,
which all others go to, drift being off unless it is asked for.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from common import Problem, Rounds, Workload, contend, cores
from in_torch import model_of, tensors, weights_of

import headway as hw

SEED = 0
ROUNDS = 500  # of the run that is planned; far fewer are measured


def algorithm_of(workload: Workload, recipe: str = "fedavg") -> hw.Algorithm:
    trainer = hw.LocalSGD(lr=workload.lr, batch_size=workload.batch)
    return hw.recipes.recipe(recipe, trainer=trainer, sampler=hw.Uniform(count=workload.cohort))


def name_of(client: int) -> str:
    return f"{client:06d}"


def data_of(problem: Problem) -> hw.FederatedData:
    rows = torch.arange(len(problem.inputs)).split(problem.workload.examples)
    held = {name_of(client): part for client, part in enumerate(rows)}
    return hw.FederatedData(problem.workload.name, hw.Examples(*tensors(problem)), held, classes=10)


def run(problem: Problem, options: dict[str, Any], rounds: Rounds) -> np.ndarray:
    engine = {"drift": False, **options}
    torch.set_num_threads(engine.pop("threads", cores()))
    headway = hw.Run(
        algorithm_of(problem.workload, engine.pop("recipe", "fedavg")),
        data_of(problem),
        hw.Task(lambda: model_of(problem.workload, problem.start)),
        rounds=ROUNDS,
        seed=SEED,
        evaluate_every=ROUNDS,
        checkpoint_every=ROUNDS,
        engine=hw.ProcessEngine(**engine) if "workers" in engine else hw.LocalEngine(**engine),
    )
    reports = iter(headway)
    for _ in rounds:
        next(reports)
    weights = weights_of(headway.model())
    headway.close()
    return weights


if __name__ == "__main__":
    contend(run, "headway", "torch")

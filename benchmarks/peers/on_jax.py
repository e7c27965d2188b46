"""JAX by hand: a round is one compiled function that maps over the clients of the cohort.

    jax, jax:lanes=100

Options: lanes, how many clients are in one vmap (1); more than one goes through the cohort in that many at a time.
"""

from __future__ import annotations

from typing import Any

import jax
import numpy as np
from common import Problem, Rounds, contend
from in_jax import Weights, from_torch, losses, to_torch


def run(problem: Problem, options: dict[str, Any], rounds: Rounds) -> np.ndarray:
    workload, lanes = problem.workload, options.get("lanes", 1)
    gradient = jax.grad(lambda weights, inputs, targets: losses(weights, inputs, targets).mean())

    def client(weights: Weights, inputs: jax.Array, targets: jax.Array) -> Weights:
        for start, stop in workload.bounds:
            step = gradient(weights, inputs[start:stop], targets[start:stop])
            weights = [weight - workload.lr * along for weight, along in zip(weights, step, strict=True)]
        return weights

    @jax.jit
    def cohort(weights: Weights, inputs: jax.Array, targets: jax.Array) -> Weights:
        def one(data: tuple[jax.Array, jax.Array]) -> Weights:
            return client(weights, *data)

        trained = jax.lax.map(one, (inputs, targets), batch_size=lanes if lanes > 1 else None)
        return [each.mean(0) for each in trained]

    weights = from_torch(problem.start, workload)
    for number in rounds:
        rows = problem.cohorts[number][:, None] * workload.examples + problem.orders[number]
        weights = cohort(weights, problem.inputs[rows], problem.targets[rows])
        jax.block_until_ready(weights)
    return to_torch(weights)


if __name__ == "__main__":
    contend(run, "jax")

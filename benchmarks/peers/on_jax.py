"""JAX by hand: one compiled function for a client, or for several side by side.

    jax, jax:lanes=100

Options: lanes (1), how many clients are in one vmap.
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
    def add(total: Weights, weights: Weights, inputs: jax.Array, targets: jax.Array) -> Weights:
        """The total, and the weights of some clients after their training from `weights`."""
        if lanes == 1:
            trained = client(weights, inputs[0], targets[0])
        else:
            trained = [each.sum(0) for each in jax.vmap(client, (None, 0, 0))(weights, inputs, targets)]
        return [each + more for each, more in zip(total, trained, strict=True)]

    weights = from_torch(problem.start, workload)
    zeros = [jax.numpy.zeros_like(each) for each in weights]
    for number in rounds:
        total = zeros
        for start in range(0, workload.cohort, lanes):
            block = slice(start, start + lanes)
            rows = problem.cohorts[number, block, None] * workload.examples + problem.orders[number, block]
            total = add(total, weights, problem.inputs[rows], problem.targets[rows])
        weights = jax.block_until_ready([each / workload.cohort for each in total])
    return to_torch(weights)


if __name__ == "__main__":
    contend(run, "jax")

"""FedJAX: its federated averaging, with its compiled backend, one client after another.

fedjax
"""

from __future__ import annotations

from typing import Any

import fedjax
import jax
import numpy as np
from common import Problem, Rounds, contend
from fedjax.algorithms import fed_avg
from in_jax import Weights, from_torch, losses, to_torch


def run(problem: Problem, options: dict[str, Any], rounds: Rounds) -> np.ndarray:
    workload = problem.workload

    def loss(weights: Weights, batch: dict[str, jax.Array], rng: jax.Array) -> jax.Array:
        return losses(weights, batch["x"], batch["y"])

    algorithm = fed_avg.federated_averaging(
        fedjax.grad(loss),
        client_optimizer=fedjax.optimizers.sgd(learning_rate=workload.lr),
        server_optimizer=fedjax.optimizers.sgd(learning_rate=1.0),
        client_batch_hparams=fedjax.ShuffleRepeatBatchHParams(
            batch_size=workload.batch, num_epochs=1, skip_shuffle=True
        ),
    )
    state = algorithm.init(from_torch(problem.start, workload))
    for number in rounds:
        keys = jax.random.split(jax.random.PRNGKey(number), workload.cohort)
        clients = []
        for place in range(workload.cohort):
            inputs, targets = problem.examples(number, place)
            clients.append((b"%d" % place, fedjax.ClientDataset({"x": inputs, "y": targets}), keys[place]))
        state, _ = algorithm.apply(state, clients)
        jax.block_until_ready(state.params)
    return to_torch(state.params)


if __name__ == "__main__":
    contend(run, "fedjax", "jax")

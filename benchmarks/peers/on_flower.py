"""Flower's simulation on Ray: FedAvg, with as many nodes as a cohort has clients, and one actor for each core.

    flower

Nodes keep nothing: in each round they take the data of that round's cohort.  Options: actors (as many as cores).
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import Any

import numpy as np

os.environ.setdefault("FLWR_TELEMETRY_ENABLED", "0")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")

import flower_client
from common import Problem, Rounds, contend, cores
from flwr.app import ArrayRecord, ConfigRecord, Context, Message
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg
from flwr.simulation import run_simulation
from in_torch import model_of, weights_of


class Paced(FedAvg):
    """FedAvg that asks for each round before it starts, and sends nothing in the one after the last."""

    def __init__(self, rounds: Rounds) -> None:
        super().__init__(fraction_evaluate=0.0)
        self.rounds = rounds

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        number = next(self.rounds, None)
        if number is None:
            return []
        config["number"] = number
        return super().configure_train(server_round, arrays, config, grid)


def run(problem: Problem, options: dict[str, Any], rounds: Rounds) -> np.ndarray:
    model = model_of(problem.workload, problem.start)
    server = ServerApp()

    @server.main()
    def main(grid: Grid, context: Context) -> None:
        config = {"folder": str(problem.folder), "workload": problem.workload.name}
        result = Paced(rounds).start(
            grid, ArrayRecord(model.state_dict()), len(problem.cohorts) + 1, train_config=ConfigRecord(config)
        )
        model.load_state_dict(result.arrays.to_torch_state_dict())

    actors = options.get("actors", cores())
    backend = {"init_args": {"num_cpus": actors}, "client_resources": {"num_cpus": 1, "num_gpus": 0.0}}
    run_simulation(server, flower_client.app, num_supernodes=problem.workload.cohort, backend_config=backend)
    return weights_of(model)


if __name__ == "__main__":
    contend(run, "flwr", "ray", "torch")

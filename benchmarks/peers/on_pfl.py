"""Apple's pfl: FederatedAveraging on SimulatedBackend, in one process; on a GPU, if its torch finds one.

    pfl

Options: threads (as many as there are cores).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from common import Problem, Rounds, contend, cores
from in_torch import model_of, tensors, wait, weights_of
from pfl.aggregate.simulate import SimulatedBackend
from pfl.algorithm.base import NNAlgorithmParams
from pfl.algorithm.federated_averaging import FederatedAveraging
from pfl.callback.base import TrainingProcessCallback
from pfl.data.federated_dataset import FederatedDataset
from pfl.data.pytorch import PyTorchTensorDataset
from pfl.hyperparam import NNTrainHyperParams
from pfl.metrics import Metrics
from pfl.model.pytorch import PyTorchModel
from torch import Tensor, nn


class Losing(nn.Module):
    """The model with the loss that pfl asks for."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def loss(self, inputs: Tensor, targets: Tensor) -> Tensor:
        self.train()
        return F.cross_entropy(self.model(inputs), targets)

    def metrics(self, inputs: Tensor, targets: Tensor) -> dict[str, Any]:
        return {}


class Pace(TrainingProcessCallback):
    """Asks for the next round when one is over."""

    def __init__(self, rounds: Rounds) -> None:
        self.rounds = rounds

    def on_train_begin(self, *, model: PyTorchModel) -> Metrics:
        next(self.rounds)
        return Metrics()

    def after_central_iteration(
        self, aggregate_metrics: Metrics, model: PyTorchModel, *, central_iteration: int
    ) -> tuple[bool, Metrics]:
        wait()
        return next(self.rounds, None) is None, Metrics()


def run(problem: Problem, options: dict[str, Any], rounds: Rounds) -> np.ndarray:
    torch.set_num_threads(options.get("threads", cores()))
    workload, (inputs, targets) = problem.workload, tensors(problem)
    model = Losing(model_of(workload, problem.start))
    seats = iter([(number, place) for number in range(len(problem.cohorts)) for place in range(workload.cohort)])

    def client(seat: tuple[int, int]) -> PyTorchTensorDataset:
        rows = torch.from_numpy(problem.rows(*seat))
        return PyTorchTensorDataset((inputs[rows], targets[rows]))

    clients = FederatedDataset(client, lambda: next(seats))
    FederatedAveraging().run(
        backend=SimulatedBackend(training_data=clients, val_data=clients),
        model=PyTorchModel(model, torch.optim.SGD, torch.optim.SGD(model.parameters(), lr=1.0)),
        algorithm_params=NNAlgorithmParams(
            central_num_iterations=len(problem.cohorts),
            evaluation_frequency=10**9,
            train_cohort_size=workload.cohort,
            val_cohort_size=None,
        ),
        model_train_params=NNTrainHyperParams(
            local_num_epochs=1, local_learning_rate=workload.lr, local_batch_size=workload.batch
        ),
        callbacks=[Pace(rounds)],
    )
    return weights_of(model)


if __name__ == "__main__":
    contend(run, "pfl", "torch")

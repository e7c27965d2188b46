"""What the contenders in PyTorch share: the models, and one client's training written by hand."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from common import Problem, Workload, unflatten
from torch import Tensor, nn


def model_of(workload: Workload, start: np.ndarray) -> nn.Module:
    """The workload's model with the given weights; it pools before ReLU, which is quicker and gives the same bits."""
    model = {"mlp": _mlp, "cnn": _cnn, "logistic": _logistic}[workload.model]()
    with torch.no_grad():
        for parameter, value in zip(model.parameters(), unflatten(start, workload), strict=True):
            parameter.copy_(torch.from_numpy(value))
    return model


def _logistic() -> nn.Module:
    return nn.Sequential(nn.Linear(60, 10))


def _mlp() -> nn.Module:
    return nn.Sequential(nn.Linear(784, 200), nn.ReLU(), nn.Linear(200, 10))


def _cnn() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 32, 5, padding=2),
        nn.MaxPool2d(2),
        nn.ReLU(),
        nn.Conv2d(32, 64, 5, padding=2),
        nn.MaxPool2d(2),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(4096, 512),
        nn.ReLU(),
        nn.Linear(512, 10),
    )


def weights_of(model: nn.Module) -> np.ndarray:
    """The model's weights in one vector."""
    return nn.utils.parameters_to_vector(model.parameters()).detach().cpu().numpy().copy()


def tensors(problem: Problem) -> tuple[Tensor, Tensor]:
    """The inputs and targets of all clients, without copying."""
    return torch.from_numpy(problem.inputs), torch.from_numpy(problem.targets)


def wait() -> None:
    """Until a GPU has done all that it was told, if there is one: before the clock is read."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def train(model: nn.Module, inputs: Tensor, targets: Tensor, workload: Workload) -> None:
    """One epoch over a client's examples, in the order in which they stand."""
    optimizer = torch.optim.SGD(model.parameters(), lr=workload.lr)
    model.train()
    for start, stop in workload.bounds:
        optimizer.zero_grad()
        F.cross_entropy(model(inputs[start:stop]), targets[start:stop]).backward()
        optimizer.step()

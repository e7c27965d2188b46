"""Small federations that several tests share."""

from __future__ import annotations

import torch
from torch import nn

import headway as hw


def blobs(sizes=(7, 12, 5), features=4, classes=3, test=3, seed=0) -> hw.FederatedData:
    """Clients of different sizes, with different mixes of linearly separable classes."""
    generator = torch.Generator().manual_seed(seed)
    centres = torch.randn(classes, features, generator=generator, dtype=torch.float64) * 3

    def part(count, favourite):
        labels = torch.randint(0, classes, (count,), generator=generator)
        labels[: count // 2] = favourite % classes
        noise = torch.randn(count, features, generator=generator, dtype=torch.float64)
        return (centres[labels] + noise).float(), labels

    clients = {}
    for index, size in enumerate(sizes):
        x, y = part(size + test, index)
        clients[f"client-{index}"] = (x[:size], y[:size], x[size:], y[size:])
    return hw.FederatedData.from_clients(clients, name="blobs")


def linear(features=4, classes=3) -> nn.Module:
    return nn.Linear(features, classes)


def linear_task(**options) -> hw.Task:
    return hw.Task(model=linear, metrics=("accuracy",), **options)


def weights_and_reports(run):
    """The weights at the end of a run, and its reports; the run is closed."""
    try:
        reports = list(run)
        return run.state.params, reports
    finally:
        run.close()

"""What Flower's workers run; a module of its own, so that they import it instead of being sent it with each message."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import torch
from common import WORKLOADS, Problem
from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from in_torch import model_of, tensors, train
from torch import nn

app = ClientApp()


@cache
def bench(folder: str, workload: str) -> tuple[Problem, torch.Tensor, torch.Tensor, nn.Module]:
    """What a worker needs for every client, made once."""
    problem = Problem(WORKLOADS[workload], Path(folder))
    return problem, *tensors(problem), model_of(problem.workload, problem.start)


@app.train()
def train_client(message: Message, context: Context) -> Message:
    config = message.content["config"]
    problem, inputs, targets, model = bench(config["folder"], config["workload"])
    rows = torch.from_numpy(problem.rows(config["number"], context.node_config["partition-id"]))
    model.load_state_dict(message.content["arrays"].to_torch_state_dict())
    train(model, inputs[rows], targets[rows], problem.workload)
    reply = {
        "arrays": ArrayRecord(model.state_dict()),
        "metrics": MetricRecord({"num-examples": len(rows)}),
    }
    return Message(content=RecordDict(reply), reply_to=message)

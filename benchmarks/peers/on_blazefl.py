"""BlazeFL: its pool of threads, or of processes that exchange through shared memory.

    blazefl, blazefl:mode=process

What a client does and what the server makes of it is written by BlazeFL's user, here as in the plain loop.  Options:
mode (thread or process), parallel (threads or processes; as many as there are cores).
"""

from __future__ import annotations

import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.multiprocessing as mp
from blazefl.core import IPCMode, ProcessPoolClientTrainer, ThreadPoolClientTrainer, deserialize_model, serialize_model
from blazefl.core.utils import process_tensors_in_object
from common import Problem, Rounds, contend, cores
from in_torch import model_of, tensors, train

problem: Problem  # that of this process; forked ones have it as well
here = threading.local()


@dataclass
class Model:
    """What the server and the clients send each other: flat weights, and the round."""

    weights: torch.Tensor
    number: int


def trained(model: Model, place: int) -> torch.Tensor:
    """The weights after a client's training, on the model of this thread."""
    if not hasattr(here, "model"):
        here.inputs, here.targets = tensors(problem)
        here.model = model_of(problem.workload, problem.start)
    rows = torch.from_numpy(problem.rows(model.number, place))
    deserialize_model(here.model, model.weights)
    train(here.model, here.inputs[rows], here.targets[rows], problem.workload)
    return serialize_model(here.model)


class Threads(ThreadPoolClientTrainer[Model, Model]):
    """Clients in threads."""

    def __init__(self, parallel: int) -> None:
        self.num_parallels, self.device, self.device_count = parallel, "cpu", 0
        self.cache: list[Model] = []
        self.stop_event = threading.Event()

    def worker(self, cid: int, device: str, payload: Model, stop_event: threading.Event) -> Model:
        return Model(trained(payload, cid), payload.number)

    def uplink_package(self) -> list[Model]:
        done, self.cache = self.cache, []
        return done


class Processes(ProcessPoolClientTrainer[Model, Model, int]):
    """Clients in forked processes; the weights come back through shared memory."""

    def __init__(self, parallel: int) -> None:
        self.num_parallels, self.device, self.device_count = parallel, "cpu", 0
        self.share_dir, self.ipc_mode = Path(), IPCMode.SHARED_MEMORY
        self.cache: list[Model] = []
        self.manager = mp.Manager()
        self.stop_event = self.manager.Event()
        torch.optim.SGD([torch.zeros(1, requires_grad=True)]).step()  # imports what each new process would else import

    def get_client_config(self, cid: int) -> int:
        return cid

    def prepare_uplink_package_buffer(self) -> Model:
        return Model(torch.empty(len(problem.start)), 0)

    @staticmethod
    def worker(
        config: int, payload: Model, device: str, stop_event: threading.Event, *, shm_buffer: Model | None = None
    ) -> Model:
        torch.set_num_threads(1)
        assert shm_buffer is not None
        shm_buffer.weights.copy_(trained(payload, config))
        return process_tensors_in_object(shm_buffer, mode="replace")

    def uplink_package(self) -> list[Model]:
        done, self.cache = self.cache, []
        return done


def run(given: Problem, options: dict[str, Any], rounds: Rounds) -> np.ndarray:
    global problem
    problem = given
    torch.set_num_threads(1)
    kind = {"thread": Threads, "process": Processes}[options.get("mode", "thread")]
    trainer = kind(options.get("parallel", cores()))
    weights = torch.from_numpy(problem.start.copy())
    for number in rounds:
        trainer.local_process(Model(weights, number), list(range(problem.workload.cohort)))
        total = torch.zeros_like(weights)
        for update in trainer.uplink_package():
            total += update.weights
        weights = total / problem.workload.cohort
    return weights.numpy()


if __name__ == "__main__":
    contend(run, "blazefl", "torch")

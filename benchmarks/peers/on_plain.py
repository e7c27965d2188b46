"""A loop over the clients as one writes it by hand, in one process or in several.

    plain, plain:processes=2, plain:device=cuda

Options: processes (1); threads of each (as many as there are cores for it); device (cpu), where the data lie too.
"""

from __future__ import annotations

import multiprocessing
from multiprocessing.connection import Connection
from typing import Any

import numpy as np
import torch
from common import Problem, Rounds, contend, cores
from in_torch import model_of, tensors, train, wait, weights_of


class Loop:
    """Trains clients one after another on one module."""

    def __init__(self, problem: Problem, threads: int, device: str = "cpu") -> None:
        torch.set_num_threads(threads)
        self.problem, self.workload, self.device = problem, problem.workload, device
        self.inputs, self.targets = (each.to(device) for each in tensors(problem))
        self.model = model_of(self.workload, problem.start).to(device)

    def sum(self, state: dict[str, torch.Tensor], number: int, places: range) -> dict[str, torch.Tensor]:
        """The sum of the models of some of a round's cohort, each trained from `state`."""
        total = {name: torch.zeros_like(value) for name, value in state.items()}
        for place in places:
            rows = torch.from_numpy(self.problem.rows(number, place)).to(self.device)
            self.model.load_state_dict(state)
            train(self.model, self.inputs[rows], self.targets[rows], self.workload)
            for name, value in self.model.state_dict().items():
                total[name] += value
        return total


def work(problem: Problem, threads: int, share: slice, server: Connection) -> None:
    """Another process: for each (state, round) it is sent, trains its share of the cohort."""
    loop = Loop(problem, threads)
    while (asked := server.recv()) is not None:
        state, number = asked
        sums = loop.sum(_tensors(state), number, range(problem.workload.cohort)[share])
        server.send(_arrays(sums))


def _arrays(state: dict[str, torch.Tensor]) -> dict[str, np.ndarray]:
    return {name: value.numpy() for name, value in state.items()}


def _tensors(state: dict[str, np.ndarray]) -> dict[str, torch.Tensor]:
    return {name: torch.from_numpy(value) for name, value in state.items()}


def run(problem: Problem, options: dict[str, Any], rounds: Rounds) -> np.ndarray:
    processes = options.get("processes", 1)
    threads = options.get("threads", max(1, cores() // processes))
    cohort = problem.workload.cohort
    loop = Loop(problem, threads, options.get("device", "cpu"))
    state = {name: value.clone() for name, value in loop.model.state_dict().items()}
    helpers: list[Connection] = []
    for first in range(1, processes):  # forked before torch has started a thread, so the data are shared
        mine, theirs = multiprocessing.Pipe()
        arguments = (problem, threads, slice(first, None, processes), theirs)
        multiprocessing.get_context("fork").Process(target=work, args=arguments, daemon=True).start()
        helpers.append(mine)
    for number in rounds:
        for helper in helpers:
            helper.send((_arrays(state), number))
        total = loop.sum(state, number, range(0, cohort, processes))
        for helper in helpers:
            for name, value in _tensors(helper.recv()).items():
                total[name] += value
        state = {name: value / cohort for name, value in total.items()}
        wait()
    for helper in helpers:
        helper.send(None)
    loop.model.load_state_dict(state)
    return weights_of(loop.model)


if __name__ == "__main__":
    contend(run, "torch")

"""A few rounds of FedAvg, to see whether what clients send pulls apart: and the same on data divided at random."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch

from headway.core.algorithm import Algorithm
from headway.core.chain import chain
from headway.core.update import Update
from headway.data import FederatedData
from headway.engines import LocalEngine
from headway.experiment.run import Run
from headway.model.flat_module import FlatModule
from headway.model.task import Task
from headway.numerics.keys import Key
from headway.observe.round_report import RoundReport
from headway.protocol import wire as frame
from headway.protocol.messages import Message
from headway.samplers import All
from headway.stages import Mean, ServerSGD

ROUNDS = 3
CLIENTS = 16  # of a larger population, as many are drawn
NO_NEWS = "a round"


@dataclass(frozen=True)
class Probe:
    """The last of the probe's rounds.

    own, shuffled: the drift figures of the clients' own data, and of the same examples divided at random.
    cosines: each client's delta against the common direction.
    steps: local steps of each client.  seconds: of one client's round on this machine, the mean.
    """

    clients: int
    rounds: int
    own: Mapping[str, float]
    shuffled: Mapping[str, float]
    cosines: Mapping[str, float]
    steps: tuple[int, ...]
    seconds: float

    @property
    def lost(self) -> tuple[float, float] | None:
        """1 - 1/B^2, own and shuffled: how much of the updates' squared length the mean no longer has."""
        if not self.own or not self.shuffled:
            return None
        return 1 - self.own["dissimilarity"] ** -2, 1 - self.shuffled["dissimilarity"] ** -2


def probe(data: FederatedData, task: Task, trainer: Any, seed: int) -> Iterator[str | Probe]:
    """Trains FedAvg twice with the run's own trainer; yields a word after each round and the probe at its end.

    Raises:
        Diverged: if training does not stay finite.
    """
    key = Key.root(seed).derive("probe")
    names = data.clients
    chosen = sorted(names[int(i)] for i in key.permutation(len(names))[:CLIENTS])
    train = {client: data.train[client] for client in chosen}
    own = replace(data, train=train, test={}, central=None)
    rows = torch.cat(list(train.values()))
    parts = rows[key.derive("deal").permutation(len(rows))].split([len(index) for index in train.values()])
    shuffled = replace(own, train=dict(zip(train, parts, strict=True)))
    algorithm = Algorithm(chain(Mean(), ServerSGD()), trainer, All())
    last: list[RoundReport] = []
    for part in (own, shuffled):
        run = Run(algorithm, part, task, rounds=ROUNDS, seed=seed, engine=LocalEngine(drift=True))
        try:
            for report in run:
                last.append(report)
                yield NO_NEWS
        finally:
            run.close()
    own_end, dealt_end = last[ROUNDS - 1], last[-1]
    counted = own_end.clients.with_status("counted")
    yield Probe(
        len(chosen),
        ROUNDS,
        own_end.drift,
        dealt_end.drift,
        {client.client: client.metrics["cosine"] for client in counted if "cosine" in client.metrics},
        tuple(counted.steps),
        sum(counted.seconds) / max(len(counted), 1),
    )


def traffic(algorithm: Algorithm, task: Task, population: int) -> tuple[int, int]:
    """The bytes that a client sends and receives in a round, as a message's frame counts them."""
    flat_module = FlatModule(task, Key.root(0))
    flows = algorithm.flows(LocalEngine().facts, population)
    with_buffers = task.buffers == "average" and flat_module.has_statistics
    lengths = dict(flows[-1].lengths(flat_module.layout.size))
    if with_buffers:
        lengths["buffers"] = flat_module.statistics_layout.size
    integers = frozenset(lengths) if flows[-1].integers is True else flows[-1].integers or frozenset()
    numbers = {name: torch.int64 if name in integers else task.number for name in lengths}
    vectors = {name: torch.zeros((), dtype=numbers[name]).expand(length) for name, length in lengths.items()}
    update = Update.of(**vectors)
    state = algorithm.chain.init(flat_module.shared)
    buffers = flat_module.statistics() if with_buffers else None
    message = Message(flat_module.shared, algorithm.chain.broadcast(state), buffers)
    return frame.size(frame.of_update(update, flows[-1].packed)), frame.size(message.tensors())

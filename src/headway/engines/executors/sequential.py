"""The sequential executor: clients train one after another, and each is named when it fails."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence

from headway.client.group_facts import GroupFacts
from headway.core import stopping
from headway.core.errors import UpdateRejected
from headway.core.update import Tensors
from headway.data.dataset.client_index import ClientIndex
from headway.engines.executors.client_setup import ClientSetup
from headway.protocol import wire as frame
from headway.protocol.messages import Ask
from headway.protocol.reports import Reports
from headway.server.collector import GroupResult
from headway.vectorized.compiled_gradients import Compiler


class SequentialExecutor:
    """Trains any clients, one at a time.

    compiler: gives the gradients of their steps, where these are compiled.
    """

    reason: None = None

    def __init__(self, setup: ClientSetup, compiler: Compiler) -> None:
        self.setup, self.compiler = setup, compiler

    def train(
        self, ask: Ask, clients: Sequence[str], secrets: Mapping[str, Tensors], down: int, result: GroupResult
    ) -> None:
        """Trains the clients and adds each update that the guard accepts to the group's sum.

        down: the bytes that each client received.

        Raises:
            ClientFailed: naming the client, the stage and the inputs of the call that failed.
        """
        if not clients:
            return
        setup = self.setup
        training, guard, collector, store = setup.training, setup.guard, setup.collector, setup.job.data.store
        held = ClientIndex.of(setup.job.data.train)
        sizes, selections = held.sizes_of(clients), held.selections(clients)
        facts, memory = (
            GroupFacts.of(setup.client_algorithm, ask, clients, sizes, self.compiler.single),
            setup.job.memory.of_group(clients, (ask.round, ask.attempt)),
        )
        counted, rejected = list[str](), list[str]()
        rows, reasons, lost_s = list[tuple[float, int, int, float, float, float]](), list[str](), list[float]()
        up = 0
        for place, (client, count) in enumerate(zip(clients, sizes.tolist(), strict=True)):
            if stopping.flag.number is not None:
                stopping.check()
            begun, examples = time.perf_counter(), store.take(selections[place])
            try:
                outcome = training.train_member(
                    facts, place, client, examples, memory.committed[place], secrets.get(client)
                )
                norm = guard.check(outcome.update, client, count)
                collector.count(ask, client, outcome, result)
            except UpdateRejected as refusal:
                rejected.append(client)
                reasons.append(refusal.reason)
                lost_s.append(time.perf_counter() - begun)
                continue
            memory.propose(place, outcome.memory)
            up = up or frame.size(frame.of_update(outcome.update, guard.bits))  # one size for all
            trained = outcome.trained
            numbers = count, int(trained.count), norm, float(trained.loss), float(outcome.update.weight)
            counted.append(client)
            rows.append((time.perf_counter() - begun, *numbers))
        memory.close()
        if counted:
            seconds, *columns = map(list, zip(*rows, strict=True))
            result.parts.append(collector.reports_of(counted, (seconds, up, down), *columns))
        if rejected:
            result.parts.append(Reports(rejected, "rejected", seconds=lost_s, bytes_down=down, reasons=reasons))

    def rehearse(self, ask: Ask, clients: Sequence[str], result: GroupResult) -> None:
        """The work of the clients without its checks; no memory is proposed."""
        setup, job = self.setup, self.setup.job
        sizes = ClientIndex.of(job.data.train).sizes_of(clients)
        facts = GroupFacts.of(setup.client_algorithm, ask, clients, sizes, self.compiler.single)
        for place, client in enumerate(clients):
            examples, memory = job.data.train_of(client), job.memory.get(client)
            outcome = setup.training.trial.train_member(facts, place, client, examples, memory)
            setup.collector.count(ask, client, outcome, result)

"""A worker process: runs units of clients for its parent, and sums them."""

from __future__ import annotations

import base64
import gc
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection
from typing import Any

import torch
from torch import Tensor

from headway.client.evaluation import Window
from headway.core import stopping
from headway.core.update import Tensors, Update
from headway.engines.executors.client_setup import ClientSetup
from headway.engines.group_runner import GroupRunner
from headway.engines.processes.shared_arrays import Broadcast, Sums, shared
from headway.engines.worker_pool import WorkerResult, WorkerTotals
from headway.protocol import wire
from headway.protocol.messages import Ask, Evaluate, Measure, Train, Version
from headway.protocol.reports import Reports
from headway.protocol.sums import ExactTotal


@dataclass(frozen=True)
class Areas:
    """The shared memory of all workers and their parent.

    broadcasts: the messages that are answered in the round.  evaluated: the model that is evaluated.  sums: of each
    worker.  drift: a row for each client of the cohort, if drift is measured.  rows: each client's own vectors, for an
    aggregator that needs the whole cohort.
    """

    broadcasts: list[Broadcast]
    evaluated: Broadcast
    sums: list[Sums]
    drift: Tensor | None
    rows: dict[str, Tensor]
    cohort: int

    @classmethod
    def of(cls, ask: Ask, setup: ClientSetup, workers: int) -> Areas:
        """Memory for rounds like this one."""
        cohort, meter = len(ask.cohort), setup.meter(ask)
        whole = setup.job.algorithm.chain.aggregator.whole_cohort
        lengths, number = setup.summed, setup.flat_module.shared.dtype
        return cls(
            [Broadcast(ask.message) for _ in range(_room(1 + len(ask.versions)))],
            Broadcast(replace(ask.message, stages={})),
            [] if whole else [Sums(lengths) for _ in range(workers)],
            None if meter is None else shared((cohort, meter.width), meter.number),
            {name: shared((cohort, length), number) for name, length in lengths.items()} if whole else {},
            cohort,
        )

    def fit(self, ask: Ask) -> bool:
        """Whether this round's messages and cohort have room."""
        fits = len(ask.cohort) <= self.cohort and 1 + len(ask.versions) <= len(self.broadcasts)
        return fits and self.broadcasts[0].fits(ask.message)

    def write(self, ask: Ask) -> None:
        """Writes what is not there yet: a message that is still being answered stays where it is."""
        messages = {ask.round: ask.message} | {version.round: version.message for version in ask.versions}
        held = {id(each.written) for each in self.broadcasts}
        wanted = {id(message) for message in messages.values()}
        free = [each for each in self.broadcasts if id(each.written) not in wanted]
        for message in messages.values():
            if id(message) not in held:
                free.pop().write(message)

    def places(self, ask: Ask) -> list[tuple[int, int]]:
        """The rounds of the ask's messages and where these lie, that of this round first."""
        places = {id(each.written): place for place, each in enumerate(self.broadcasts)}
        versions = [(version.round, places[id(version.message)]) for version in ask.versions]
        return [(ask.round, places[id(ask.message)]), *versions]

    def ask(self, request: dict[str, Any]) -> Ask:
        """The ask of a request."""
        (now, place), *versions = request["messages"]
        earlier = {round_: Version(round_, self.broadcasts[there].message()) for round_, there in versions}
        return Ask(
            Train(self.broadcasts[place].message(), now, request["attempt"]),
            tuple(request["unit"]),
            earlier={client: earlier[round_] for client, round_ in request["earlier"].items()},
            steps=request["steps"],
        )


class Worker:
    """The child's side: answers requests until there are no more.

    A request is a JSON object: `{"unit": [clients], "first": place of the first in the cohort, ...}` is answered with
    what became of each client; `{"evaluate": [clients], "window": [...], ...}` and `{"measure": ...}` with a report on
    each client of the window; `{"sum": true}` with what the units since the last such request add up to.
    """

    def __init__(self, number: int, pipe: Connection, groups: GroupRunner, areas: Areas) -> None:
        self.number, self.pipe, self.areas = number, pipe, areas
        self.totals = WorkerTotals(groups)

    def serve(self) -> None:
        """Answers until the parent hangs up."""
        torch.set_num_threads(1)
        while True:
            try:
                request = json.loads(self.pipe.recv_bytes())
            except (EOFError, OSError):
                return
            try:
                reply = self._reply(request)
            except BaseException as error:  # also an exit: the parent runs the clients, and fails where one can look
                reply = {"failed": f"{type(error).__name__}: {error}"}
            self.pipe.send_bytes(json.dumps(reply).encode())

    def _reply(self, request: dict[str, Any]) -> dict[str, Any]:
        if "sum" in request:
            return self._sum()
        if "unit" in request:
            return self._unit(request)
        kind = Evaluate if "evaluate" in request else Measure
        message, clients = self.areas.evaluated.message(), request.get("evaluate") or request["measure"]
        ask = Ask(kind(message, request["round"], request["attempt"]), tuple(clients))
        return {"reports": self.totals.evaluate(ask, Window(*request["window"])).to_state(), "notes": []}

    def _unit(self, request: dict[str, Any]) -> dict[str, Any]:
        ask = self.areas.ask(request)
        done = self.totals.run(ask, request["cohort"], _read_secrets(request["secrets"]))
        meter = done.meter
        reply: dict[str, Any] = {"reports": Reports.joined(done.parts).to_state()}
        reply["notes"] = self.totals.groups.execution.fallbacks.take()
        places = {client: request["first"] + place for place, client in enumerate(ask.cohort)}
        if meter is not None and self.areas.drift is not None:
            for client, row in meter.rows.items():
                self.areas.drift[places[client]] = row
            reply |= {"weights": meter.weights, "paths": meter.paths}
            meter.clear()
        if self.areas.rows:
            reply["rows"] = self._rows(done.group.total, places)
        else:
            self.totals.total.add_group(done.group)
        return reply

    def _rows(self, total: ExactTotal, places: dict[str, int]) -> dict[str, Any]:
        """Writes each client's vectors to shared memory; returns its weight and sums."""
        for client, update in total.rows.items():
            for name, vector in update.vectors.items():
                self.areas.rows[name][places[client]] = vector
        return {
            client: [float(update.weight), {name: float(number) for name, number in update.sums.items()}]
            for client, update in total.rows.items()
        }

    def _sum(self) -> dict[str, Any]:
        total = self.totals.take()
        if not self.areas.sums:
            return {"bins": {}, "integers": [], **total.to_state()}
        sums = self.areas.sums[self.number]
        written, integers = sums.write(total.vectors), sums.write_integers(total.integers)
        if written is None:
            return {"failed": "the sum has more bins than there is room for"}
        return {"bins": written, "integers": integers, **total.to_state()}


def _room(messages: int) -> int:
    """For how many messages there is room where so many are needed, so that it is seldom made anew.

    >>> [_room(count) for count in (1, 2, 3, 9)]
    [1, 2, 4, 16]
    """
    return 1 << (messages - 1).bit_length()


def read_total(reply: dict[str, Any], sums: Sums) -> ExactTotal:
    """The sum of a worker's groups, from its reply."""
    return ExactTotal.from_state(reply, sums.read(reply["bins"]), sums.read_integers(reply["integers"]))


def read_work(reply: dict[str, Any], unit: Sequence[str], first: int, areas: Areas) -> WorkerResult:
    """The result of a group, from a worker's reply."""
    drift: dict[str, Tensor] = {}
    weights, paths = reply.get("weights", {}), reply.get("paths", {})
    if areas.drift is not None:
        drift = {client: areas.drift[place] for place, client in enumerate(unit, first) if client in weights}
    rows = _read_rows(reply, unit, first, areas.rows) if "rows" in reply else None
    return WorkerResult(Reports(**reply["reports"]), rows, drift, weights, paths, reply["notes"])


def _read_rows(reply: dict[str, Any], unit: Sequence[str], first: int, rows: dict[str, Tensor]) -> ExactTotal:
    """The updates of a unit's counted clients."""
    total = ExactTotal()
    for place, client in enumerate(unit, start=first):
        if client in reply["rows"]:
            weight, sums = reply["rows"][client]
            vectors = {name: matrix[place] for name, matrix in rows.items()}
            numbers = {name: torch.tensor(number, dtype=torch.float64) for name, number in sums.items()}
            total.add_row(client, Update(vectors, torch.tensor(weight, dtype=torch.float64), numbers))
    return total


def written_secrets(secrets: Mapping[str, Tensors]) -> dict[str, str]:
    """Each client's secret in the exchanges of a protocol, as JSON holds it."""
    frames = {client: wire.encode(wire.Frame("reply", 0, 0, 0, tensors)) for client, tensors in secrets.items()}
    return {client: base64.b64encode(data).decode() for client, data in frames.items()}


def _read_secrets(written: Mapping[str, str]) -> dict[str, Tensors]:
    """The secrets of `written_secrets`."""
    data = {client: base64.b64decode(text) for client, text in written.items()}
    return {client: wire.read(frame, len(frame)).tensors for client, frame in data.items()}


@contextmanager
def uncollected() -> Iterator[None]:
    """Within, no garbage is collected."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def start(number: int, pipe: Connection, groups: GroupRunner, areas: Areas, parents: Sequence[Connection]) -> int:
    """Forks a worker that serves this end of a pipe; its process id.

    parents: the parent's ends of all pipes, which the child lets go of, so that every worker notices when the parent
    is gone.

    Forking shares the data and the model's code without copying or pickling.  The child runs torch with one thread,
    so that it never waits for threads that only the parent has.  Its collector leaves alone what was there before: an
    object of the parent's that is garbage may end a connection that both processes have, as those of Ray do.
    """
    parent = os.getpid()
    with stopping.blocked(), uncollected():
        pid = os.fork()
        if not pid:
            gc.freeze()
            stopping.in_child()
    if pid:
        return pid
    try:
        stopping.end_with(parent)
        for end in parents:
            end.close()
        Worker(number, pipe, groups, areas).serve()
    finally:
        os._exit(0)

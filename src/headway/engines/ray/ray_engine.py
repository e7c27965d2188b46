"""The Ray engine: workers on the machines of a Ray cluster.  Ray is imported here only, when it is needed."""

from __future__ import annotations

import logging
import os
import signal
import socket
import sys
import threading
import time
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar, Literal

from headway.core import stopping
from headway.core.errors import ConfigError, HeadwayError
from headway.engines.engine import Job
from headway.engines.processes.arrays import arrays_of, read_rows, read_total, tensors_of
from headway.engines.processes.process_engine import cores
from headway.engines.ray.actors import TICK_S, Actor, Call, RayActors, Reference, Unread, first_line, import_ray
from headway.engines.ray.ray_worker import RayWorker, WorkerJob, data_arrays
from headway.engines.ray.replicated_state import RemoteMemory
from headway.engines.ray.state_replica import StateReplica
from headway.engines.worker_pool import Lost, MachineLost, Unit, WorkerEngine, WorkerHandle, WorkerTask
from headway.protocol.messages import Answer, Ask, Message
from headway.protocol.reports import Reports
from headway.protocol.sums import ExactTotal

PATIENCE_S = 300.0  # for workers that have not started: a node that imports from a slow disk takes a minute
FIRST_S = 86_400.0  # for the first unit of all to be trained
SLOWER, SLOW_S = 20, 600.0  # a worker that is at a unit so many times longer than any was, and so long, is lost
ANSWER_S = 5.0  # for a cluster to answer at its address


class RayHandle(WorkerHandle):
    """A worker actor.  begun: the call that starts it, whose result is its node."""

    named: ClassVar[str] = "a Ray worker"

    def __init__(self, number: int, actor: Actor, begun: Call, engine: RayEngine) -> None:
        super().__init__(number)
        self.actor, self.begun, self.engine = actor, begun, engine
        self.asked: Call | None = None
        self.calls = 0
        self.how = "for a reason that is not known"

    def give(self, ask: Ask, unit: Unit) -> None:
        """Asks it; messages go by reference."""
        engine, own = self.engine, ask.of(unit.clients)
        rounds = [ask.round, *(version.round for version in own.versions)]
        self.calls += 1
        request = {
            "number": self.calls,
            "rounds": rounds,
            "attempt": ask.attempt,
            "clients": unit.clients,
            "cohort": len(ask.cohort),
            "earlier": {client: version.round for client, version in own.earlier.items()},
            "steps": dict(own.steps),
            "missed": dict(engine.memory_.missed),
        }
        messages = [engine.broadcasts[round_] for round_ in rounds]
        self.asked = engine.remote.call(self.actor, "unit", request, engine.memory_.ranges, *messages)

    def work(self, unit: Unit) -> WorkerTask | None:
        """Waits for its answer."""
        self._check_started()
        assert self.asked is not None
        asked, self.asked = self.asked, None
        reply = self._get(asked)
        self.engine.longest_s = max(self.engine.longest_s, asked.seconds)
        self.engine.memory_.missed |= reply["missed"]
        self.engine.remote.add(reply["repeated"])
        if "failed" in reply:
            return None
        rows = read_rows(reply["rows"]) if "rows" in reply else None
        drift, paths = tensors_of(reply.get("drift", {})), reply.get("paths", {})
        return WorkerTask(Reports(**reply["reports"]), rows, drift, reply.get("weights", {}), paths, reply["notes"])

    def total(self) -> ExactTotal | None:
        """Its sum."""
        self.calls += 1
        return read_total(self._get(self.engine.remote.call(self.actor, "sum", self.calls)))

    def bury(self) -> str:
        """Ends it, if it could only not be reached."""
        self.engine.remote.kill(self.actor)
        return self.how

    def _check_started(self) -> None:
        """Whether its start went well.

        Raises:
            HeadwayError: if what it was given cannot work on its node.
        """
        try:
            self._get(self.begun)
        except Exception as error:
            if isinstance(error, Lost) and not isinstance(error, Unread):
                raise
            found = str(error) if isinstance(error, Lost) else f"{type(error).__name__}: {error}"
            raise HeadwayError(
                "a Ray worker could not make ready: needed the same packages, code and model on every node, found: "
                f"{found}. It is caused by the node or by the task: install there what is "
                "installed here, or run without Ray to see what fails."
            ) from error

    def _get(self, call: Call) -> Any:
        try:
            return self.engine.remote.get(call)
        except Lost as lost:
            self.how = f"({lost})"
            if self.begun.value is not None and self.begun.value not in living_nodes():
                raise MachineLost(*lost.args) from lost
            raise


class RayEngine(WorkerEngine):
    """Clients in workers on a Ray cluster, each with one thread; the clients' memory lies beside them, twice over.

    Data, the model and the broadcast go through Ray's object store, once for each node.  A worker returns one exact
    sum a round, so the result has the same bits for any number of workers, and those of `ProcessEngine` with as many
    lanes.  A worker that is lost with its process or node is made anew elsewhere, its clients train again, and nothing
    changes.  Each part of the clients' memory has two keepers; one that is lost is replaced after the round.

    workers: how many; `None` for one per core of the cluster.  address: of a cluster that runs, `host:port`, or "auto"
    for the one on this machine; with `None` what RAY_ADDRESS says, and otherwise a cluster of this machine alone, which
    ends with the run.  A program that has called `ray.init` keeps its cluster, which is used.  The others are
    as in `LocalEngine`.

    Raises:
        ConfigError: for a number below 1; when opened, if Ray is not installed, no cluster answers, or it is too small.
    """

    title: ClassVar[str] = "Ray"
    worker: ClassVar[tuple[str, str]] = ("Ray worker", "Ray workers")

    def __init__(
        self,
        workers: int | None = None,
        *,
        address: str | None = None,
        lanes: int | Literal["auto"] = "auto",
        drift: bool = True,
        low_rank: bool | None = None,
        channels_last: bool | None = None,
        compiled: bool | None = None,
    ) -> None:
        super().__init__(workers, lanes, drift, low_rank, channels_last, compiled)
        self.wanted, self.address = workers, address
        self.remote = RayActors()
        self.connected = False
        self.ours = False  # whether the connection to Ray is this engine's to end
        self.memory_ = RemoteMemory((), self.remote)
        self.longest_s = 0.0  # that a worker was at a unit
        self.shipped: tuple[Reference, Reference] | None = None
        self.broadcasts: dict[int, Reference] = {}  # by round

    def memory(self, clients: Sequence[str], folder: Path | None) -> RemoteMemory:
        """It will lie with actors of the cluster; what is too large for main memory, where their temporary files do."""
        self.memory_ = RemoteMemory(clients, self.remote)
        return self.memory_

    def open(self, job: Job) -> None:
        """Connects to the cluster, and starts what keeps the clients' memory; the workers start with a round."""
        assert job.memory is self.memory_, "the job's memory is what RayEngine.memory gave"
        self._connect()
        try:
            super().open(job)
            if self.execution.setup.participant.first_memory():
                self.memory_.open(len(living_nodes()), self._keeper, living_nodes)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Ends the workers, the keepers, and the cluster if it is this engine's own."""
        if self.connected and import_ray().is_initialized():
            self.kill()
            self.memory_.close()
            if self.ours:
                import_ray().shutdown()
        self.connected, self.ours, self.shipped = False, False, None

    def kill(self) -> None:
        """Ends the workers at once, whatever they are at."""
        for hand in self.crew:
            hand.bury()
        self.crew, self.broadcasts = [], {}

    def prepare(self, ask: Ask) -> None:
        """Puts the messages where the workers read them, and in the first round the data."""
        if self.shipped is None:
            shipped = WorkerJob.of(self.execution, self.remote)
            self.shipped = (self.remote.put(shipped), self.remote.put(data_arrays(self.job.data)))
        earlier = {
            version.round: self.broadcasts.get(version.round) or self._sent(version.message) for version in ask.versions
        }
        self.broadcasts = {**earlier, ask.round: self._sent(ask.message)}

    def _sent(self, message: Message) -> Reference:
        return self.remote.put(arrays_of(message.tensors()))

    def hire(self, number: int, instead: bool = False) -> RayHandle:
        """Makes a worker, on a node that has room; one instead of another needs no free core, since a cluster that
        has lost a node may have none."""
        assert self.shipped is not None
        made = import_ray().remote(RayWorker)
        spread = made.options(num_cpus=0 if instead else 1, max_restarts=0, scheduling_strategy="SPREAD")
        actor: Actor = spread.remote(list(sys.path))
        return RayHandle(number, actor, self.remote.call(actor, "start", *self.shipped), self)

    def ready(self, busy: Sequence[WorkerHandle]) -> Iterator[WorkerHandle]:
        """Waits for an answer.

        Raises:
            HeadwayError: if no worker that is waited for has started for minutes.
        """
        asked = {hand: hand.asked for hand in busy if isinstance(hand, RayHandle) and hand.asked is not None}
        ray, begun = import_ray(), time.monotonic()
        while True:
            stopping.check()
            by_reference = {call.reference: hand for hand, call in asked.items()}
            answered, _ = ray.wait(list(by_reference), timeout=TICK_S)
            done = [hand for reference in answered if self.remote.poll(asked[hand := by_reference[reference]])]
            done += [hand for hand, call in asked.items() if hand not in done and self._overdue(call)]
            if done:
                yield from done
                return
            if time.monotonic() - begun > PATIENCE_S and not any(self.remote.poll(hand.begun) for hand in asked):
                raise HeadwayError(
                    f"needed {len(busy)} more workers on the Ray cluster, found that none has started in "
                    f"{PATIENCE_S:.0f} seconds. Often other work holds its cores: use fewer workers, or wait for it."
                )

    def _overdue(self, call: Call) -> bool:
        """Whether a worker is at a unit for so much longer than any was before that it is taken for lost."""
        limit = max(SLOW_S, SLOWER * self.longest_s) if self.longest_s else FIRST_S
        if call.seconds > limit:
            call.fail(Lost(f"no answer for {call.seconds:.0f} s"))
        return call.done

    def _train(self, ask: Ask) -> Answer:
        answer = super()._train(ask)
        return replace(answer, notes=[*answer.notes, *self.remote.report()])

    def _settle(self, ask: Ask) -> Answer:
        answer = super()._settle(ask)
        notes, self.memory_.notes = self.memory_.notes, []
        return replace(answer, notes=[*answer.notes, *notes, *self.remote.report()])

    def _keeper(self, clients: Sequence[str], node: str) -> Actor:
        """A keeper on this node, or elsewhere if that is lost."""
        ray = import_ray()
        strategy = ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy(node_id=node, soft=True)
        made = ray.remote(StateReplica).options(num_cpus=0, max_restarts=0, scheduling_strategy=strategy)
        keeper: Actor = made.remote(clients)
        return keeper

    # the cluster ----------------------------------------------------------------------------------------

    def _connect(self) -> None:
        """Connects to the cluster, silently.

        Raises:
            ConfigError: if Ray is not installed, no cluster answers, or it has fewer cores than workers.
        """
        ray, address = import_ray(), self.address or os.environ.get("RAY_ADDRESS") or "local"
        if not ray.is_initialized():
            _check_address(address)
            os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
            alone: dict[str, Any] = {"num_cpus": self.wanted or cores(), "include_dashboard": False}
            before = signal.getsignal(signal.SIGTERM)
            try:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")  # of Ray's own making
                    ray.init(
                        address=address,
                        log_to_driver=False,
                        logging_level=logging.ERROR,
                        **(alone if address == "local" else {}),
                    )
            except (OSError, RuntimeError, ValueError, ray.exceptions.RayError) as error:
                raise _unreachable(address, first_line(error)) from error
            finally:
                if threading.current_thread() is threading.main_thread():
                    signal.signal(signal.SIGTERM, before)  # Ray puts its own there
            self.ours = True
        self.connected = True
        found = int(sum(node["Resources"].get("CPU", 0) for node in ray.nodes() if node["Alive"]))
        self.workers = self.wanted or max(found, 1)
        if self.workers > found:
            self.close()
            raise ConfigError(
                f"needed a core for each of {self.workers} workers, found {found} on the Ray cluster. It is caused by "
                "the number of workers: use fewer, or add nodes to the cluster."
            )


def living_nodes() -> list[str]:
    """The names of the cluster's living nodes."""
    return [node["NodeID"] for node in import_ray().nodes() if node["Alive"]]


def _check_address(address: str) -> None:
    """Refuses, within seconds, an address where nothing answers.

    Raises:
        ConfigError: saying what was found.
    """
    if address in ("local", "auto"):
        return
    host, _, port = address.rpartition(":")
    if "/" in address or not host or not port.isdigit():
        raise ConfigError(
            f'the address of a Ray cluster is "host:port" of its head node, or "auto" for the cluster on this machine, '
            f"found {address!r}. Run on one of the cluster's nodes."
        )
    try:
        socket.create_connection((host.strip("[]"), int(port)), ANSWER_S).close()
    except (OSError, OverflowError) as error:
        raise _unreachable(address, str(error)) from error


def _unreachable(address: str, why: str) -> ConfigError:
    where = {"local": "on this machine", "auto": "that runs on this machine"}.get(address, f"at {address}")
    do = "see whether Ray works here" if address == "local" else 'start one ("ray start --head"), or leave address out'
    return ConfigError(f"needed a Ray cluster {where}, found none that answers: {why}. Correct the address, or {do}.")

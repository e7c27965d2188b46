"""The clock engine: another engine under a virtual clock, by which clients are slow, away, late or lost."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import Tensor

from headway.client_state.store import Memories
from headway.core.algorithm import State
from headway.core.errors import ConfigError
from headway.core.flow import EngineFacts
from headway.core.registry import to_numbers
from headway.engines.engine import Engine, Job
from headway.engines.local import LocalEngine
from headway.engines.planned_engine import PlannedEngine
from headway.engines.virtual_clock.fleet import DeviceFleet
from headway.engines.virtual_clock.simulated_clients import SimulatedClients
from headway.engines.virtual_clock.timed_requests import TimedRequests
from headway.protocol.messages import Answer, Ask, Exchange, Measure, Train
from headway.protocol.quorum import Quorum
from headway.server.coordinator import Coordinator


class ClockEngine(Engine):
    """Runs asks by a virtual clock, which decides by the algorithm's quorum which clients are in time, late or lost.

    Time moves on with the bytes that are sent and the examples that are trained on, on each client's own device; it
    has nothing to do with the seconds that the simulation takes.  Only updates that count are trained, by the engine
    inside, on the model that the client was asked with.  The timeline is a function of the run's seed, the fleet and
    the algorithm, whatever engine is inside and on any number of workers.

    inner: the engine that trains, by default a `LocalEngine`.  fleet: the clients' devices; by default all clients are
    available and answer at once.  Where late updates are kept no drift is measured, which is that of updates to one
    model.

    Raises:
        ConfigError: in a run, if nobody is ever there.
    """

    def __init__(self, inner: Engine | None = None, fleet: DeviceFleet | None = None) -> None:
        inner = inner or LocalEngine()
        if not isinstance(inner, PlannedEngine):
            raise ConfigError(
                f"a virtual clock needs an engine that trains by an execution plan, found {type(inner).__name__}: use "
                "LocalEngine, ProcessEngine or RayEngine inside, or leave the clock out."
            )
        self.inner: PlannedEngine = inner
        self.fleet = fleet or DeviceFleet()
        self.site = self.inner.site
        self._requests: TimedRequests | None = None  # until the engine is opened

    @property
    def requests(self) -> TimedRequests:
        """The requests that take simulated time, once the engine is open."""
        assert self._requests is not None
        return self._requests

    @property
    def now(self) -> float:
        """The simulated seconds since the run began."""
        return 0.0 if self._requests is None else self._requests.clock.now

    @property
    def facts(self) -> EngineFacts:
        """The facts of the engine inside, with a clock."""
        inner = self.inner.facts
        return EngineFacts(f"{inner.name} by a virtual clock", memory=inner.memory, clock=True)

    @property
    def recorded_name(self) -> str:
        """The name of the engine inside, with the clock."""
        return f"{self.inner.recorded_name} by a virtual clock"

    @property
    def summary(self) -> str:
        """The summary of the engine inside."""
        return self.inner.summary

    @property
    def pinned_settings(self) -> dict[str, Any]:
        """The settings of the engine inside."""
        return self.inner.pinned_settings

    @property
    def repeat(self) -> str:
        """The options of the engine inside."""
        return self.inner.repeat

    @property
    def timed(self) -> dict[str, Any]:
        """The fleet."""
        return to_numbers(self.fleet)

    @property
    def keeps_memory(self) -> bool:
        """Whether clients keep something, with the engine inside."""
        return self.inner.keeps_memory

    def restore_settings(self, decided: Mapping[str, Any]) -> None:
        """Pins the settings of the engine inside."""
        self.inner.restore_settings(decided)

    def memory(self, clients: Sequence[str], folder: Path | None) -> Memories:
        """The memory of the engine inside."""
        return self.inner.memory(clients, folder)

    def open(self, job: Job) -> None:
        """Opens the engine inside, whose clients answer at once."""
        algorithm = job.algorithm
        self.fleet.availability.check(job.data.clients)
        if algorithm.quorum.work == "window" and self.fleet.examples_per_s == math.inf:
            raise ConfigError(
                'Quorum.work is "window", and the clients are so fast that they would never end: say how many examples '
                "a client trains on in a second (clock.examples_per_s), or choose a preset."
            )
        if algorithm.quorum.late == "keep":
            self.inner.change_options(drift=False)  # of updates to one model
        self.inner.open(replace(job, algorithm=replace(algorithm, quorum=Quorum())))
        sizes = dict(zip(job.data.clients, job.data.train_sizes.tolist(), strict=True))
        self.key = job.key.derive("fleet")
        self.coordinator = Coordinator(algorithm.quorum)
        clients = SimulatedClients(self.fleet, self.key, sizes)
        self._requests = TimedRequests(self.inner, self.coordinator, clients, self.key)

    def try_once(self, state: State, evaluated: bool) -> Sequence[str]:
        """The trial of the engine inside."""
        return self.inner.try_once(state, evaluated)

    def clients(self) -> Sequence[str]:
        """The population."""
        return self.inner.clients()

    @property
    def busy(self) -> int:
        """How many clients have an ask in flight, or an update that waits to count."""
        return len(self.coordinator.pool.held)

    def candidates(self, enough: Callable[[Sequence[str]], bool]) -> Sequence[str]:
        """The clients that are available and may be asked; time passes until they are enough.

        Raises:
            ConfigError: if that does not come within ten years, with the simulated time and how many there are.
        """
        return self.requests.clock.candidates(self.clients(), enough)

    def ask(self, ask: Ask) -> Answer:
        """Training, the measuring of losses and the exchanges of a protocol take simulated time; nothing else does."""
        match ask.request:
            case Train():
                return self.requests.train(ask)
            case Measure():
                return self.requests.measure(ask)
            case Exchange():
                return self.requests.exchange(ask)
        return self.inner.ask(ask)

    def close(self) -> None:
        """Closes the engine inside."""
        self.inner.close()

    def saved(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """The time, the clients in flight, and the models that they were asked with."""
        values, tensors = self.coordinator.to_state()
        return {**self.requests.clock.to_state(), **values}, tensors

    def restore(self, notes: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
        """Goes on from what was saved."""
        self.coordinator.from_state(notes, tensors)
        self.requests.clock.from_state(notes)

"""The clock engine: another engine under a virtual clock, by which clients are slow, away, late or lost."""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import Tensor

from headway.client_state.store import TRAINER, Memories
from headway.core import stopping
from headway.core.algorithm import State
from headway.core.errors import ConfigError
from headway.core.flow import EngineFacts
from headway.core.registry import to_numbers
from headway.engines.engine import Engine, Job
from headway.engines.local import LocalEngine
from headway.engines.local_clients import REPLY
from headway.engines.planned_engine import PlannedEngine
from headway.engines.virtual_clock.device_availability import HORIZON_S, Always
from headway.engines.virtual_clock.fleet import DeviceFleet
from headway.engines.virtual_clock.simulated_clients import SimulatedClients
from headway.numerics.keys import Key
from headway.numerics.units import time_text
from headway.protocol import wire
from headway.protocol.messages import Answer, Ask, Measure, Train
from headway.protocol.quorum import Quorum
from headway.protocol.reports import Reports
from headway.protocol.round_pool import Ticket
from headway.server.coordinator import Coordinator

Event = tuple[float, str, int, str, Ticket]  # time, client, number of the ask, reason of a failure (or ""), the ask


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
        ConfigError: when opened, for a chain whose protocol exchanges secrets; in a run, if nobody is ever there.
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
        self.now = 0.0
        self._events: list[Event] = []
        self._up: int | None = None

    @property
    def facts(self) -> EngineFacts:
        """Those of the engine inside, with a clock."""
        inner = self.inner.facts
        return EngineFacts(f"{inner.name} by a virtual clock", memory=inner.memory, clock=True)

    @property
    def recorded_name(self) -> str:
        """As of the engine inside, with the clock."""
        return f"{self.inner.recorded_name} by a virtual clock"

    @property
    def summary(self) -> str:
        """What the engine inside says."""
        return self.inner.summary

    @property
    def pinned_settings(self) -> dict[str, Any]:
        """What the engine inside decided."""
        return self.inner.pinned_settings

    @property
    def repeat(self) -> str:
        """Those of the engine inside."""
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
        """Tells the engine inside."""
        self.inner.restore_settings(decided)

    def memory(self, clients: Sequence[str], folder: Path | None) -> Memories:
        """Where the engine inside wants it."""
        return self.inner.memory(clients, folder)

    def open(self, job: Job) -> None:
        """Opens the engine inside, whose clients answer at once."""
        algorithm = job.algorithm
        if algorithm.chain.protocol is not None:
            raise ConfigError(
                f"{algorithm.chain.protocol[0]} exchanges secrets with each client, which the virtual clock does not "
                "time: leave the clock or that stage out."
            )
        self.fleet.availability.check(job.data.clients)
        if algorithm.quorum.work == "window" and self.fleet.examples_per_s == math.inf:
            raise ConfigError(
                'Quorum.work is "window", and the clients are so fast that they would never end: say how many examples '
                "a client trains on in a second (clock.examples_per_s), or choose a preset."
            )
        self.key = job.key.derive("fleet")
        self.coordinator = Coordinator(algorithm.quorum)
        self._always = self.fleet.availability == Always() and algorithm.quorum.cap is None
        if algorithm.quorum.late == "keep":
            self.inner.change_options(drift=False)  # of updates to one model
        self.inner.open(replace(job, algorithm=replace(algorithm, quorum=Quorum())))
        sizes = dict(zip(job.data.clients, job.data.train_sizes.tolist(), strict=True))
        self.simulated = SimulatedClients(self.fleet, self.key, sizes)

    def try_once(self, state: State, evaluated: bool) -> Sequence[str]:
        """As the engine inside does."""
        return self.inner.try_once(state, evaluated)

    def clients(self) -> Sequence[str]:
        """The population."""
        return self.inner.clients()

    @property
    def busy(self) -> int:
        """How many clients have an ask in flight."""
        return len(self.coordinator.pool.busy)

    def candidates(self, enough: Callable[[Sequence[str]], bool]) -> Sequence[str]:
        """The clients that are available and may be asked; time passes until they are enough.

        Raises:
            ConfigError: if that does not come within ten years, with the simulated time and how many there are.
        """
        begun = self.now
        while True:
            stopping.check()
            available, later = self._available()
            if enough(available):
                return available
            if self._events:
                later = min(later, self._events[0][0])
            if not self.now < later <= begun + HORIZON_S:
                raise ConfigError(
                    f"after {time_text(self.now)} of simulated time {len(available)} of {len(self.clients())} clients "
                    f"are there and may be asked, and no other will be within {time_text(HORIZON_S)}: these are too "
                    "few for a round. Lower the sampler's count, raise quorum.cap, or give the clients more time "
                    "(clock.availability)."
                )
            self._pass_time(later)

    def ask(self, ask: Ask) -> Answer:
        """Training, and the measuring of losses, take simulated time; nothing else does."""
        if isinstance(ask.request, Train):
            return self._train(ask)
        if isinstance(ask.request, Measure):
            return self._measure(ask)
        return self.inner.ask(ask)

    def close(self) -> None:
        """Closes the engine inside."""
        self.inner.close()

    # one round ------------------------------------------------------------------------------------------

    def _train(self, ask: Ask) -> Answer:
        coordinator, pool = self.coordinator, self.coordinator.pool
        reserve = self._reserve(ask) if pool.quorum.replace else ()
        self._send(coordinator.begin(ask, self.now, reserve))
        while not pool.done:
            stopping.check()
            due = pool.due()
            if self._events and self._events[0][0] <= due:
                self._next_event()
            else:
                self.now = due
                self._send(pool.pass_time(due))
        counting, closed = coordinator.close(ask)
        if pool.quorum.late == "drop":
            self._events.clear()
        return coordinator.answer(self.inner.ask(counting), closed, len(self.simulated.sizes))

    def _next_event(self) -> None:
        """Goes on to the next event."""
        at, _, _, failure, ticket = heapq.heappop(self._events)
        self.now = max(self.now, at)
        if failure:
            self._send(self.coordinator.pool.failed(ticket, self.now, failure))
        else:
            self.coordinator.pool.arrived(ticket, self.now)

    def _pass_time(self, until: float) -> None:
        """Lets time pass between rounds, with its events."""
        while self._events and self._events[0][0] <= until:
            self._next_event()
        self.now = until

    def _send(self, tickets: Iterable[Ticket]) -> None:
        """Asks clients: the event with which each of them will end."""
        for ticket in tickets:
            heapq.heappush(self._events, self._completion_event(ticket))

    def _completion_event(self, ticket: Ticket) -> Event:
        client, asked = ticket.client, ticket.asked
        window = self.simulated.window(client, asked)
        duration = self._duration(ticket, asked if window is None else max(asked, window[0]))
        key = self.key.derive("ask", client, ticket.round, ticket.attempt)
        end, failure = self.simulated.completion(client, asked, duration, key)
        return end, client, ticket.number, failure, ticket

    def _duration(self, ticket: Ticket, begin: float) -> float:
        """The seconds that a client works on an ask; its number of steps is limited where the deadline decides it."""
        client, clients = ticket.client, self.inner.execution.setup.client_algorithm
        device, size = self.simulated.device(client), self.simulated.sizes[client]
        key, down, up = (
            clients.client_key(client, ticket.round).derive(TRAINER),
            self.coordinator.bytes_down,
            self._bytes_up(ticket),
        )
        whole = device.seconds(clients.trainer.examples_used(size, key), down, up)
        work, left = self.coordinator.pool.quorum.work, self.coordinator.pool.deadline - begin
        if work == "whole" or (work == "partial" and whole <= left):
            return whole
        steps, examples = clients.trainer.steps_within(size, device.examples_within(left, down, up))
        if not steps:
            return whole  # and is late
        self.coordinator.limit_steps(ticket, steps)
        return min(device.seconds(examples, down, up), left)

    def _bytes_up(self, ticket: Ticket) -> int:
        """The bytes that a client sends; updates of one chain and model are all of one size."""
        if self._up is None:
            request = Train(self.coordinator.message_for(ticket), ticket.round)
            self._up = self.inner.execution.bytes_up(Ask(request, (ticket.client,)))
        return self._up

    def _measure(self, ask: Ask) -> Answer:
        """The losses of the clients that neither crash nor leave.

        All are waited for, at most until the quorum's deadline; clients at work on an earlier ask go on meanwhile.
        """
        begun, quorum, down = self.now, self.coordinator.pool.quorum, wire.size(ask.message.tensors())
        last = begun + min(math.inf if quorum.deadline_s is None else quorum.deadline_s, quorum.lost_after_s)

        def key_of(client: str) -> Key:
            return self.key.derive("measure", client, ask.round, ask.attempt)

        size = down, wire.size(REPLY)
        answered, silent, until = self.simulated.measured(ask.cohort, begun, last, size, key_of)
        answer = self.inner.ask(replace(ask, cohort=tuple(answered)))
        reports = Reports.joined([answer.reports, Reports(silent, "dropped", bytes_down=down)])
        self._pass_time(until)
        return replace(answer, reports=reports, clock={"measured_s": until - begun})

    # availability ---------------------------------------------------------------------------------------

    def _available(self) -> tuple[Sequence[str], float]:
        """The clients that may be asked now, and when the next of the others will be available."""
        population, pool = self.clients(), self.coordinator.pool
        if self._always and not pool.flying:  # no client needs to be looked at, however many there are
            return population, math.inf
        found, later = self.simulated.available(self.now, pool.may_ask)
        return (population if len(found) == len(population) else tuple(found)), later

    def _reserve(self, ask: Ask) -> list[str]:
        """The clients that may be asked instead of the cohort, in an order drawn for the round."""
        others = sorted(set(self._available()[0]) - set(ask.cohort))
        order = self.key.derive("reserve", ask.round, ask.attempt).permutation(len(others))
        return [others[place] for place in order.tolist()]

    # a run that is resumed ------------------------------------------------------------------------------

    def saved(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """The time, the clients in flight, and the models that they were asked with."""
        events = [[at, failure, ticket.number] for at, _, _, failure, ticket in sorted(self._events)]
        values, tensors = self.coordinator.to_state()
        return {"now": self.now, "events": events, **values}, tensors

    def restore(self, notes: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
        """Goes on from what was saved."""
        self.now = float(notes["now"])
        self.coordinator.from_state(notes, tensors)
        flying = {ticket.number: ticket for ticket in self.coordinator.pool.flying}
        self._events = [
            (float(at), flying[number].client, number, failure, flying[number])
            for at, failure, number in notes["events"]
            if number in flying
        ]
        heapq.heapify(self._events)

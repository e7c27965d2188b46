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
from headway.core.update import flat_names, unflat_names
from headway.engines.engine import Engine, Job
from headway.engines.local import LocalEngine
from headway.engines.local_clients import REPLY
from headway.engines.planned_engine import PlannedEngine
from headway.engines.virtual_clock.device_availability import HORIZON_S, Always, Window
from headway.engines.virtual_clock.fleet import DeviceFleet, SimulatedDevice
from headway.numerics.keys import Key
from headway.numerics.units import time_text
from headway.protocol import wire as frame
from headway.protocol.messages import Answer, Ask, Measure, Message, Train, Version
from headway.protocol.quorum import Quorum
from headway.protocol.reports import ClientReport, Reports
from headway.protocol.round_pool import Arrival, Closed, LostClient, RoundPool, Ticket

Event = tuple[float, str, int, str, Ticket]  # when, of whom, the ask's number, why it failed (or ""), the ask


class ClockEngine(Engine):
    """Runs asks by a virtual clock: what the algorithm's quorum says of deadlines, late and lost clients comes true.

    Time moves on with the bytes that are sent and the examples that are trained on, on each client's own device; it
    has nothing to do with the seconds that the simulation takes.  Only updates that count are trained, by the engine
    inside, on the model that the client was asked with.  The timeline is a function of the run's seed, the fleet and
    the algorithm, whatever engine is inside and on any number of workers.

    inner: which engine trains; a `LocalEngine` if nothing is said.  fleet: what the clients are like; all are there,
    and answer at once, if nothing is said.  Where late updates are kept no drift is measured: it is that of updates to
    one model.

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
        self._messages: dict[int, Message] = {}  # of the rounds from which updates may still count
        self._steps: dict[int, int] = {}  # that clients make whose time is short, by the number of the ask
        self._windows: dict[str, Window | None] = {}
        self._devices: dict[str, SimulatedDevice] = {}
        self._down = 0  # bytes of the message of this round
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
        self.pool = RoundPool(algorithm.quorum)
        self._always = self.fleet.availability == Always() and algorithm.quorum.cap is None
        if algorithm.quorum.late == "keep":
            self.inner.change_options(drift=False)  # of updates to one model
        self.inner.open(replace(job, algorithm=replace(algorithm, quorum=Quorum())))
        self.sizes = dict(zip(job.data.clients, job.data.train_sizes.tolist(), strict=True))

    def try_once(self, state: State, evaluated: bool) -> Sequence[str]:
        """As the engine inside does."""
        return self.inner.try_once(state, evaluated)

    def clients(self) -> Sequence[str]:
        """The population."""
        return self.inner.clients()

    @property
    def busy(self) -> int:
        """How many clients have an ask in flight."""
        return len(self.pool.busy)

    def candidates(self, enough: Callable[[Sequence[str]], bool]) -> Sequence[str]:
        """Those who are there and may be asked; time passes until they are enough.

        Raises:
            ConfigError: if that does not come within ten years, with the simulated time and how many there are.
        """
        begun = self.now
        while True:
            stopping.check()
            there, later = self._there()
            if enough(there):
                return there
            if self._events:
                later = min(later, self._events[0][0])
            if not self.now < later <= begun + HORIZON_S:
                raise ConfigError(
                    f"after {time_text(self.now)} of simulated time {len(there)} of {len(self.sizes)} clients are "
                    f"there and may be asked, and no other will be within {time_text(HORIZON_S)}: these are too few "
                    "for a round. Lower the sampler's count, raise quorum.cap, or give the clients more time "
                    "(clock.availability)."
                )
            self._advance(later)

    def ask(self, ask: Ask) -> Answer:
        """Times what is trained, and losses that are measured; nothing else takes simulated time."""
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
        begun = self.now
        self._messages[ask.round], self._down = ask.message, frame.size(ask.message.tensors())
        reserve = self._reserve(ask) if self.pool.quorum.replace else ()
        self._send(self.pool.open(ask.round, ask.cohort, self.now, reserve))
        while not self.pool.done:
            stopping.check()
            due = self.pool.due()
            if self._events and self._events[0][0] <= due:
                self._next_event()
            else:
                self.now = due
                self._send(self.pool.pass_time(due))
        closed = self.pool.close()
        if self.pool.quorum.late == "drop":
            self._events.clear()
        answer = self._answer(ask, closed)
        rounds, asks = self.pool.open_rounds, self.pool.open_asks
        self._messages = {round_: message for round_, message in self._messages.items() if round_ in rounds}
        self._steps = {number: steps for number, steps in self._steps.items() if number in asks}
        figures = {
            "begun_s": begun,
            "ended_s": self.now,
            "wasted_s": sum(loss.at - loss.ticket.asked for loss in closed.losses),
            "population": float(len(self.sizes)),
        }
        return replace(answer, clock=figures, flying={ticket.client: ticket.asked for ticket in self.pool.flying})

    def _next_event(self) -> None:
        """The next event."""
        at, _, _, failure, ticket = heapq.heappop(self._events)
        self.now = max(self.now, at)
        if failure:
            self._send(self.pool.failed(ticket, self.now, failure))
        else:
            self.pool.arrived(ticket, self.now)

    def _advance(self, until: float) -> None:
        """Lets time pass between rounds, with what happens in it."""
        while self._events and self._events[0][0] <= until:
            self._next_event()
        self.now = until

    def _send(self, tickets: Iterable[Ticket]) -> None:
        """Asks clients: when, and how, each of them will end."""
        for ticket in tickets:
            heapq.heappush(self._events, self._completion_event(ticket))

    def _completion_event(self, ticket: Ticket) -> Event:
        client, asked = ticket.client, ticket.asked
        window = self._window(client, asked)
        takes = self._duration(ticket, asked if window is None else max(asked, window[0]))
        end, why = self._end(client, asked, takes, self.key.derive("ask", client, ticket.round, ticket.attempt))
        return (end, client, ticket.number, why, ticket)

    def _end(self, client: str, asked: float, takes: float, key: Key) -> tuple[float, str]:
        """When a client ends that is asked for what takes so long, and why it fails, or ""."""
        window = self._window(client, asked)
        if window is None:
            return asked, "it is not there any more"
        begin, away = max(asked, window[0]), window[1]
        share = self.fleet.crashes_after(key)
        end, why = (begin + takes, "") if share is None else (begin + share * takes, "it crashed")
        return (away, "it went away") if end > away else (end, why)

    def _device(self, client: str) -> SimulatedDevice:
        if client not in self._devices:
            self._devices[client] = self.fleet.device(client, self.key)
        return self._devices[client]

    def _measure(self, ask: Ask) -> Answer:
        """Losses of those who neither crash nor leave; a forward pass takes a third of training on the examples.

        All are waited for, at most until the quorum's deadline; who is at work on an earlier ask goes on meanwhile.
        """
        begun, quorum, down, up = self.now, self.pool.quorum, frame.size(ask.message.tensors()), frame.size(REPLY)
        last = begun + min(math.inf if quorum.deadline_s is None else quorum.deadline_s, quorum.lost_after_s)
        heard, silent, until = list[str](), list[str](), begun
        for client in ask.cohort:
            takes = self._device(client).seconds(self.sizes[client] / 3, down, up)
            end, why = self._end(client, begun, takes, self.key.derive("measure", client, ask.round, ask.attempt))
            until = max(until, min(end, last))
            (heard if not why and end <= last else silent).append(client)
        answer = self.inner.ask(replace(ask, cohort=tuple(heard)))
        reports = Reports.joined([answer.reports, Reports(silent, "dropped", bytes_down=down)])
        self._advance(until)
        return replace(answer, reports=reports, clock={"measured_s": until - begun})

    def _duration(self, ticket: Ticket, begin: float) -> float:
        """How long a client is at an ask; it notes how many steps the client makes where time decides that."""
        client, device, runner = ticket.client, self._device(ticket.client), self.inner.execution.setup.participant
        size, key = self.sizes[client], runner.client_key(client, ticket.round).derive(TRAINER)
        up = self._bytes_up(self._messages[ticket.round], ticket)
        whole = device.seconds(runner.trainer.examples_used(size, key), self._down, up)
        work, left = self.pool.quorum.work, self.pool.deadline - begin
        if work == "whole" or (work == "partial" and whole <= left):
            return whole
        steps, examples = runner.trainer.steps_within(size, device.examples_within(left, self._down, up))
        if not steps:
            return whole  # and is late
        self._steps[ticket.number] = steps
        return min(device.seconds(examples, self._down, up), left)

    def _bytes_up(self, message: Message, ticket: Ticket) -> int:
        """What a client sends; updates of one chain and model are all of one size."""
        if self._up is None:
            self._up = self.inner.execution.bytes_up(Ask(Train(message, ticket.round), (ticket.client,)))
        return self._up

    def _answer(self, ask: Ask, closed: Closed) -> Answer:
        """Has those trained who count, each from the model that it was asked with."""
        versions = {round_: Version(round_, message) for round_, message in self._messages.items()}
        tickets = {arrival.ticket.client: arrival.ticket for arrival in closed.counted}
        earlier = {client: versions[each.round] for client, each in tickets.items() if each.round < closed.round}
        steps = {client: self._steps[each.number] for client, each in tickets.items() if each.number in self._steps}
        answer = self.inner.ask(replace(ask, cohort=tuple(sorted(tickets)), earlier=earlier, steps=steps))
        reports = _timed(answer.reports, closed.counted)
        lost, again = _lost(closed.losses, set(reports.clients), self._down)
        return replace(answer, reports=Reports.joined([reports, lost]).by_client(), earlier=again)

    # who is there ---------------------------------------------------------------------------------------

    def _there(self) -> tuple[Sequence[str], float]:
        """Who may be asked now, and when the next of the others will be there."""
        everybody, there, later = self.clients(), [], math.inf
        if self._always and not self.pool.flying:  # nobody needs to be looked at, however many there are
            return everybody, later
        for client in self.sizes:
            if not self.pool.may_ask(client):
                continue
            window = self._window(client, self.now)
            if window is not None and window[0] <= self.now:
                there.append(client)
            elif window is not None:
                later = min(later, window[0])
        return (everybody if len(there) == len(everybody) else tuple(there)), later

    def _window(self, client: str, at: float) -> Window | None:
        """The first window of a client that ends after a time, looked up again when it is over."""
        if client not in self._windows or ((known := self._windows[client]) is not None and known[1] <= at):
            self._windows[client] = self.fleet.availability.window(client, self.key.derive("client", client), at)
        return self._windows[client]

    def _reserve(self, ask: Ask) -> list[str]:
        """Who may be asked instead of the cohort, in an order drawn for the round."""
        others = sorted(set(self._there()[0]) - set(ask.cohort))
        order = self.key.derive("reserve", ask.round, ask.attempt).permutation(len(others))
        return [others[place] for place in order.tolist()]

    # a run that is resumed ------------------------------------------------------------------------------

    def saved(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """The time, who is in flight, and the models that they were asked with."""
        events = [[at, why, ticket.number] for at, _, _, why, ticket in sorted(self._events)]
        tensors = {
            f"{round_}/{name}": tensor
            for round_, message in self._messages.items()
            for name, tensor in flat_names(message.params, message.buffers, message.stages, "stages/").items()
        }
        steps = sorted(self._steps.items())
        return {"now": self.now, "pool": self.pool.to_state(), "events": events, "steps": steps}, tensors

    def restore(self, notes: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
        """Goes on from what was saved."""
        self.now = float(notes["now"])
        self.pool.from_state(notes["pool"])
        self._steps = dict(notes.get("steps", ()))
        flying = {ticket.number: ticket for ticket in self.pool.flying}
        self._events = [
            (float(at), flying[number].client, number, why, flying[number])
            for at, why, number in notes["events"]
            if number in flying
        ]
        heapq.heapify(self._events)
        named: dict[int, dict[str, Tensor]] = {}
        for path, tensor in tensors.items():
            asked, name = path.split("/", 1)
            named.setdefault(int(asked), {})[name] = tensor
        for version, each in named.items():
            params, buffers, stages = unflat_names(each, "stages/")
            self._messages[version] = Message(params, stages, buffers)


def _timed(reports: Reports, arrivals: Sequence[Arrival]) -> Reports:
    """The reports of those who count, with their times."""
    by = {arrival.ticket.client: arrival for arrival in arrivals}
    own = [by[client] for client in reports.clients]
    asked, ended = [each.ticket.asked for each in own], [each.at for each in own]
    return reports.adding({"asked_s": asked, "ended_s": ended, "age": [float(each.age) for each in own]})


def _lost(losses: Sequence[LostClient], told: set[str], down: int) -> tuple[Reports, Reports]:
    """A report for each client of whom nothing else is told, its last loss of the round; and one for all others."""
    last = {loss.ticket.client: loss.ticket.number for loss in losses if loss.ticket.client not in told}
    lost, earlier = list[ClientReport](), list[ClientReport]()
    for loss in losses:
        client, times = loss.ticket.client, {"asked_s": loss.ticket.asked, "ended_s": loss.at}
        report = ClientReport(client, "dropped", bytes_down=down, reason=loss.reason, metrics=times)
        (lost if last.get(client) == loss.ticket.number else earlier).append(report)
    return Reports.of(lost), Reports.of(earlier)

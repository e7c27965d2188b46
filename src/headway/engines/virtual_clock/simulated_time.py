"""The virtual clock: simulated time, and the events with which the work of clients in flight ends."""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from headway.core import stopping
from headway.core.errors import ConfigError
from headway.engines.virtual_clock.device_availability import HORIZON_S, Always
from headway.engines.virtual_clock.simulated_clients import SimulatedClients
from headway.numerics.keys import Key
from headway.numerics.units import time_text
from headway.protocol.messages import Ask
from headway.protocol.round_pool import RoundPool, Ticket

Event = tuple[float, str, int, str, Ticket]  # time, client, number of the ask, reason of a failure (or ""), the ask


class VirtualClock:
    """Simulated time for the clients of a round pool, which learns from it who answers, fails or is late.

    now: the seconds since the run began.  duration: the seconds that a client works on an ask from a time on.
    """

    def __init__(
        self, pool: RoundPool, simulated: SimulatedClients, key: Key, duration: Callable[[Ticket, float], float]
    ) -> None:
        self.pool, self.simulated, self.key, self.duration = pool, simulated, key, duration
        self.now = 0.0
        self._events: list[Event] = []
        self._always = simulated.fleet.availability == Always() and pool.quorum.cap is None

    # the clients that may be asked ----------------------------------------------------------------------

    def candidates(self, population: Sequence[str], enough: Callable[[Sequence[str]], bool]) -> Sequence[str]:
        """The clients of the population that are available and may be asked; time passes until they are enough.

        Raises:
            ConfigError: if that does not come within ten years, with the simulated time and how many there are.
        """
        begun = self.now
        while True:
            stopping.check()
            available, later = self._available(population)
            if enough(available):
                return available
            if self._events:
                later = min(later, self._events[0][0])
            if not self.now < later <= begun + HORIZON_S:
                raise ConfigError(
                    f"after {time_text(self.now)} of simulated time {len(available)} of {len(population)} clients "
                    f"are there and may be asked, and no other will be within {time_text(HORIZON_S)}: these are too "
                    "few for a round. Lower the sampler's count, raise quorum.cap, or give the clients more time "
                    "(clock.availability)."
                )
            self.pass_time(later)

    def _available(self, population: Sequence[str]) -> tuple[Sequence[str], float]:
        """The clients that may be asked now, and when the next of the others will be available."""
        pool = self.pool
        if self._always and not pool.held:  # no client needs to be looked at, however many there are
            return population, math.inf
        found, later = self.simulated.available(self.now, pool.may_ask)
        return (population if len(found) == len(population) else tuple(found)), later

    def reserve(self, population: Sequence[str], ask: Ask) -> list[str]:
        """The clients that may be asked instead of the cohort, in an order drawn for the round."""
        others = sorted(set(self._available(population)[0]) - set(ask.cohort))
        order = self.key.derive("reserve", ask.round, ask.attempt).permutation(len(others))
        return [others[place] for place in order.tolist()]

    # time and its events --------------------------------------------------------------------------------

    def run_round(self) -> None:
        """Lets time pass until the round of the pool is done."""
        while not self.pool.done:
            stopping.check()
            due = self.pool.due()
            if self._events and self._events[0][0] <= due:
                self._next_event()
            else:
                self.now = due
                self.send(self.pool.pass_time(due))

    def drop_late(self) -> None:
        """Forgets the clients in flight, whose updates will not be used."""
        self._events.clear()

    def pass_time(self, until: float) -> None:
        """Lets time pass between rounds, with its events."""
        while self._events and self._events[0][0] <= until:
            self._next_event()
        self.now = until

    def send(self, tickets: Iterable[Ticket]) -> None:
        """Asks clients: the event with which each of them will end."""
        for ticket in tickets:
            heapq.heappush(self._events, self._completion_event(ticket))

    def _completion_event(self, ticket: Ticket) -> Event:
        """When and how the work on an ask will end."""
        client, asked = ticket.client, ticket.asked
        window = self.simulated.window(client, asked)
        duration = self.duration(ticket, asked if window is None else max(asked, window[0]))
        key = self.key.derive("ask", client, ticket.round, ticket.attempt)
        end, failure = self.simulated.completion(client, asked, duration, key)
        return end, client, ticket.number, failure, ticket

    def _next_event(self) -> None:
        """Goes on to the next event."""
        at, _, _, failure, ticket = heapq.heappop(self._events)
        self.now = max(self.now, at)
        if failure:
            self.send(self.pool.failed(ticket, self.now, failure))
        else:
            self.pool.arrived(ticket, self.now)

    # a run that is resumed ------------------------------------------------------------------------------

    def to_state(self) -> dict[str, Any]:
        """The time and the events to come, in plain values."""
        events = [[at, failure, ticket.number] for at, _, _, failure, ticket in sorted(self._events)]
        return {"now": self.now, "events": events}

    def from_state(self, values: Mapping[str, Any]) -> None:
        """Goes on from what `to_state` gave; the pool has its clients in flight already."""
        self.now = float(values["now"])
        flying = {ticket.number: ticket for ticket in self.pool.flying}
        self._events = [
            (float(at), flying[number].client, number, failure, flying[number])
            for at, failure, number in values["events"]
            if number in flying
        ]
        heapq.heapify(self._events)

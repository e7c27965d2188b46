"""Simulated clients: the device of each, when it is available, and when and how its work ends."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

from headway.engines.virtual_clock.device_availability import Window
from headway.engines.virtual_clock.fleet import DeviceFleet, SimulatedDevice
from headway.numerics.keys import Key


class SimulatedClients:
    """The clients of a fleet; what is drawn for a client is drawn when it is first needed.

    sizes: the number of training examples of each client.
    """

    def __init__(self, fleet: DeviceFleet, key: Key, sizes: dict[str, int]) -> None:
        self.fleet, self.key, self.sizes = fleet, key, sizes
        self._windows: dict[str, Window | None] = {}
        self._devices: dict[str, SimulatedDevice] = {}

    def device(self, client: str) -> SimulatedDevice:
        """The client's device."""
        if client not in self._devices:
            self._devices[client] = self.fleet.device(client, self.key)
        return self._devices[client]

    def window(self, client: str, at: float) -> Window | None:
        """The client's first window of availability that ends after a time; `None` if there is none."""
        if client not in self._windows or ((known := self._windows[client]) is not None and known[1] <= at):
            self._windows[client] = self.fleet.availability.window(client, self.key.derive("client", client), at)
        return self._windows[client]

    def available(self, at: float, may_ask: Callable[[str], bool]) -> tuple[list[str], float]:
        """The clients that are available at a time and may be asked, and when the next one will be."""
        found, later = list[str](), math.inf
        for client in self.sizes:
            if not may_ask(client):
                continue
            window = self.window(client, at)
            if window is not None and window[0] <= at:
                found.append(client)
            elif window is not None:
                later = min(later, window[0])
        return found, later

    def completion(self, client: str, asked: float, duration: float, key: Key) -> tuple[float, str]:
        """The end of a client's work that takes so long, and why it fails, or ""; key: of the draw whether it does."""
        window = self.window(client, asked)
        if window is None:
            return asked, "it is not there any more"
        begin, away = max(asked, window[0]), window[1]
        share = self.fleet.crashes_after(key)
        end, why = (begin + duration, "") if share is None else (begin + share * duration, "it crashed")
        return (away, "it went away") if end > away else (end, why)

    def in_time(
        self, durations: Mapping[str, float], now: float, last: float, key_of: Callable[[str], Key]
    ) -> tuple[list[str], dict[str, str], float]:
        """The clients whose work of so many seconds ends in time, why that of the others does not, and until when all
        are waited for."""
        answered, silent, until = list[str](), dict[str, str](), now
        for client, duration in durations.items():
            end, why = self.completion(client, now, duration, key_of(client))
            until = max(until, min(end, last))
            if not why and end <= last:
                answered.append(client)
            else:
                silent[client] = why if end <= last else f"it has not answered within {last - now:g} s"
        return answered, silent, until

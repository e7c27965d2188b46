"""The devices of a simulated federation: how fast they train and send, and how often they fail.

Another package adds a fleet by an entry point in the group `headway.fleets`, a module of one's own by
`register_fleet(name)(fleet)`; run files choose it as `clock.preset`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, final

from headway.core.errors import ConfigError
from headway.core.plugins import NamedRegistry, own_name
from headway.core.registry import check_types
from headway.engines.virtual_clock.device_availability import Always, Availability, Diurnal, normal
from headway.numerics.keys import Key


@dataclass(frozen=True, slots=True)
class SimulatedDevice:
    """One client's: examples it trains on and bytes it takes and sends in a second, and the delay of each message."""

    examples_per_s: float
    down_per_s: float
    up_per_s: float
    latency_s: float

    def seconds(self, examples: float, down: int, up: int) -> float:
        """From being asked to having answered: to take so many bytes, train on so many examples, and send so many."""
        return self._on_the_way(down, up) + examples / self.examples_per_s

    def examples_within(self, seconds: float, down: int, up: int) -> int:
        """On how many examples it can train, in so many seconds from being asked to having answered."""
        left = seconds - self._on_the_way(down, up)
        return math.floor(left * self.examples_per_s) if left > 0 else 0

    def _on_the_way(self, down: int, up: int) -> float:
        return 2 * self.latency_s + down / self.down_per_s + up / self.up_per_s


@final
@dataclass(frozen=True)
class DeviceFleet:
    """The devices of a federation's clients; each client's device is a function of its name and the run's seed.

    examples_per_s: that a client trains on, the median over clients.  down_per_s, up_per_s: bytes.  latency_s: the
    delay of a message.  speed_spread, link_spread: how much clients differ, as the standard deviation of the logarithm
    (0.7: one in six has less than half of the median, one in six more than twice).  crash: the probability that a
    client fails while it is at an ask.  availability: when clients are there; one that leaves before it has answered
    has failed.

    Raises:
        ConfigError: for a number out of range.

    >>> DeviceFleet(examples_per_s=100.0).device("a", Key.root(0)).seconds(examples=250, down=10, up=10)
    2.5
    """

    examples_per_s: float = math.inf
    down_per_s: float = math.inf
    up_per_s: float = math.inf
    latency_s: float = 0.0
    speed_spread: float = 0.0
    link_spread: float = 0.0
    crash: float = 0.0
    availability: Availability = Always()

    def __post_init__(self) -> None:
        check_types(self)
        for name in ("examples_per_s", "down_per_s", "up_per_s"):
            if not getattr(self, name) > 0:
                raise ConfigError(f"Fleet.{name} must be above 0, found {getattr(self, name)}.")
        for name in ("latency_s", "speed_spread", "link_spread"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ConfigError(f"Fleet.{name} must be at least 0, found {getattr(self, name)}.")
        if not 0 <= self.crash <= 1:
            raise ConfigError(f"Fleet.crash must be between 0 and 1, found {self.crash}.")

    @property
    def summary(self) -> str:
        """The devices in a line."""
        parts = [
            f"{value:g} {unit}"
            for value, unit in (
                (self.examples_per_s, "examples/s"),
                (self.down_per_s / 1e6, "MB/s down"),
                (self.up_per_s / 1e6, "MB/s up"),
            )
            if value < math.inf
        ]
        parts += [f"{100 * self.crash:g} % of asks crash"] if self.crash else []
        parts += [] if self.availability == Always() else [repr(self.availability)]
        return ", ".join(parts) or "every client is there, and answers at once"

    def device(self, client: str, key: Key) -> SimulatedDevice:
        """A client's device; key: the fleet's."""
        own = key.derive("device", client)
        speed, down, up = (math.exp(normal(own.derive(what))) for what in ("speed", "down", "up"))
        return SimulatedDevice(
            self.examples_per_s * speed**self.speed_spread,
            self.down_per_s * down**self.link_spread,
            self.up_per_s * up**self.link_spread,
            self.latency_s,
        )

    def crashes_after(self, key: Key) -> float | None:
        """At which share of an ask, whose key it is, the client fails; `None` if it does not."""
        if not self.crash:
            return None
        drawn, share = key.derive("crash").uniform(2).tolist()
        return float(share) if drawn < self.crash else None


def _as_fleet(name: str | None, thing: Any) -> tuple[str, DeviceFleet]:
    if not isinstance(thing, DeviceFleet):
        raise ConfigError(f"a fleet is a DeviceFleet, found a value of type {type(thing).__name__}.")
    return own_name(name, thing)


FLEETS: NamedRegistry[DeviceFleet] = NamedRegistry("fleet", "headway.fleets", _as_fleet)
register_fleet = FLEETS.register
# Orders of magnitude, not measurements: figures of a study's own devices are better.
register_fleet("phones")(
    DeviceFleet(
        examples_per_s=100.0,
        down_per_s=2e6,
        up_per_s=5e5,
        latency_s=0.1,
        speed_spread=0.7,
        link_spread=0.9,
        crash=0.05,
        availability=Diurnal(hours=8.0, begins=22.0, spread=3.0),
    )
)
register_fleet("hospitals")(
    DeviceFleet(
        examples_per_s=1000.0,
        down_per_s=1e7,
        up_per_s=5e6,
        latency_s=0.05,
        speed_spread=0.4,
        link_spread=0.4,
        crash=0.002,
    )
)
register_fleet("instant")(DeviceFleet())

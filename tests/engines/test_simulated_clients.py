"""Simulated clients end, crash and leave as their fleet says, and are drawn once."""

from __future__ import annotations

import math

from headway.engines.virtual_clock.device_availability import Bernoulli
from headway.engines.virtual_clock.fleet import DeviceFleet
from headway.engines.virtual_clock.simulated_clients import SimulatedClients
from headway.numerics.keys import Key

KEY = Key.root(0)
SIZES = {f"c{place}": 10 * (place + 1) for place in range(6)}


def made(**fleet):
    return SimulatedClients(DeviceFleet(**{"examples_per_s": 2.0, **fleet}), KEY, SIZES)


def test_work_ends_when_its_time_is_over_where_nobody_crashes_or_leaves() -> None:
    clients = made()
    assert clients.completion("c0", 3.0, 7.0, KEY) == (10.0, "")
    assert clients.device("c0") is clients.device("c0")
    assert clients.available(0.0, lambda client: client != "c2") == (["c0", "c1", "c3", "c4", "c5"], math.inf)


def test_a_crash_ends_work_before_its_time() -> None:
    end, why = made(crash=1.0).completion("c0", 3.0, 7.0, KEY)
    assert why == "it crashed"
    assert 3.0 <= end <= 10.0


def test_a_client_that_goes_away_is_lost_then_and_comes_back_later() -> None:
    clients = made(availability=Bernoulli(share=0.5, every_s=60.0))
    found, later = clients.available(0.0, lambda client: True)
    away = [client for client in SIZES if client not in found]
    assert found
    assert later == min(clients.window(client, 0.0)[0] for client in away)
    client = found[0]
    end, why = clients.completion(client, 0.0, 1e9, KEY)
    assert (end, why) == (clients.window(client, 0.0)[1], "it went away")


def test_short_work_is_waited_for_until_the_last_moment() -> None:
    clients = made()
    durations = {client: clients.device(client).seconds(size / 3, 0, 0) for client, size in SIZES.items()}
    answered, silent, until = clients.in_time(durations, 1.0, 6.5, lambda client: KEY)
    times = {client: 1.0 + duration for client, duration in durations.items()}
    assert answered == [client for client, end in times.items() if end <= 6.5]
    assert silent == {client: "it has not answered within 5.5 s" for client, end in times.items() if end > 6.5}
    assert (until, bool(silent)) == (6.5, True)

"""Simulated time goes from event to event, and on from where a run was interrupted."""

from __future__ import annotations

import pytest

import headway as hw
from headway.core.errors import ConfigError
from headway.engines.virtual_clock.fleet import DeviceFleet
from headway.engines.virtual_clock.simulated_clients import SimulatedClients
from headway.engines.virtual_clock.simulated_time import VirtualClock
from headway.numerics.keys import Key
from headway.protocol.messages import Ask, Message, Train
from headway.protocol.round_pool import RoundPool

KEY = Key.root(0)
SECONDS = {"c0": 5.0, "c1": 2.0, "c2": 9.0, "c3": 4.0}
POPULATION = tuple(SECONDS)


def made(quorum: hw.Quorum | None = None, **fleet: object) -> VirtualClock:
    simulated = SimulatedClients(DeviceFleet(**fleet), KEY, dict.fromkeys(POPULATION, 10))
    return VirtualClock(RoundPool(quorum or hw.Quorum()), simulated, KEY, lambda ticket, begin: SECONDS[ticket.client])


def test_a_round_ends_with_the_last_client_that_it_waits_for() -> None:
    clock = made()
    clock.send(clock.pool.open(0, POPULATION, 0.0))
    clock.run_round()
    assert clock.now == 9.0
    assert [(one.ticket.client, one.at) for one in clock.pool.close().counted] == [
        ("c1", 2.0),
        ("c3", 4.0),
        ("c0", 5.0),
        ("c2", 9.0),
    ]


def test_a_deadline_ends_a_round_and_forgets_the_late() -> None:
    clock = made(hw.Quorum(deadline_s=4.5))
    clock.send(clock.pool.open(0, POPULATION, 0.0))
    clock.run_round()
    assert clock.now == 4.5
    assert sorted(one.ticket.client for one in clock.pool.close().counted) == ["c1", "c3"]
    clock.drop_late()
    assert clock.to_state()["events"] == []


def test_a_clock_goes_on_from_its_state() -> None:
    """With half of the clients in flight; those come in at the times at which they would have."""
    quorum = hw.Quorum(count=2, late="keep")
    clock, again = made(quorum), made(quorum)
    clock.send(clock.pool.open(0, POPULATION, 0.0))
    clock.run_round()
    clock.pool.close()
    again.pool.from_state(clock.pool.to_state())
    again.from_state(clock.to_state())
    assert again.now == clock.now == 4.0
    assert again.to_state() == clock.to_state()
    for each in (clock, again):
        assert len(each.to_state()["events"]) == 2
        each.pass_time(20.0)
        assert (each.now, each.to_state()["events"]) == (20.0, [])


def test_the_reserve_is_all_others_in_an_order_of_the_round() -> None:
    clock = made()
    asks = [Ask(Train(Message(None), round_), ("c1",)) for round_ in range(8)]  # type: ignore[arg-type]
    orders = [clock.reserve(POPULATION, ask) for ask in asks]
    assert all(sorted(order) == ["c0", "c2", "c3"] for order in orders)
    assert len({tuple(order) for order in orders}) > 1


def test_time_passes_until_enough_clients_may_be_asked() -> None:
    clock = made(hw.Quorum(count=2, late="keep"), crash=1.0)
    clock.send(clock.pool.open(0, POPULATION, 0.0))
    found = clock.candidates(POPULATION, lambda clients: len(clients) >= 2)
    assert (len(found), len(clock.pool.busy)) == (2, 2)
    assert 0.0 < clock.now < 9.0
    with pytest.raises(ConfigError, match="4 of 4 clients"):
        clock.candidates(POPULATION, lambda clients: len(clients) > 4)


def test_a_client_whose_update_waits_may_not_be_asked() -> None:
    clock = made(hw.Quorum(count=2, late="keep"))
    clock.send(clock.pool.open(0, POPULATION, 0.0))
    clock.run_round()
    clock.pool.close()
    assert clock.candidates(POPULATION, lambda clients: len(clients) >= 2) == ("c1", "c3")
    assert clock.now == 4.0
    with pytest.raises(ConfigError, match="2 of 4 clients"):
        clock.candidates(POPULATION, lambda clients: len(clients) > 2)
    assert (clock.pool.busy, clock.pool.held) == (set(), {"c0", "c2"})

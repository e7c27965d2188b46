"""Relays that are killed at named places: each update is counted once, and the weights are those of a simulation."""

import os
import random
import time

import pytest
from crash_nodes import parts
from test_kills import SEED, check

FEW = {  # the place, and how often it is passed before
    "scaffold": ("after an event is on disk", 3),  # both updates are there, and not their sum
    "secure": ("agent: a reply is on disk", 3),  # the sum of masked vectors, which is not sent
}
PLACES = [
    "after a content is on disk",
    "before an event is on disk",
    "after an event is on disk",
    "before a reply is acknowledged",
    "after updates are summed",
    "before verdicts are on disk",
    "after verdicts are on disk",
    "agent: a request is fetched",
    "agent: a reply is computed",
    "agent: a reply is on disk",
    "agent: a reply is sent",
    "agent: a receipt is there",
    "agent: a receipt is on disk",
]
LATEST = {"scaffold": 3, "secure": 8}  # how often a place is passed before, at most
KILLS = int(os.environ.get("HEADWAY_RELAY_KILLS", "100"))


def with_relay_killed(nodes, faults):
    """A run of two clients behind a relay and one at the server; the relay is killed at each of these places, one after
    another, and then left alone."""
    clients = parts(nodes.recipe)[1].clients
    server, left, killed = nodes.serve(relayed=True), [*faults, ""], 0
    relay = nodes.relay(2, left.pop(0))
    agents = [nodes.join(client, url=nodes.other_url) for client in clients[:2]] + [nodes.join(clients[2])]
    until = time.monotonic() + 300
    while (code := nodes.code(relay)) != 0:
        if code is not None:
            assert code == -9, nodes.logs()
            killed += 1
            relay = nodes.relay(2, left.pop(0))
        assert nodes.code(server) is None, nodes.logs()
        assert time.monotonic() < until, nodes.logs()
        time.sleep(0.01)
    assert [nodes.wait(agent) for agent in agents] == [0] * 3, nodes.logs()
    nodes.end()
    assert nodes.wait(server) == 0
    check(nodes, group=1)
    return killed


@pytest.mark.parametrize("recipe", FEW)
def test_a_relay_is_killed(nodes, recipe):
    place, count = FEW[recipe]
    nodes.recipe = recipe
    nodes.fresh(recipe)
    assert with_relay_killed(nodes, [f"{place}|kill|{count}"]) == 1


@pytest.mark.soak
@pytest.mark.parametrize("recipe", FEW)
def test_a_relay_is_killed_again_and_again(nodes, recipe):
    chance, killed, number = random.Random(SEED), 0, 0
    nodes.recipe = recipe
    while killed < KILLS:
        number += 1
        nodes.fresh(f"{recipe}-{number}")
        faults = [f"{chance.choice(PLACES)}|kill|{chance.randint(1, LATEST[recipe])}" for _ in range(4)]
        killed += with_relay_killed(nodes, faults)
        print(f"{killed} kills in {number} runs", flush=True)
    print(f"{killed} kills of a relay in {number} runs of {recipe}: the weights of a simulation")

"""Servers and agents that are killed in rounds of a secure sum: the weights of a simulation, each update in one sum."""

import pytest
from crash_nodes import parts
from test_kills import SEED, kill_agents, kill_servers, with_agents_killed, with_server_killed

RECIPE = "secure"
FEW_SERVER = [  # the place, and how often it is passed before
    ("before an event is on disk", 2),  # among the keys
    ("after an event is on disk", 9),  # among the shares
    ("after an event is on disk", 14),  # among the masked updates
    ("after an event is on disk", 17),  # the training is closed
    ("before a reply is acknowledged", 11),
    ("after an event is on disk", 26),  # among the revealed shares
    ("after verdicts are on disk", 1),
    ("after a checkpoint is on disk", 2),
]
FEW_AGENT = [
    ("agent: a reply is computed", 1),
    ("agent: a reply is on disk", 2),
    ("agent: a reply is sent", 3),
    ("agent: a reply is computed", 4),
    ("agent: a receipt is there", 5),
    ("agent: before a verdict is carried out", 1),
]


@pytest.mark.parametrize(("place", "count"), FEW_SERVER)
def test_the_server_is_killed(nodes, place, count):
    nodes.fresh(f"{place.replace(' ', '-')}-{count}")
    assert with_server_killed(nodes, [f"{place}|kill|{count}"]) == 1


@pytest.mark.parametrize(("place", "count"), FEW_AGENT)
def test_an_agent_is_killed(nodes, place, count):
    nodes.fresh(f"{place.replace(' ', '-').replace(':', '')}-{count}")
    clients = parts(RECIPE)[1].clients
    assert with_agents_killed(nodes, {client: [f"{place}|kill|{count}"] * (client == clients[1]) for client in clients})


@pytest.mark.soak
def test_the_server_is_killed_again_and_again(nodes):
    print("secure sum:", kill_servers(nodes, SEED + 1, 30))


@pytest.mark.soak
def test_agents_are_killed_again_and_again(nodes):
    print("secure sum:", kill_agents(nodes, SEED + 1, 8))

"""Servers and agents that are killed in rounds of a secure sum: the weights of a simulation, each update in one sum."""

import pytest
from crash_nodes import parts
from test_kills import SEED, kill_agents, kill_servers, with_agents_killed, with_server_killed

from headway.privacy.ledger_file import LEDGER, read_entries

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


@pytest.mark.parametrize(
    ("place", "spent"),
    [("after a reservation is on disk", [1, 2, 2, 3]), ("after the effects of a round are on disk", [1, 2, 3])],
)
def test_the_server_is_killed_beside_the_release_of_a_round(nodes, monkeypatch, place, spent):
    """With noise and a ledger, before the release is on disk and after it: what is there is released again as it is,
    and costs nothing more; what is not is spent all the same."""
    monkeypatch.setattr(nodes, "recipe", "private")
    nodes.fresh(f"private-{len(spent)}")
    assert with_server_killed(nodes, [f"{place}|kill|2"]) == 1
    assert [entry.get("round") for entry in read_entries(nodes.folder / "run" / LEDGER)] == [None, *spent]


@pytest.mark.soak
def test_the_server_is_killed_again_and_again(nodes):
    print("secure sum:", kill_servers(nodes, SEED + 1, 30))


@pytest.mark.soak
def test_agents_are_killed_again_and_again(nodes):
    print("secure sum:", kill_agents(nodes, SEED + 1, 8))

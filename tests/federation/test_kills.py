"""Servers and agents that are killed at named places: nothing is lost or counted twice, the weights are the same."""

import functools
import os
import random

import pytest
from crash_nodes import ROUNDS, Nodes, parts

import headway as hw

SERVER = [
    "before a content is on disk",
    "after a content is on disk",
    "after a piece is written",
    "before an event is on disk",
    "after an event is on disk",
    "before a reply is acknowledged",
    "after updates are summed",
    "before verdicts are on disk",
    "after verdicts are on disk",
    "before a checkpoint is on disk",
    "after a checkpoint is on disk",
]
AGENT = [
    "agent: a request is fetched",
    "agent: a reply is computed",
    "agent: a reply is on disk",
    "agent: a reply is sent",
    "agent: a receipt is there",
    "agent: a receipt is on disk",
    "agent: before a verdict is carried out",
    "agent: after a verdict is carried out",
]
SERVER_KILLS = int(os.environ.get("HEADWAY_SERVER_KILLS", "600"))
AGENT_KILLS = int(os.environ.get("HEADWAY_AGENT_KILLS", "400"))


@functools.cache
def expected(recipe, group=64):
    """The weights of the Local engine; group: how many clients it sums before the exact sum."""
    algorithm, data, task = parts(recipe)
    run = hw.Run(algorithm, data, task, rounds=ROUNDS, engine=hw.LocalEngine(group=group), evaluate_every=None)
    list(run)
    return run.state.params.tolist()


def check(nodes, group=64):
    """All that must hold at the end of a run."""
    result = nodes.result()
    assert result["params"] == expected(nodes.recipe, group), nodes.logs()
    clients = parts(nodes.recipe)[1].clients
    wanted = [[round_, client] for round_ in range(ROUNDS) for client in clients]
    assert sorted(result["arrived"]) == wanted, "each update once"


def with_server_killed(nodes, faults):
    """A run whose server is killed at each of these places, one after another, and then left alone."""
    agents = [nodes.join(client) for client in parts(nodes.recipe)[1].clients]
    killed = 0
    for fault in [*faults, ""]:
        server = nodes.serve(fault)
        while nodes.code(server) is None and not (nodes.folder / "result.json").exists():
            nodes.process.poll()
        if nodes.code(server) is not None:
            assert nodes.code(server) == -9, nodes.logs()
            killed += 1
            continue
        break  # it has come to the end before the place was passed so often
    assert [nodes.wait(agent) for agent in agents] == [0] * len(agents), nodes.logs()
    nodes.end()
    nodes.wait(server)
    check(nodes)
    return killed


def with_agents_killed(nodes, faults):
    """A run whose agents are killed at places, each the faults of its own, and started again."""
    server, killed = nodes.serve(), 0
    left = {client: list(own) for client, own in faults.items()}
    running = {client: nodes.join(client, (own or [""])[0]) for client, own in left.items()}
    while running:
        for client, pid in list(running.items()):
            code = nodes.code(pid)
            if code == 0:
                del running[client]
            elif code is not None:
                assert code == -9, nodes.logs()
                killed += 1
                left[client] = left[client][1:]
                running[client] = nodes.join(client, (left[client] or [""])[0])
        assert nodes.code(server) is None, nodes.logs()
    nodes.end()
    assert nodes.wait(server) == 0
    check(nodes)
    return killed


def kill_servers(nodes, seed, latest):
    """Runs whose servers are killed at places that are drawn, each passed so often at most; the kills, and the runs."""
    chance, killed, number = random.Random(seed), 0, 0
    while killed < SERVER_KILLS:
        number += 1
        nodes.fresh(f"server-{number}")
        faults = [f"{chance.choice(SERVER)}|kill|{chance.randint(1, latest)}" for _ in range(5)]
        killed += with_server_killed(nodes, faults)
    return killed, number


def kill_agents(nodes, seed, latest):
    """The same of agents."""
    chance, killed, number = random.Random(seed), 0, 0
    clients = parts(nodes.recipe)[1].clients
    while killed < AGENT_KILLS:
        number += 1
        nodes.fresh(f"agents-{number}")
        faults = {c: [f"{chance.choice(AGENT)}|kill|{chance.randint(1, latest)}" for _ in range(4)] for c in clients}
        killed += with_agents_killed(nodes, faults)
    return killed, number


@pytest.fixture(scope="module")
def nodes(tmp_path_factory):
    folder = tmp_path_factory.mktemp("nodes") / "first"
    folder.mkdir()
    with Nodes(folder) as nodes:
        yield nodes


@pytest.mark.parametrize("place", SERVER)
def test_the_server_is_killed(nodes, place):
    nodes.fresh(place.replace(" ", "-"))
    assert with_server_killed(nodes, [f"{place}|kill|2"]) == 1


@pytest.mark.parametrize("place", AGENT)
def test_an_agent_is_killed(nodes, place):
    nodes.fresh(place.replace(" ", "-").replace(":", ""))
    clients = parts(nodes.recipe)[1].clients
    faults = {client: [f"{place}|kill|2"] if client == clients[1] else [] for client in clients}
    assert with_agents_killed(nodes, faults) == 1


@pytest.mark.soak
def test_the_server_is_killed_again_and_again(nodes):
    """12 places: those that have a name, and any moment."""
    killed, number = kill_servers(nodes, 0, 4)
    print(f"{killed} kills of the server in {number} runs of {ROUNDS} rounds: none lost, none counted twice")


@pytest.mark.soak
def test_agents_are_killed_again_and_again(nodes):
    killed, number = kill_agents(nodes, 0, 3)
    print(f"{killed} kills of agents in {number} runs of {ROUNDS} rounds: none lost, none counted twice")

"""Servers and agents that are killed at named places: nothing is lost or counted twice, the weights are the same."""

import functools
import os
import random
import shutil
import statistics
import time

import pytest
from crash_nodes import parts, run_options
from launch import ANY_MOMENT

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
SEED = int(os.environ.get("HEADWAY_KILL_SEED", "0"))  # of the places
SOAK_ROUNDS = 6
PATIENCE_S = 900.0  # for a run with all its kills


@functools.cache
def expected(recipe, rounds, group=64):
    """The weights of the Local engine; group: how many clients it sums before the exact sum."""
    algorithm, data, task = parts(recipe)
    run = hw.Run(algorithm, data, task, rounds=rounds, engine=hw.LocalEngine(group=group), **run_options(recipe))
    list(run)
    return run.state.params.tolist()


def check(nodes, group=64):
    """All that must hold at the end of a run."""
    result = nodes.result()
    assert result["params"] == expected(nodes.recipe, nodes.rounds, group), nodes.logs()
    clients = parts(nodes.recipe)[1].clients
    wanted = [[round_, client] for round_ in range(nodes.rounds) for client in clients]
    assert sorted(result["arrived"]) == wanted, "each update once"


def with_server_killed(nodes, faults):
    """A run whose server is killed at each of these places, one after another, and then left alone; the kills.

    A place may not be passed so often before the end of the run.
    """
    agents, left, killed = [nodes.join(client) for client in parts(nodes.recipe)[1].clients], list(faults), 0
    server, until = nodes.serve(left.pop(0)), time.monotonic() + PATIENCE_S
    while any(nodes.code(agent) is None for agent in agents):
        if (code := nodes.code(server)) is not None:
            assert code == -9, nodes.logs()
            killed += 1
            server = nodes.serve(left.pop(0) if left else "")
        assert time.monotonic() < until, nodes.logs()
        time.sleep(0.01)
    assert [nodes.code(agent) for agent in agents] == [0] * len(agents), nodes.logs()
    nodes.end()
    assert nodes.wait(server) in (0, -9), nodes.logs()
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
        time.sleep(0.01)
    nodes.end()
    assert nodes.wait(server) == 0, nodes.logs()
    check(nodes)
    return killed


def kill_servers(nodes, seed, latest):
    """Runs whose servers are killed at places that are drawn, each passed so often at most, and at any moment; how it
    went, in a sentence."""
    chance, killed, number, recoveries = random.Random(seed), 0, 0, []
    while killed < SERVER_KILLS:
        number += 1
        nodes.fresh(f"server-{number}")
        places = [chance.choice([*SERVER, ANY_MOMENT]) for _ in range(8)]
        counts = [chance.randint(1, 2000 if place == ANY_MOMENT else latest) for place in places]
        killed += with_server_killed(nodes, [f"{p}|kill|{n}" for p, n in zip(places, counts, strict=True)])
        recoveries += nodes.recoveries()
        shutil.rmtree(nodes.folder)
        print(f"{killed} kills in {number} runs", flush=True)
    took = f"{statistics.median(recoveries):.2f} s in the median, {max(recoveries):.2f} s at most"
    return f"{killed} kills of the server in {number} runs of {nodes.rounds} rounds; back after {took}"


def kill_agents(nodes, seed, latest):
    """The same of agents."""
    chance, killed, number = random.Random(seed), 0, 0
    clients = parts(nodes.recipe)[1].clients
    while killed < AGENT_KILLS:
        number += 1
        nodes.fresh(f"agents-{number}")
        faults = {c: [f"{chance.choice(AGENT)}|kill|{chance.randint(1, latest)}" for _ in range(6)] for c in clients}
        killed += with_agents_killed(nodes, faults)
        shutil.rmtree(nodes.folder)
        print(f"{killed} kills in {number} runs", flush=True)
    return f"{killed} kills of agents in {number} runs of {nodes.rounds} rounds"


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
def test_the_server_is_killed_again_and_again(nodes, monkeypatch):
    """12 places: those that have a name, and any moment."""
    monkeypatch.setattr(nodes, "rounds", SOAK_ROUNDS)
    print(kill_servers(nodes, SEED, 4))


@pytest.mark.soak
def test_agents_are_killed_again_and_again(nodes, monkeypatch):
    monkeypatch.setattr(nodes, "rounds", SOAK_ROUNDS)
    print(kill_agents(nodes, SEED, 3))

"""Agents against a server: the numbers of a simulation, and what a client does when things go wrong."""

import threading

import pytest
import torch
from agent_threads import AgentThread
from network import Network
from toys import blobs, linear_task

import headway as hw
from headway.federation.agent.local_policy import LocalPolicy
from headway.federation.spool.event_log import EventLog
from headway.federation.spool.spool import Spool

TRAINER = hw.LocalSGD(lr=0.1, batch_size=4, epochs=2)
CHAINS = {
    "fedavg": lambda: hw.recipes.recipe("fedavg", trainer=TRAINER),
    "scaffold": lambda: hw.recipes.recipe("scaffold", trainer=TRAINER),
    "ecgr": lambda: hw.recipes.recipe("fedavg+ecgr", trainer=TRAINER),
}
ROUNDS = 5


@pytest.mark.parametrize("name", CHAINS)
def test_agents_have_the_bits_of_a_simulation(tmp_path, name):
    data, task, algorithm = blobs((7, 12, 5, 9)), linear_task(dtype="float64"), CHAINS[name]()
    local = hw.Run(algorithm, data, task, rounds=ROUNDS)
    list(local)
    network = Network.of(
        algorithm, task, Spool(tmp_path / "spool"), EventLog(tmp_path), ROUNDS, expected=frozenset(data.clients)
    )
    agents = [AgentThread(network.url, data, client, tmp_path, task) for client in data.clients]
    run = hw.Run(algorithm, data, task, rounds=ROUNDS, engine=network.engine)
    try:
        reports = list(run)
        network.assignments.set_state("finished")
        assert [agent.join() for agent in agents] == ["finished"] * 4
    finally:
        for agent in agents:
            agent.agent.stop()
        network.close()
    assert [report.count("counted") for report in reports] == [4] * ROUNDS
    assert torch.equal(run.state.params, local.state.params)
    receipts = list(tmp_path.glob("*/receipts/*/*.json"))
    assert len(receipts) == 4 * ROUNDS


def test_an_agent_that_stays_says_how_a_job_that_it_could_not_begin_is_taken_up(tmp_path):
    data, task, algorithm = blobs((7,)), linear_task(dtype="float64"), CHAINS["fedavg"]()
    network = Network.of(algorithm, task, Spool(tmp_path / "spool"), EventLog(tmp_path), 1)
    policy = LocalPolicy(secure_sum=True)
    agent = AgentThread(network.url, data, data.clients[0], tmp_path, task, stay=True, policy=policy)
    try:
        while "not taking part" not in agent.kinds():
            assert agent.thread.is_alive()
            threading.Event().wait(0.02)
        agent.stop()
    finally:
        network.close()
    (text,) = [text for kind, text, _ in agent.events if kind == "not taking part"]
    assert "policy.secure_sum" in text
    assert text.endswith("for this one, mend that and start the agent again.")

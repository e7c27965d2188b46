"""Agents against a server: the numbers of a simulation, and what a client does when things go wrong."""

import pytest
import torch
from agent_threads import AgentThread
from network import Network
from toys import blobs, linear_task

import headway as hw
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

"""The engine of a server: the weights of the Local engine, for the same chain, seed, data and keys."""

import pytest
import torch
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


def network_of(tmp_path, algorithm, task, rounds=ROUNDS, **options):
    options = {"wait_limit_s": 10.0, **options}
    return Network.of(algorithm, task, Spool(tmp_path / "spool"), EventLog(tmp_path), rounds, **options)


@pytest.mark.parametrize("name", CHAINS)
def test_the_weights_are_those_of_the_local_engine(tmp_path, name):
    data, task, algorithm = blobs((7, 12, 5, 9)), linear_task(dtype="float64"), CHAINS[name]()
    local = hw.Run(algorithm, data, task, rounds=ROUNDS)
    expected = list(local)
    network = network_of(tmp_path, algorithm, task, expected=frozenset(data.clients))
    network.join(algorithm, task, data, data.clients)
    run = hw.Run(algorithm, data, task, rounds=ROUNDS, engine=network.engine)
    try:
        reports = list(run)
    finally:
        network.close()
    assert torch.equal(run.state.params, local.state.params)
    assert [report.count("counted") for report in reports] == [4] * ROUNDS
    assert reports[-1].metrics["accuracy"] == pytest.approx(expected[-1].metrics["accuracy"])

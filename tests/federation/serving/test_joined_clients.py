"""A run at a server that has no examples: the weights of the Local engine, with the sizes that clients report."""

import torch
from network import Network
from toys import blobs, linear_task

import headway as hw
from headway.data import RemoteData
from headway.federation.spool.event_log import EventLog
from headway.federation.spool.spool import Spool


def test_the_weights_are_the_same_where_the_server_has_no_examples(tmp_path):
    data, task = blobs((7, 12, 5, 9)), linear_task(dtype="float64")
    algorithm = hw.recipes.recipe("scaffold", trainer=hw.LocalSGD(lr=0.1, batch_size=4, epochs=2))
    local = hw.Run(algorithm, data, task, rounds=3)
    list(local)
    options = {"expected": frozenset(data.clients), "wait_limit_s": 60.0}
    network = Network.of(algorithm, task, Spool(tmp_path / "spool"), EventLog(tmp_path), 3, **options)
    network.join(algorithm, task, data, data.clients)
    known = RemoteData("blobs", data.input_shape, classes=data.classes)
    run = hw.Run(algorithm, known, task, rounds=3, engine=network.engine)
    try:
        reports = list(run)
    finally:
        network.close()
    assert torch.equal(run.state.params, local.state.params)
    assert known.clients == tuple(data.clients)
    assert known.train_sizes.tolist() == data.train_sizes.tolist()
    assert reports[-1].metrics

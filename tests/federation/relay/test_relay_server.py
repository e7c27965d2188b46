"""A relay that stays: its clients take part in one job after another, at one address."""

from dataclasses import replace

import torch
from processes import until
from raw_client import RawClient
from test_relay import RelayThread, network_of
from test_server import ServerThread, agents, job_of, params_of
from toys import blobs, linear_task

import headway as hw
from headway.federation.serving.server_setup import describe_job

BEHIND = {"relays": ("relay",), "group": 1}
DATA = blobs((7, 12, 5))


class Clients:
    """Agents of a relay that stay with it; all end with the context."""

    def __init__(self, jobs, folder, data=DATA):
        self.server = ServerThread(jobs, folder / "runs")
        task = linear_task(dtype="float64")
        self.relay = RelayThread(self.server.url, folder / "relay", clients=len(data.clients), task=task, stay=True)
        self.data, self.folder, self.agents = data, folder, []

    def __enter__(self):
        self.agents = agents(self.relay, self.data, self.folder, stay=True)
        return self

    def __exit__(self, *_):
        for each in self.agents:
            each.stop()
        self.relay.relay.stop()
        self.state = self.relay.join()

    def texts(self, kind):
        return [sentence for each, sentence, _ in self.relay.events if each == kind]


def of_local(rounds, data=DATA):
    job = job_of(data, rounds=rounds)
    run = hw.Run(job.algorithm, data, job.task, rounds=rounds, engine=hw.LocalEngine(group=1))
    list(run)
    return run.state.params


def test_clients_of_a_relay_take_part_in_one_job_after_another(tmp_path):
    jobs = [job_of(DATA, "first", 1, **BEHIND), job_of(DATA, "second", 3, **BEHIND)]
    with Clients(jobs, tmp_path) as clients:
        address = clients.relay.url
        assert clients.server.end() == "finished"
        until(lambda: len(clients.texts("ended")) == 2)
        assert clients.relay.url == address
    assert clients.state == "stopped"
    assert torch.equal(params_of(tmp_path / "runs" / "first"), of_local(1))
    assert torch.equal(params_of(tmp_path / "runs" / "second"), of_local(3))
    assert [text.split("'")[1] for text in clients.texts("listening")] == ["first", "second"]


def test_a_job_that_cannot_go_through_a_relay_is_declined_and_the_next_one_waited_for(tmp_path):
    algorithm, task = job_of(DATA).algorithm, linear_task(dtype="float64")
    network = network_of(tmp_path / "run", replace(algorithm, quorum=hw.Quorum(count=2)))
    relay = RelayThread(network.url, tmp_path / "relay", task=task, stay=True)
    (text,) = until(lambda: [text for kind, text, _ in relay.events if kind == "not taking part"])
    assert "the sum of a relay counts as a whole" in text
    assert text.endswith("The next job is waited for.")
    network.server.desk.offer(describe_job("another", "second", algorithm, task, 3, seed=0))
    try:
        with RawClient(relay.url, "north") as raw:
            assert raw.job().name == "second"
    finally:
        relay.relay.stop()
        assert relay.join() == "stopped"
        network.close()


def test_a_relay_that_does_not_stay_ends_with_its_job(tmp_path):
    """Its server does not wait for clients behind it to learn of the end, which they hear of from the relay."""
    server = ServerThread([job_of(DATA, **BEHIND)], tmp_path / "run")
    relay = RelayThread(server.url, tmp_path / "relay", clients=3, task=linear_task(dtype="float64"))
    joined = agents(relay, DATA, tmp_path)
    assert server.end() == "finished"
    assert relay.join() == "finished"
    assert [each.join() for each in joined] == ["finished"] * 3

"""Clients whose examples lie elsewhere: their sizes, and runs that go without the examples."""

import json

import pytest
import torch
from toys import blobs, linear_task

import headway as hw
from headway.core.errors import ConfigError, DataError
from headway.core.flow import EngineFacts
from headway.data.dataset.remote import NOT_HERE, ClientSize, RemoteData
from headway.engines import Engine, LocalEngine
from headway.engines.engine import Job

TRAINER = hw.LocalSGD(lr=0.1, batch_size=4)


class FarEngine(Engine):
    """Has the clients' examples, which the run has not: an engine of the local one, with clients that join."""

    def __init__(self, data, joins=None):
        self.local, self.far, self.joins, self.rounds = LocalEngine(), data, joins or {}, 0

    facts = EngineFacts("Far")

    def open(self, job):
        self.job = job
        self.local.open(Job(job.algorithm, job.task, self.far.to(job.task.number), job.key, job.memory, job.rounds))

    def memory(self, clients, folder):
        return self.local.memory(self.far.clients, folder)

    def clients(self):
        return self.job.known.clients

    def candidates(self, enough):
        names = self.joins.get(self.rounds, self.far.clients)
        self.rounds += 1
        sizes = dict(zip(self.far.clients, self.far.train_sizes.tolist(), strict=True))
        self.job.known.update({name: ClientSize(sizes[name], len(self.far.test[name]), "f") for name in names})
        return self.job.known.clients

    def ask(self, ask):
        return self.local.ask(ask)

    def close(self):
        self.local.close()


def remote(**more):
    return RemoteData("clinics", (2,), classes=2, **more)


def test_clients_join_and_their_sizes_change():
    data = remote()
    assert data.clients == ()
    assert data.population is None
    assert not data.train_sizes.numel()
    assert data.update({"b": ClientSize(4, 1), "a": ClientSize(2, 0)}) == ["a", "b"]
    assert data.update({"b": ClientSize(4, 1)}) == []
    assert data.update({"b": ClientSize(5, 1)}) == ["b"]
    assert data.clients == ("a", "b")
    assert data.train_sizes.tolist() == [2, 5]
    assert data.test_sizes.tolist() == [0, 1]
    again = remote()
    again.from_state(json.loads(json.dumps(data.to_state())))
    assert again.sizes == data.sizes
    assert again.clients == data.clients


def test_a_client_that_is_not_expected_is_refused():
    data = remote(expected=("b", "a"))
    assert data.population == 2
    assert data.clients == ()
    with pytest.raises(DataError, match="client 'c' is not among the 2 clients"):
        data.update({"c": ClientSize(1, 0)})
    with pytest.raises(DataError, match="1 training example and more"):
        ClientSize(0, 3)
    with pytest.raises(ConfigError, match="hold one twice"):
        remote(expected=("a", "a"))


def test_the_fingerprint_is_that_of_the_form_and_not_of_those_who_joined():
    first, second = remote(), remote()
    second.update({"a": ClientSize(3, 1)})
    assert first.fingerprint() == second.fingerprint()
    others = [remote(expected=("a",)), remote(class_names=("x", "y")), remote(form={"target": "t"})]
    others += [remote(central=hw.Examples(torch.zeros(2, 2), torch.tensor([0, 1])))]
    assert len({each.fingerprint() for each in [first, *others]}) == 5


@pytest.mark.parametrize("name", ["fedavg", "scaffold"])
def test_a_run_without_examples_has_the_weights_of_one_with_them(tmp_path, name):
    far, task = blobs((7, 12, 5)), linear_task(dtype="float64")
    algorithm = hw.recipes.recipe(name, trainer=TRAINER)
    run, local = (
        hw.Run(algorithm, data, task, rounds=3, engine=engine, folder=folder)
        for data, engine, folder in ((remote(), FarEngine(far), tmp_path / "far"), (far, None, None))
    )
    reports, expected = list(run), list(local)
    assert torch.equal(run.state.params, local.state.params)
    assert reports[-1].metrics == expected[-1].metrics
    assert reports[-1].count("counted") == 3
    assert run.known.train_sizes.tolist() == far.train_sizes.tolist()
    assert run.facts.constant.answer == ""
    assert run.facts.headline == task.headline
    notes = json.loads((tmp_path / "far" / "data.json").read_text())
    assert notes["notes"] == [NOT_HERE]
    assert notes["classes"] == "2: 0, 1"
    with pytest.raises(ConfigError, match="lie with their clients"):
        _ = run.data
    run.close()


def test_a_resumed_run_knows_the_clients_that_had_joined(tmp_path):
    far, task = blobs((7, 12, 5)), linear_task(dtype="float64")
    algorithm = hw.recipes.recipe("scaffold", trainer=TRAINER)

    def run(folder, rounds, resume=False, start=0):
        engine = FarEngine(far, {0: ("client-0", "client-1"), 1: ("client-0", "client-1"), 2: (), 3: ()})
        engine.rounds = start
        return hw.Run(
            algorithm, remote(), task, rounds=rounds, engine=engine, folder=folder, resume=resume, checkpoint_every=1
        )

    whole = run(tmp_path / "whole", 4)
    reports = list(whole)
    first = run(tmp_path / "part", 2)
    list(first)
    first.close()
    second = run(tmp_path / "part", 4, resume=True, start=2)
    assert second.known.clients == ("client-0", "client-1")  # though none has joined since
    list(second)
    assert torch.equal(second.state.params, whole.state.params)
    assert [report.count("counted") for report in reports] == [2] * 4
    second.close()
    whole.close()


def test_an_engine_that_trains_here_refuses_clients_elsewhere():
    with pytest.raises(ConfigError, match="needs the examples of 'clinics', which lie with their clients"):
        hw.Run(hw.recipes.recipe("fedavg", trainer=TRAINER), remote(), linear_task(), rounds=1)


def test_a_sampler_with_a_record_of_each_client_needs_their_names():
    far, task = blobs((7, 12, 5)), linear_task()
    algorithm = hw.Algorithm(hw.chain(hw.Mean()), TRAINER, hw.BySize(2))
    with pytest.raises(ConfigError, match=r"list them \(federation\.clients\)"):
        hw.Run(algorithm, remote(), task, rounds=1, engine=FarEngine(far))
    run = hw.Run(algorithm, remote(expected=far.clients), task, rounds=2, engine=FarEngine(far))
    reports = list(run)
    assert run.federation.history.sizes.tolist() == far.train_sizes.tolist()
    assert reports[-1].count("counted") == 2
    run.close()


def test_a_stage_that_needs_the_population_is_refused_where_it_is_not_known():
    far, task = blobs((7, 12, 5)), linear_task()
    algorithm = hw.Algorithm(hw.chain(hw.Mean(over="expected")), TRAINER, hw.All())
    with pytest.raises(hw.ChainRefused):
        hw.Run(algorithm, remote(), task, rounds=1, engine=FarEngine(far))
    run = hw.Run(algorithm, remote(expected=far.clients), task, rounds=1, engine=FarEngine(far))
    assert next(iter(run)).count("counted") == 3
    run.close()

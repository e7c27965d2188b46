"""A run that is killed after clients have answered goes on from these answers, to the bits of an uninterrupted one."""

from __future__ import annotations

import pytest
import torch
from conformance.teststages import NoisyRelease
from toys import blobs, linear_task

import headway as hw
from headway.experiment import replay
from headway.observe.journal import Journal
from headway.privacy.options import PrivacyOptions
from headway.protocol.messages import Evaluate, Settle, Train

ROUNDS = 6
TRAINER = hw.LocalSGD(lr=0.1, batch_size=4, last_batch="merge")
CHAINS = {
    "scaffold": (hw.Scaffold(), hw.Mean("clients")),
    "adam": (hw.ECGR(select=0.5, beta=0.2), hw.Mean(), hw.ServerAdam(lr=0.01)),
    "each update": (hw.Median(f=0),),
    "noise": (hw.Clip(norm=1.0), hw.Mean(over="expected"), NoisyRelease(0.1)),
    "clock": (hw.Mean("clients"),),
    "lanes": (hw.Scaffold(), hw.Mean("clients")),
    "processes": (hw.Scaffold(), hw.Mean("clients")),
    "statistics": (hw.Mean(),),
}


class Killed(Exception):
    """The process has ended, without a word."""


@pytest.fixture(autouse=True)
def everything_is_kept(monkeypatch):
    monkeypatch.setattr(replay, "KEEP_AFTER_S", 0.0)


def engine_of(name):
    if name == "clock":
        return hw.ClockEngine(hw.LocalEngine(), hw.DeviceFleet(examples_per_s=3.0, speed_spread=1.0, crash=0.2))
    if name == "processes":
        return hw.ProcessEngine(2)
    return hw.LocalEngine(lanes=2 if name == "lanes" else 1)


def norm():
    return torch.nn.Sequential(torch.nn.Linear(4, 6), torch.nn.BatchNorm1d(6), torch.nn.Linear(6, 3))


def make(name, folder, rounds=ROUNDS, **options):
    quorum = hw.Quorum(count=2, late="keep") if name == "clock" else hw.Quorum()
    algorithm = hw.Algorithm(hw.chain(*CHAINS[name]), TRAINER, hw.Uniform(count=3), quorum)
    task = linear_task() if name != "statistics" else hw.Task(norm, buffers="average")
    data = blobs(sizes=(7, 12, 5, 9))
    privacy = PrivacyOptions(client_metrics="released")  # evaluation is one of the requests that end a run here
    made = {"engine": engine_of(name), "checkpoint_every": 10, "privacy": privacy, **options}
    return hw.Run(algorithm, data, task, rounds=rounds, folder=folder, **made)


def finish(run):
    reports = list(run)
    memory = {client: run.memory.get(client) for client in run.data.clients}
    run.close()
    kept = {
        (client, label, name): tensor.clone()
        for client, own in memory.items()
        for label, tensors in (own or {}).items()
        for name, tensor in tensors.items()
    }
    return run.state.tensors() | kept, reports


def kill(run, request, count):
    """Ends the run just before a request that it makes for the count-th time."""
    original, seen = run.engine.ask, []

    def ask(ask):
        seen.append(type(ask.request))
        if seen.count(request) == count and seen[-1] is request:
            raise Killed
        return original(ask)

    run.engine.ask = ask
    with pytest.raises(Killed):
        list(run)
    run.close()


def spy(run):
    asked, original = [], run.engine.ask
    run.engine.ask = lambda ask: asked.append((type(ask.request), ask.round)) or original(ask)
    return asked


def assert_same(found, expected):
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in found)


@pytest.mark.parametrize("request_", [Settle, Evaluate, Train], ids=lambda each: each.__name__)
@pytest.mark.parametrize("name", CHAINS)
def test_a_killed_run_goes_on_from_the_answers_that_it_had(tmp_path, name, request_):
    expected, reports = finish(make(name, tmp_path / "whole"))
    kill(make(name, tmp_path / "run"), request_, 4)
    resumed = make(name, tmp_path / "run", resume=True)
    assert resumed.state.round == 0
    asked = spy(resumed)
    found, again = finish(resumed)
    assert_same(found, expected)
    first = 3 if request_ is Train else 4
    assert [round_ for request, round_ in asked if request is Train] == list(range(first, ROUNDS))
    assert [round_ for request, round_ in asked if request is Settle] == list(range(ROUNDS))
    for one, other in zip(reports, again, strict=True):
        assert one.train_loss == other.train_loss
        assert one.clock == other.clock
    one, other = (Journal(tmp_path / each / "journal.sqlite") for each in ("run", "whole"))
    for table in ("metrics", "flying"):
        assert one.rows(table) == other.rows(table)
    one.close()
    other.close()


def test_an_orderly_stop_keeps_the_answers_as_well(tmp_path):
    """The checkpoint of the round's start stands, and the clients are not asked twice."""
    expected, _ = finish(make("scaffold", tmp_path / "whole"))
    run = make("scaffold", tmp_path / "run")
    original = run.engine.ask

    def ask(ask):
        if isinstance(ask.request, Settle) and ask.round == 3:
            raise KeyboardInterrupt
        return original(ask)

    run.engine.ask = ask
    with pytest.raises(KeyboardInterrupt):
        list(run)
    run.close()
    resumed = make("scaffold", tmp_path / "run", resume=True)
    asked = spy(resumed)
    assert_same(finish(resumed)[0], expected)
    assert (Train, 3) not in asked


def test_a_damaged_file_is_noted_and_its_clients_are_asked_again(tmp_path):
    expected, _ = finish(make("scaffold", tmp_path / "whole"))
    kill(make("scaffold", tmp_path / "run"), Settle, 3)
    path = tmp_path / "run" / "replay" / "round-000001.safetensors"
    path.write_bytes(path.read_bytes()[:-9])
    resumed = make("scaffold", tmp_path / "run", resume=True)
    asked = spy(resumed)
    found, reports = finish(resumed)
    assert_same(found, expected)
    assert [round_ for request, round_ in asked if request is Train] == [1, 3, 4, 5]
    assert any("round-000001.safetensors is missing or damaged" in note for note in reports[1].notes)


def test_answers_of_another_state_are_not_used(tmp_path):
    kill(make("adam", tmp_path / "run"), Settle, 3)
    kill(make("adam", tmp_path / "other", seed=1), Settle, 3)
    for path in sorted((tmp_path / "other" / "replay").iterdir()):
        path.rename(tmp_path / "run" / "replay" / path.name)
    expected, _ = finish(make("adam", tmp_path / "whole"))
    assert_same(finish(make("adam", tmp_path / "run", resume=True))[0], expected)


def test_a_checkpoint_removes_what_it_makes_needless(tmp_path):
    run = make("scaffold", tmp_path / "run", checkpoint_every=2)
    kept = [[path.stem for path in (tmp_path / "run" / "replay").iterdir()] for _ in run]
    run.close()
    assert kept == [["round-000000"], [], ["round-000002"], [], ["round-000004"], []]


def test_rounds_that_are_quick_leave_no_trace(tmp_path, monkeypatch):
    monkeypatch.setattr(replay, "KEEP_AFTER_S", 20.0)
    finish(make("scaffold", tmp_path / "run"))
    assert not (tmp_path / "run" / "replay").exists()
    finish(make("noise", tmp_path / "noise", rounds=2, checkpoint_every=1))
    assert (tmp_path / "noise" / "replay").exists()  # a release is never drawn twice

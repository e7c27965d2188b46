"""The sum of a round: groups are summed when they are complete, in any order and in little memory, to the same bits."""

import itertools
import threading

import pytest
import torch
from network import Network
from processes import until
from raw_client import RawClient
from test_network_engine import CHAINS
from toys import blobs, linear_task

import headway as hw
from headway.federation import http_api as api
from headway.federation.spool.event_log import EventLog
from headway.federation.spool.spool import Spool
from headway.server import vector_files
from headway.server.group_summer import GroupSummer

TRAINER = hw.LocalSGD(lr=0.1, batch_size=4)
DATA, TASK, GROUP = blobs((7, 12, 5, 9, 6)), linear_task(dtype="float64"), 2
CLIENTS = DATA.clients
MORE = {
    "adam": lambda: hw.Algorithm(
        hw.chain(hw.Mean(), hw.stages.ServerAdam(), hw.stages.AverageModel()), TRAINER, hw.All()
    ),
    "adaptive clip": lambda: hw.Algorithm(hw.chain(hw.stages.AdaptiveClip(), hw.Mean()), TRAINER, hw.All()),
}


@pytest.mark.parametrize("memory", [1, 1 << 30])
@pytest.mark.parametrize("name", [*CHAINS, "adam", "adaptive clip"])
def test_the_weights_are_those_of_the_local_engine_whatever_the_memory(tmp_path, monkeypatch, name, memory):
    """And whatever columns are summed, and stepped, together: here 4 of 15."""
    monkeypatch.setattr(vector_files, "LEAST", 4)
    algorithm = (CHAINS | MORE)[name]()
    local = hw.Run(algorithm, DATA, TASK, rounds=3, engine=hw.LocalEngine(group=GROUP))
    list(local)
    files = tmp_path / "sums"
    options = {"group": GROUP, "memory": memory, "files": files, "expected": frozenset(CLIENTS), "wait_limit_s": 60.0}
    network = Network.of(algorithm, TASK, Spool(tmp_path / "spool"), EventLog(tmp_path), 3, **options)
    network.join(algorithm, TASK, DATA, CLIENTS)
    run = hw.Run(algorithm, DATA, TASK, rounds=3, engine=network.engine, folder=tmp_path / "run")
    try:
        reports = list(run)
    finally:
        run.close()
        network.close()
    for key, expected in local.state.tensors().items():
        assert torch.equal(run.state.tensors()[key], expected), key
    notes = [note for note in reports[0].notes if "federation.memory" in note]
    whole = ["the server's step takes more memory than federation.memory allows"] if name == "adaptive clip" else []
    assert [note.split(",")[0] for note in notes] == ([*whole, "drift is not measured"] if memory == 1 else [])
    assert files.is_dir() == (memory == 1)
    assert not list(files.glob("*"))


class Scripted:
    """One round in which clients answer, or leave, in a given order; each is awaited."""

    def __init__(self, folder, monkeypatch, **options):
        self.algorithm = hw.Algorithm(hw.chain(hw.Mean()), hw.LocalSGD(lr=0.1), hw.All(), **options.pop("quorum", {}))
        self.folder, self.summed = folder, []
        summed, group = self.summed, GroupSummer.group

        def noted(summer, updates):
            summed.append(tuple(updates))
            return group(summer, updates)

        monkeypatch.setattr(GroupSummer, "group", noted)

    def run(self, *script, early=()):
        """The weights after the round; early: the groups that are summed before the last step of the script."""
        self.summed.clear()
        folder = self.folder / str(next(COUNT))
        network = Network.of(
            self.algorithm, TASK, Spool(folder / "spool"), EventLog(folder), 1, expected=frozenset(CLIENTS), group=GROUP
        )
        run = hw.Run(self.algorithm, DATA, TASK, rounds=1, engine=network.engine, evaluate_every=None)
        raws = {client: RawClient(network.url, client) for client in CLIENTS}
        for raw in raws.values():
            assert raw.join(20).status == 200
        thread = threading.Thread(target=lambda: list(run), daemon=True)
        thread.start()
        work = {client: raw.assignment() for client, raw in raws.items()}
        for step, (client, answers) in enumerate(script):
            place = CLIENTS.index(client)
            if step == len(script) - 1:
                until(lambda: len(self.summed) == len(early))
                assert sorted(self.summed) == sorted(early)
            if answers:
                assert raws[client].answer(work[client], 3.0 + place, 0.1 + place / 7).status == 200
            else:
                assert raws[client].post(api.LEAVE, b"{}").status == 200
                pool = network.engine.coordinator.pool
                until(lambda pool=pool, client=client: client not in pool.busy)
        thread.join(60)
        assert not thread.is_alive()
        for raw in raws.values():
            raw.close()
        network.close()
        return run.state.params


COUNT = itertools.count()


def test_groups_are_summed_when_they_are_complete_in_whatever_order(tmp_path, monkeypatch):
    made = Scripted(tmp_path, monkeypatch)
    a, b, c, d, e = CLIENTS
    first = made.run((e, True), (c, True), (d, True), (b, True), (a, True), early=[(e,), (c, d)])
    assert sorted(made.summed) == [(a, b), (c, d), (e,)]  # each once
    second = made.run((a, True), (b, True), (c, True), (d, True), (e, True), early=[(a, b), (c, d)])
    assert torch.equal(first, second)


def test_a_client_that_is_lost_changes_the_groups_after_it(tmp_path, monkeypatch):
    """What was summed too early is left out, and the groups are those of the clients that count."""
    made = Scripted(tmp_path, monkeypatch)
    a, b, c, d, e = CLIENTS
    late = made.run((e, True), (c, True), (d, True), (a, False), (b, True), early=[(e,), (c, d)])
    assert sorted(set(made.summed)) == [(b, c), (c, d), (d, e), (e,)]
    soon = made.run((a, False), (b, True), (c, True), (d, True), (e, True), early=[(b, c)])
    assert made.summed == [(b, c), (d, e)]
    assert torch.equal(late, soon)
    kept = made.run((e, True), (d, False), (a, True), (b, True), (c, True), early=[(e,), (a, b)])
    assert sorted(set(made.summed)) == [(a, b), (c, e), (e,)]
    assert torch.equal(kept, made.run((d, False), (e, True), (c, True), (b, True), (a, True), early=[]))


def test_where_the_first_answers_count_groups_are_summed_at_the_end(tmp_path, monkeypatch):
    quorum = {"quorum": hw.Quorum(count=3)}
    made = Scripted(tmp_path, monkeypatch, quorum=quorum)
    a, _, c, d, _ = CLIENTS
    made.run((c, True), (d, True), (a, True), early=[])
    assert made.summed == [(a, c), (d,)]


def test_a_failure_of_a_group_that_is_summed_early_ends_the_round(tmp_path, monkeypatch):
    """The reason is not lost in another thread."""
    made = Scripted(tmp_path, monkeypatch)
    a, b, c, d, e = CLIENTS
    failures = []
    monkeypatch.setattr(threading, "excepthook", lambda failed: failures.append(failed.exc_value))
    monkeypatch.setattr(
        GroupSummer, "group", lambda summer, updates: (_ for _ in ()).throw(OSError("the disk is gone"))
    )
    made.run((a, True), (b, True), (c, True), (d, True), (e, True), early=[])
    assert [str(failure) for failure in failures] == ["the disk is gone"]

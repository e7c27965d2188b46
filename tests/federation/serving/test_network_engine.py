"""The engine of a server: the weights of the Local engine, for the same chain, seed, data and keys."""

import contextlib
import threading
import time
from dataclasses import replace

import pytest
import torch
from crashing_log import CrashingLog, crash_or_end
from network import Network
from processes import until
from raw_client import RawClient, prepared
from toys import blobs, linear_task

import headway as hw
from headway.experiment import replay
from headway.federation import http_api as api
from headway.federation.serving.network_engine import WaitedTooLong
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
    options = {"wait_limit_s": 60.0, **options}
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
        run.close()
        network.close()
    assert torch.equal(run.state.params, local.state.params)
    assert [report.count("counted") for report in reports] == [4] * ROUNDS
    assert reports[-1].metrics["accuracy"] == pytest.approx(expected[-1].metrics["accuracy"])


@pytest.mark.parametrize("keep_after_s", [0.0, 20.0], ids=["answers kept", "answers from events"])
def test_a_server_that_ends_after_any_event_comes_to_the_same_weights(tmp_path, monkeypatch, keep_after_s):
    monkeypatch.setattr(replay, "KEEP_AFTER_S", keep_after_s)
    data, task, algorithm = blobs((7, 12, 5)), linear_task(dtype="float64"), CHAINS["scaffold"]()
    local = hw.Run(algorithm, data, task, rounds=2)
    list(local)
    events = 2 * (1 + 3 + 1)  # of each round: opened, three updates, closed
    for crash in (*range(1, events + 1), "before 0", "before 1", "after 0", "after 1"):
        folder = tmp_path / str(crash)
        network, run = None, None
        for attempt in range(2):
            folder.mkdir(exist_ok=True)
            log = CrashingLog(folder)
            log.crash_at = 0 if attempt else crash
            network = Network.of(
                algorithm, task, Spool(folder / "spool"), log, 2, before=network, expected=frozenset(data.clients)
            )
            network.join(algorithm, task, data, data.clients)
            run = hw.Run(
                algorithm,
                data,
                task,
                rounds=2,
                engine=network.engine,
                folder=folder / "run",
                resume=attempt > 0,
                checkpoint_every=1,
            )
            try:
                crash_or_end(run, attempt)
            finally:
                network.close("finished" if attempt else "stopped")
        assert number_of_events(folder) == events, crash
        assert torch.equal(run.state.params, local.state.params), crash


def number_of_events(folder):
    log = EventLog(folder)
    try:
        return log.last()
    finally:
        log.close()


class Script:
    """Lets clients answer in an order: of (round in which it counts, client, round in which it was asked)."""

    def __init__(self, order):
        self.order, self.place, self.moved = order, 0, threading.Condition()

    @contextlib.contextmanager
    def turn(self, network, client, assignment):
        with self.moved:
            while self.place < len(self.order):
                counts, who, asked = self.order[self.place]
                if (who, asked) == (client, assignment.round) and network.engine.coordinator.pool.round == counts:
                    break
                if network.assignments.state != "running":
                    break
                self.moved.wait(0.02)
            yield
            self.place += 1
            self.moved.notify_all()


def test_buffered_asynchrony_in_the_order_of_a_simulation_has_its_weights(tmp_path):
    rounds, data, task = 6, blobs((7, 12, 5, 9, 8)), linear_task(dtype="float64")
    algorithm = hw.recipes.recipe("fedbuff", trainer=TRAINER, concurrency=4, buffer=2)
    fleet = hw.DeviceFleet(examples_per_s=10.0, speed_spread=1.0)
    simulated = hw.Run(algorithm, data, task, rounds=rounds, engine=hw.ClockEngine(fleet=fleet), seed=3)
    order = []
    for report in simulated:
        rows = sorted(report.clients.with_status("counted"), key=lambda row: row.metrics["ended_s"])
        order += [(report.round - 1, row.client, int(report.round - 1 - row.metrics["age"])) for row in rows]
    assert any(counts != asked for counts, _, asked in order)
    network = network_of(tmp_path, algorithm, task, rounds, seed=3)
    script = Script(order)
    network.join(
        algorithm, task, data, data.clients, seed=3, gate=lambda client, each: script.turn(network, client, each)
    )
    until(lambda: len(network.members.available()) == 5)
    run = hw.Run(algorithm, data, task, rounds=rounds, engine=network.engine, seed=3, evaluate_every=None)
    try:
        reports = list(run)
    finally:
        run.close()
        network.close()
    ages = [sorted(report.clients.with_status("counted").metric("age")) for report in reports]
    assert any(age for each in ages for age in each)
    assert torch.equal(run.state.params, simulated.state.params)


def serve(tmp_path, algorithm, rounds=2, clients=2, **options):
    """A server for clients that a test answers for by hand, and its run in a thread."""
    data, task = blobs((7, 12, 5)[:clients]), linear_task()
    network = network_of(tmp_path, algorithm, task, rounds, **options)
    run = hw.Run(algorithm, data, task, rounds=rounds, engine=network.engine, evaluate_every=None)
    raws = [RawClient(network.url, client) for client in data.clients]
    for raw, client in zip(raws, data.clients, strict=True):
        assert raw.join(len(data.train[client])).status == 200
    reports = []
    thread = threading.Thread(target=lambda: reports.extend(run), daemon=True)
    thread.start()

    def end():
        thread.join(60)
        assert not thread.is_alive()
        run.close()
        for raw in raws:
            raw.close()
        network.close()
        return reports

    return network, raws, end


def test_an_update_after_the_deadline_is_late_and_changes_nothing(tmp_path):
    algorithm = replace(hw.recipes.recipe("fedavg", trainer=TRAINER), quorum=hw.Quorum(count=1))
    network, (one, two), end = serve(tmp_path, algorithm, 1, expected=frozenset(["client-0", "client-1"]))
    first, second = one.assignment(), two.assignment()
    assert one.answer(first, 7.0).json["verdict"] == "accepted"
    reports = end_of(network, end, lambda: two.answer(second, 12.0, 1e3))
    assert [(row.client, row.status) for row in reports[0].clients] == [
        ("client-0", "counted"),
        ("client-1", "dropped"),
    ]


def end_of(network, end, late):
    until(lambda: network.engine.progress.phase != "training")
    answer = late()
    assert (answer.status, answer.kind) == (410, "late")
    return end()


@pytest.mark.parametrize(
    ("weight", "value", "reason"),
    [
        (7.0, float("nan"), "not finite"),
        (1e30, 0.0, "1e+30 is not a number"),
        (8.0, 0.0, "above its 7 examples"),
        (-1.0, 0.0, "-1 is not a number"),
    ],
)
def test_an_update_that_is_refused_is_named_with_its_reason(tmp_path, weight, value, reason):
    algorithm = hw.recipes.recipe("fedavg", trainer=TRAINER)
    _, (one, two), end = serve(tmp_path, algorithm, 1, expected=frozenset(["client-0", "client-1"]))
    refused = one.answer(one.assignment(), weight, value)
    assert refused.json["verdict"] == "refused"
    assert reason in refused.json["reason"]
    assert two.answer(two.assignment(), 12.0).json["verdict"] == "accepted"
    (report,) = end()
    assert [row.status for row in report.clients] == ["rejected", "counted"]
    assert reason in report.clients[0].reason


def test_an_update_to_another_model_is_refused(tmp_path):
    algorithm = hw.recipes.recipe("fedavg", trainer=TRAINER)
    _, (one, two), end = serve(tmp_path, algorithm, 1, expected=frozenset(["client-0", "client-1"]))
    assignment = one.assignment()
    data = prepared(assignment, one.message(assignment), 7.0)
    one.put(assignment, data)
    answer = one.complete(assignment, data, message="0" * 64)
    assert answer.json["verdict"] == "refused"
    assert "another model" in answer.json["reason"]
    two.answer(two.assignment(), 12.0)
    assert end()[0].count("rejected") == 1


def test_a_client_that_goes_silent_does_not_hold_up_the_round(tmp_path):
    algorithm = hw.recipes.recipe("fedavg", trainer=TRAINER)
    network, (one, two), end = serve(tmp_path, algorithm, 1, lease_s=90.0, expected=frozenset(["client-0", "client-1"]))
    two.assignment()
    assignment = one.assignment()
    assert one.answer(assignment, 7.0).json["verdict"] == "accepted"
    network.members.clock = lambda: time.monotonic() + 91.0  # in which the other has sent nothing
    one.work(0.0)
    (report,) = end()
    assert [row.status for row in report.clients] == ["counted", "dropped"]
    assert report.clients[1].reason == "it has not been in contact for 90 s"


def test_too_few_clients_end_the_run_after_the_limit(tmp_path):
    algorithm = hw.recipes.recipe("fedavg", trainer=TRAINER)
    data, task = blobs((7, 12)), linear_task()
    network = network_of(tmp_path, algorithm, task, 1, wait_limit_s=0.3, expected=frozenset(["client-1"]))
    run = hw.Run(algorithm, data, task, rounds=1, engine=network.engine)
    with pytest.raises(WaitedTooLong, match=r"waited 0\.3 s for client-1\."):
        list(run)
    run.close()
    network.close()


def test_a_server_that_has_just_been_started_withdraws_nothing(tmp_path):
    algorithm, task, data = hw.recipes.recipe("fedavg", trainer=TRAINER), linear_task(), blobs((7,))
    network = network_of(tmp_path, algorithm, task, 1)
    with RawClient(network.url, "client-0") as raw:
        raw.join(7)
        assert raw.work(0.0, working=("job-0",)).withdrawn == ()  # no run yet: what it will ask for is not known
        assert raw.call("HEAD", api.REPLY.format(assignment="job-0")).status == 503
        run = hw.Run(algorithm, data, task, rounds=1, engine=network.engine, evaluate_every=None)
        thread = threading.Thread(target=lambda: list(run), daemon=True)
        thread.start()
        assignment = raw.assignment()
        assert raw.work(0.0, working=("job-99", assignment.assignment)).withdrawn == ("job-99",)
        raw.answer(assignment, 7.0)
        thread.join(60)
        run.close()
    network.close()


def test_a_client_that_was_lost_and_comes_back_is_not_given_the_lost_request_again(tmp_path):
    """It would train for nothing: that request has ended, and the next round asks it anew."""
    data, task, algorithm = blobs((7, 12)), linear_task(), CHAINS["fedavg"]()
    network = network_of(tmp_path, algorithm, task, 2, expected=frozenset(data.clients))
    run = hw.Run(algorithm, data, task, rounds=2, engine=network.engine, evaluate_every=None)
    reports = []
    thread = threading.Thread(target=lambda: reports.extend(run), daemon=True)
    first, second = (RawClient(network.url, client) for client in data.clients)
    for raw in (first, second):
        assert raw.join(7).status == 200
    thread.start()
    lost, other = first.assignment(), second.assignment()
    assert first.post(api.LEAVE, b"{}").status == 200
    until(lambda: network.assignments.of(data.clients[0]) is None)  # the run has given it up
    assert first.join(7).status == 200
    assert first.work(0.1, working=(lost.assignment,)).assignment is None
    assert first.put(lost, b"0").status == 410  # late, before its bytes are sent
    assert second.answer(other, 7.0).status == 200
    for raw in (first, second):
        assert raw.answer(raw.assignment(), 7.0).status == 200
    thread.join(60)
    network.close()
    for raw in (first, second):
        raw.close()
    assert [report.count("counted") for report in reports] == [1, 2]

"""Worker processes: the same bits for any number of them, also when they die."""

import gc
import os
import signal

import pytest
import torch
from torch import nn
from toys import blobs

import headway as hw
from headway.engines.processes import process_pool as processes
from headway.engines.processes.process_pool import cores
from headway.engines.worker_pool import spread

SIZES = tuple(range(3, 30, 2))
TRAINER = hw.LocalSGD(lr=0.1, batch_size=4, epochs=2, momentum=0.5)


def model():
    return nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3))


def started(recipe, engine, data=None, make=model, rounds=2, trainer=TRAINER, **options):
    algorithm = hw.recipes.recipe(recipe, trainer=trainer, **options)
    task = hw.Task(make, metrics=("accuracy",))
    return hw.Run(algorithm, data or blobs(sizes=SIZES), task, rounds=rounds, engine=engine, seed=3)


def run(*arguments, **options):
    made = started(*arguments, **options)
    reports = list(made)
    made.close()
    return made, reports


def same(one, other):
    (a, reports), (b, others) = one, other
    assert torch.equal(a.state.params, b.state.params)
    for mine, theirs in zip(reports, others, strict=True):
        assert (mine.train_loss, mine.drift, mine.metrics) == (theirs.train_loss, theirs.drift, theirs.metrics)
        assert mine.bytes_up == theirs.bytes_up
        for one_client, other_client in zip(mine.clients, theirs.clients, strict=True):
            assert (one_client.client, one_client.status, one_client.examples, one_client.steps) == (
                other_client.client,
                other_client.status,
                other_client.examples,
                other_client.steps,
            )
            assert one_client.metrics == other_client.metrics
    for client in a.memory.clients():
        for label, kept in a.memory.get(client).items():
            for name, tensor in kept.items():
                assert torch.equal(tensor, b.memory.get(client)[label][name])


@pytest.mark.parametrize("recipe", ["fedavg", "scaffold+ecgr", "fednova", "feddyn", "moon", "qfedavg"])
@pytest.mark.parametrize("lanes", [1, 4])
def test_the_number_of_workers_changes_no_bit(recipe, lanes):
    alone = run(recipe, hw.ProcessEngine(1, lanes=lanes))
    same(alone, run(recipe, hw.ProcessEngine(3, lanes=lanes)))
    here = run(recipe, hw.LocalEngine(lanes=lanes))
    torch.testing.assert_close(alone[0].state.params, here[0].state.params, rtol=1e-5, atol=1e-6)


def test_more_workers_than_clients():
    data = blobs(sizes=(5, 6))
    same(run("fedavg", hw.ProcessEngine(8, lanes=1), data), run("fedavg", hw.ProcessEngine(1, lanes=1), data))


def test_cohorts_of_another_size_each_round():
    sampler = hw.Uniform(count=5)
    same(*(run("scaffold", hw.ProcessEngine(n, lanes=2), sampler=sampler) for n in (1, 2)))


def test_stragglers_and_rejected_updates():
    """A client whose labels are beyond the outputs of the model would fail; one that explodes is rejected."""
    trainer = hw.LocalSGD(lr=0.1, batch_size=4, epochs=3, stragglers=0.5, straggler_policy="drop")
    same(*(run("fedavg", hw.ProcessEngine(n, lanes=3), trainer=trainer) for n in (1, 2)))


@pytest.mark.parametrize("lanes", [1, 4])
def test_a_worker_that_dies_is_replaced_and_nothing_changes(lanes):
    whole = run("scaffold+ecgr", hw.ProcessEngine(2, lanes=lanes), rounds=4)
    engine = hw.ProcessEngine(2, lanes=lanes)
    made = started("scaffold+ecgr", engine, rounds=4)
    reports, killed = [], set()
    for report in made:
        reports.append(report)
        killed.add(engine.pool.processes[0].pid)
        os.kill(engine.pool.processes[0].pid, signal.SIGKILL)
    made.close()
    assert len(killed) == 4
    same(whole, (made, reports))


class Dies(nn.Linear):
    """Ends its process, unless that is the one that made it."""

    def __init__(self, made_in):
        super().__init__(4, 3)
        self.made_in = made_in

    def forward(self, x):
        if os.getpid() != self.made_in:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().forward(x)


def test_who_always_dies_is_not_tried_for_ever():
    with pytest.raises(hw.HeadwayError, match=r"ended 3 times while it trained client-\d+.*by signal SIGKILL.*fewer"):
        run("fedavg", hw.ProcessEngine(2, lanes=1), make=lambda: Dies(os.getpid()))


class Fails(nn.Linear):
    def forward(self, x):
        raise ZeroDivisionError("on purpose")


def test_what_fails_in_a_worker_fails_here_with_client_and_stage():
    with pytest.raises(hw.ClientFailed, match=r"client 'client-\d+' failed in the model's forward pass") as failed:
        run("fedavg", hw.ProcessEngine(2, lanes=1), make=lambda: Fails(4, 3))
    assert isinstance(failed.value.__cause__, ZeroDivisionError)


def test_workers_end_with_the_run_and_with_their_parent():
    engine = hw.ProcessEngine(2, lanes=1)
    made = started("fedavg", engine)
    next(iter(made))
    pids = [handle.pid for handle in engine.pool.processes]
    made.close()
    for pid in pids:
        with pytest.raises(ChildProcessError):
            os.waitpid(pid, os.WNOHANG)


class Collects(nn.Linear):
    """Collects garbage in a worker."""

    def forward(self, x):
        gc.collect()
        return super().forward(x)


class Connection:
    """Is ended once, by the process that collects it; in a circle, so that no count of references does it."""

    def __init__(self, ended_by):
        self.circle, self.ended_by = self, ended_by

    def __del__(self):
        with self.ended_by.open("a") as file:
            print(os.getpid(), file=file)


def test_a_worker_leaves_alone_what_its_parent_has_not_collected(tmp_path):
    made = started("fedavg", hw.ProcessEngine(2, lanes=1), make=lambda: Collects(4, 3))
    gc.disable()
    try:
        Connection(tmp_path / "ended by")
        list(made)
    finally:
        gc.enable()
    made.close()
    gc.collect()
    assert (tmp_path / "ended by").read_text().split() == [str(os.getpid())]


def test_a_run_is_resumed_with_another_number_of_workers(tmp_path):
    whole = run("scaffold", hw.ProcessEngine(2, lanes="auto", compiled=False), rounds=4)
    algorithm, task = hw.recipes.recipe("scaffold", trainer=TRAINER), hw.Task(model, metrics=("accuracy",))

    def part(engine, rounds, resume):
        made = hw.Run(
            algorithm,
            blobs(sizes=SIZES),
            task,
            rounds=rounds,
            engine=engine,
            seed=3,
            folder=tmp_path / "run",
            resume=resume,
        )
        list(made)
        made.close()
        return made

    lanes = whole[0].engine.measured_plan.plan.lanes
    first = part(hw.ProcessEngine(1, lanes=lanes), 2, False)
    again = part(hw.ProcessEngine(3, lanes="auto"), 4, True)
    assert first.engine.facts == again.engine.facts == whole[0].engine.facts
    assert again.engine.measured_plan.seconds is None  # nothing was measured again
    assert torch.equal(whole[0].state.params, again.state.params)


def test_drift_beyond_the_budget_is_sketched_alike(monkeypatch):
    monkeypatch.setattr("headway.observe.drift.BUDGET", 1)
    monkeypatch.setattr("headway.observe.drift.DriftMeter.__init__.__defaults__", (1, False))
    one, other = (run("fedavg", hw.ProcessEngine(n, lanes=4)) for n in (1, 2))
    assert one[1][0].drift["headway"] > 0
    same(one, other)


def test_where_it_cannot_fork_it_says_so(monkeypatch):
    monkeypatch.setattr(processes.sys, "platform", "darwin")
    with pytest.raises(hw.ConfigError, match="leave workers out"):
        started("fedavg", hw.ProcessEngine(2))


@pytest.mark.parametrize("workers", [0, -1, 1.5, True, "2"])
def test_a_number_of_workers_that_is_none(workers):
    with pytest.raises(hw.ConfigError, match="workers must be a whole number from 1"):
        hw.ProcessEngine(workers)


def test_the_command_line_trains_in_workers(headway, tmp_path):
    code, out, err = headway("run", "hospitals", "--rounds", "2", "--workers", "2", "--lanes", "2", "--out", "a")
    assert code == 0, err
    assert "2 worker processes, each: 2 clients side by side" in out
    code, out, err = headway("resume", "a", "--rounds", "3", "--workers", "1")
    assert code == 0, err
    code, out, err = headway("run", "hospitals", "--rounds", "2", "--lanes", "some")
    assert code != 0
    assert "engine.lanes" in err


def test_by_default_there_is_a_worker_for_each_core():
    assert hw.ProcessEngine().workers == cores() >= 1
    assert spread(1) == 1

"""Ray workers: the same bits as worker processes, also when workers, keepers of memory or nodes are lost."""

import importlib
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from processes import until
from torch import nn
from toys import blobs, linear_task

import headway as hw
from headway.engines.ray.ray_pool import RayHandle
from headway.engines.ray.replicated_state import COPIES

ray = pytest.importorskip("ray", reason='Ray is not installed: pip install "headway[ray]"')

SIZES = tuple(range(3, 30))
TRAINER = hw.LocalSGD(lr=0.1, batch_size=4, epochs=2, momentum=0.5)


def started(recipe, engine, rounds=3, trainer=TRAINER, make=None, buffers=None, **options):
    if isinstance(recipe, str):
        algorithm = hw.recipes.recipe(recipe, trainer=trainer)
    else:
        algorithm = hw.Algorithm(recipe, trainer, hw.All())
    task = hw.Task(make or (lambda: nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3))), buffers=buffers)
    return hw.Run(algorithm, blobs(sizes=SIZES), task, rounds=rounds, engine=engine, seed=3, **options)


def kept(run):
    return {client: run.memory.get(client) for client in run.memory.clients()}


def trained(recipe, engine, between=None, **options):
    """The end of a run: its state, what each client keeps, its reports."""
    run, reports = started(recipe, engine, **options), []
    try:
        for report in run:
            reports.append(report)
            if between is not None:
                between(run)
        return run.state.params, kept(run), reports
    finally:
        run.close()


def same(one, other):
    (params, memory, reports), (others, other_memory, other_reports) = one, other
    assert torch.equal(params, others)
    for mine, theirs in zip(reports, other_reports, strict=True):
        assert (mine.train_loss, mine.drift, mine.metrics) == (theirs.train_loss, theirs.drift, theirs.metrics)
        assert mine.bytes_up == theirs.bytes_up
        for a, b in zip(mine.clients, theirs.clients, strict=True):
            assert (a.client, a.status, a.steps, a.metrics) == (b.client, b.status, b.steps, b.metrics)
    assert memory.keys() == other_memory.keys()
    for client, labels in memory.items():
        for label, named in labels.items():
            for name, tensor in named.items():
                assert torch.equal(tensor, other_memory[client][label][name])


@pytest.fixture(scope="module", autouse=True)
def afterwards():
    """No cluster stays; and none ends workers because other programs fill the memory of the machine."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_memory_monitor_refresh_ms", "0")
        yield
        ray.shutdown()


@pytest.fixture
def cluster():
    """A cluster of this machine, for test after test."""
    if not ray.is_initialized():
        ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False)


@pytest.fixture
def apart():
    """No cluster."""
    ray.shutdown()


def kill_all(*actors):
    """Kills actors, and waits until Ray knows: what is asked of them afterwards fails."""
    for actor in actors:
        ray.kill(actor)
    until(lambda: all(is_lost(actor) for actor in actors), what="an actor that was killed still answers")


def is_lost(actor):
    try:
        ray.get(actor.__ray_ready__.remote())
    except ray.exceptions.RayActorError:
        return True
    return False


SOAK = pytest.mark.soak
SLOW = [(recipe, lanes) for recipe in ("fedavg", "scaffold+ecgr", "afl", "moon", "feddyn") for lanes in (1, 4)]
SLOW.remove(("scaffold+ecgr", 4))


@pytest.mark.parametrize(
    ("recipe", "lanes"), [("scaffold+ecgr", 4), *(pytest.param(*case, marks=SOAK) for case in SLOW)]
)
def test_the_bits_are_those_of_worker_processes(cluster, recipe, lanes):
    processes = trained(recipe, hw.ProcessEngine(2, lanes=lanes), rounds=2)
    same(processes, trained(recipe, hw.RayEngine(2, lanes=lanes), rounds=2))
    assert ray.is_initialized(), "a cluster that was there before stays"


def test_clients_of_a_real_secure_sum_mask_in_the_workers(cluster):
    """The secrets of the exchanges go with the clients: the sum is that of one process, to the bit."""
    chain = hw.chain(hw.Clip(1.0), hw.Quantize(16), hw.SecureSum(), hw.Mean("clients"))
    algorithm, found = hw.Algorithm(chain, TRAINER, hw.All()), []
    for engine in (hw.RayEngine(2, lanes=1), hw.LocalEngine()):
        run = hw.Run(algorithm, blobs((4, 6, 8, 5, 7)), linear_task(), rounds=1, engine=engine, evaluate_every=None)
        (report,) = run
        found.append((run.state.params, list(report.clients.statuses), report.notes))
        assert engine.summary in ("", "2 Ray workers, each: clients one at a time")
        run.close()
    assert torch.equal(found[0][0], found[1][0])
    assert found[0][1:] == found[1][1:] == (["counted"] * 5, ())


def test_a_worker_and_a_keeper_that_are_killed_are_replaced_and_nothing_changes(cluster):
    def kill(run):
        if run.state.round == 1:  # test_a_keeper_of_memory_that_is_killed_is_replaced does it in every round
            kill_all(run.engine.pool.handles[0].actor, run.memory.ranges[0].keepers[1])

    whole = trained("scaffold+ecgr", hw.ProcessEngine(1, lanes=4), rounds=2)
    ours = trained("scaffold+ecgr", hw.RayEngine(2, lanes=4), kill, rounds=2)
    same(whole, ours)
    notes = " ".join(note for report in ours[2] for note in report.notes)
    assert "a Ray worker ended" in notes
    assert "a keeper of the memory of client-0 to client-9 was lost" in notes


@SOAK
def test_a_keeper_of_memory_that_is_killed_is_replaced_and_nothing_changes(cluster):
    seen = []

    def kill(run):
        seen.append(len(run.memory.ranges[0].keepers))
        kill_all(run.memory.ranges[0].keepers[len(seen) % 2])

    whole = trained("scaffold", hw.ProcessEngine(1, lanes=1), rounds=4)
    same(whole, trained("scaffold", hw.RayEngine(1, lanes=1), kill, rounds=4))
    assert seen == [COPIES] * 4


@SOAK
def test_a_keeper_that_is_killed_in_the_middle_of_a_round_changes_nothing(cluster, monkeypatch):
    answers, real = [], RayHandle.work

    def work(hand, unit):
        if unit.window is None:  # others are evaluated
            answers.append(unit)
            if len(answers) in (5, 20):
                ray.kill(hand.pool.memory.ranges[0].keepers[len(answers) % 2])
        return real(hand, unit)

    whole = trained("scaffold+ecgr", hw.ProcessEngine(1, lanes=1))
    monkeypatch.setattr(RayHandle, "work", work)
    same(whole, trained("scaffold+ecgr", hw.RayEngine(2, lanes=1)))
    assert len(answers) == 3 * 14


@SOAK
def test_memory_that_all_keepers_lost_stops_the_run_with_a_sentence(cluster):
    def kill(run):
        kill_all(*run.memory.ranges[0].keepers)

    with pytest.raises(hw.HeadwayError, match=r"client-0 to client-9 is lost.*Resume the run from its last checkp"):
        trained("scaffold", hw.RayEngine(1, lanes=1), kill)


@SOAK
def test_a_run_is_resumed_with_another_number_of_workers(cluster, tmp_path):
    whole = trained("scaffold", hw.ProcessEngine(2, lanes=4), rounds=4)
    first = started("scaffold", hw.RayEngine(1, lanes=4), rounds=2, folder=tmp_path / "run")
    list(first)
    first.close()
    again = started("scaffold", hw.RayEngine(2, lanes="auto"), rounds=4, folder=tmp_path / "run", resume=True)
    try:
        reports = list(again)
        same((whole[0], whole[1], whole[2][2:]), (again.state.params, kept(again), reports))
    finally:
        again.close()


class Fails(nn.Linear):
    def forward(self, x):
        raise ZeroDivisionError("on purpose")


@SOAK
def test_what_fails_in_a_worker_fails_here_with_client_and_stage(cluster):
    with pytest.raises(hw.ClientFailed, match=r"client 'client-\d+' failed in the model's forward pass") as failed:
        trained("fedavg", hw.RayEngine(1, lanes=1), make=lambda: Fails(4, 3))
    assert isinstance(failed.value.__cause__, ZeroDivisionError)


class Dies(nn.Linear):
    """Ends its process, unless that is the one that made it."""

    def __init__(self, made_in):
        super().__init__(4, 3)
        self.made_in = made_in

    def forward(self, x):
        if os.getpid() != self.made_in:
            os._exit(3)
        return super().forward(x)


@SOAK
def test_who_always_dies_is_not_tried_for_ever(cluster):
    here = os.getpid()
    with pytest.raises(hw.HeadwayError, match=r"a Ray worker ended 3 times while it trained client-\d+.*fewer"):
        trained("fedavg", hw.RayEngine(1, lanes=1), make=lambda: Dies(here))


def test_more_workers_than_cores_are_refused(cluster):
    with pytest.raises(hw.ConfigError, match="a core for each of 3 workers, found 2"):
        started("fedavg", hw.RayEngine(3))


@pytest.mark.parametrize("address", ["127.0.0.1:1", "ray://127.0.0.1:10001", "nowhere"])
def test_an_address_where_no_cluster_is(apart, address):
    with pytest.raises(hw.ConfigError, match="Ray cluster"):
        started("fedavg", hw.RayEngine(1, address=address))


def test_a_cluster_that_is_slow_to_start_is_said(apart, monkeypatch):
    def init(**_):
        raise Exception("The current node timed out during startup.")

    monkeypatch.setattr(ray, "init", init)
    with pytest.raises(hw.ConfigError, match="on this machine, found none that answers: The current node timed out"):
        started("fedavg", hw.RayEngine(1))


def test_without_ray_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(hw.ConfigError, match=r'"headway\[ray\]"'):
        started("fedavg", hw.RayEngine(1))


@pytest.mark.parametrize("workers", [0, True, "2"])
def test_a_number_of_workers_that_is_none(workers):
    with pytest.raises(hw.ConfigError, match="workers must be a whole number from 1"):
        hw.RayEngine(workers)


@SOAK
def test_a_node_that_is_lost_in_the_middle_of_a_round_changes_nothing(apart, monkeypatch):
    from ray.cluster_utils import Cluster

    whole = trained("scaffold+ecgr", hw.ProcessEngine(1, lanes=1), rounds=4)
    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    second = made.add_node(num_cpus=1)
    made.wait_for_nodes()
    answers, real = [], RayHandle.work

    def work(hand, unit):
        if unit.window is None:  # others are evaluated
            answers.append(unit)
            if len(answers) == 20:  # the second round is under way
                made.remove_node(second, allow_graceful=False)
        return real(hand, unit)

    monkeypatch.setattr(RayHandle, "work", work)
    try:
        engine = hw.RayEngine(2, lanes=1, address=made.address)
        same(whole, trained("scaffold+ecgr", engine, rounds=4))
        assert len(answers) > 4 * 14
    finally:
        made.shutdown()


@SOAK
def test_the_command_line_trains_on_ray_and_goes_on(apart, headway):
    code, out, err = headway("run", "hospitals", "--rounds", "1", "--engine", "ray", "--workers", "2", "--out", "a")
    assert code == 0, err
    assert err == ""
    assert "2 Ray workers, each: " in out
    assert "Started a local Ray" not in out
    code, out, err = headway("resume", "a", "--rounds", "2", "--workers", "1")
    assert code == 0, err
    assert not ray.is_initialized()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--engine", "ray", "--address", "127.0.0.1:1"), "at 127.0.0.1:1, found none that answers"),
        (("--address", "127.0.0.1:1"), "engine.address is '127.0.0.1:1', but only a Ray cluster has one"),
        (("--engine", "local", "--workers", "2"), "this process alone"),
        (("--engine", "spark"), "engine.kind must be one of"),
    ],
)
def test_the_command_line_refuses_in_a_sentence(apart, headway, options, said):
    code, _, err = headway("run", "hospitals", "--rounds", "1", *options)
    assert code == 1
    assert said in err
    assert "Traceback" not in err


@SOAK
def test_what_stays_with_a_client_is_evaluated_with_it(cluster):
    options = {
        "make": lambda: nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Linear(6, 3)),
        "buffers": "local",
        "trainer": hw.LocalSGD(lr=0.1, batch_size=64),
    }
    whole = trained("fedavg", hw.ProcessEngine(1, lanes=1), **options)
    same(whole, trained("fedavg", hw.RayEngine(2, lanes=1), **options))


@SOAK
def test_memory_is_not_asked_for_after_the_end(cluster):
    run = started("scaffold", hw.RayEngine(1, lanes=4), rounds=1)
    list(run)
    run.close()
    with pytest.raises(hw.HeadwayError, match=r"needed before Run\.close"):
        run.memory.get("client-0")


@SOAK
def test_what_a_node_cannot_read_is_said(cluster, monkeypatch, tmp_path):
    (tmp_path / "only_here.py").write_text("from torch import nn\n\n\nclass Model(nn.Linear):\n    pass\n")
    with monkeypatch.context() as patch:
        patch.setattr(sys, "path", [str(tmp_path), *sys.path])
        model = importlib.import_module("only_here").Model
    try:
        with pytest.raises(hw.HeadwayError, match="No module named 'only_here'"):
            trained("fedavg", hw.RayEngine(1, lanes=1), make=lambda: model(4, 3))
    finally:
        del sys.modules["only_here"]


@SOAK
@pytest.mark.parametrize("lanes", [1, 4])
def test_what_is_large_enough_to_lie_in_the_object_store(cluster, lanes):
    """Small values travel within a message; these are read where they lie, and nobody may write to them."""
    options = {"make": lambda: nn.Sequential(nn.Linear(4, 5000), nn.Tanh(), nn.Linear(5000, 3)), "rounds": 2}
    whole = trained("scaffold+ecgr", hw.ProcessEngine(1, lanes=lanes), **options)
    ours = trained("scaffold+ecgr", hw.RayEngine(2, lanes=lanes), **options)
    same(whole, ours)


@SOAK
@pytest.mark.parametrize("kind", ["nodes", "keepers"])
@pytest.mark.parametrize("nodes", [2, 3])
def test_losses_at_random_moments_of_rounds_change_nothing(apart, kind, nodes, tmp_path):
    """A few; python tests/engines/ray_losses.py says how to have many."""
    here = Path(__file__).parent
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(here.parent), *sys.path])}
    command = [sys.executable, str(here / "ray_losses.py"), kind, str(nodes), "--losses", "6"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "6 in all" in done.stdout

"""The planner: what it chooses, remembers, and leaves alone."""

import json
from types import SimpleNamespace

import pytest
import test_process_engine as runs
import torch
from test_process_engine import TRAINER, model
from torch import nn
from toys import blobs

import headway as hw
from headway.engines.autotune import planner


def started(recipe, engine, **options):
    """A run of 27 clients."""
    return runs.started(recipe, engine, blobs(sizes=tuple(range(3, 30))), **options)


def run(recipe, engine, **options):
    return runs.run(recipe, engine, blobs(sizes=tuple(range(3, 30))), **options)


@pytest.fixture
def store(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "headway" / "plans.json"


def timed(monkeypatch, seconds):
    """Clients take these seconds each, by width; others would take very long."""
    monkeypatch.setattr(planner._Trial, "seconds", lambda self, way: seconds.get(way.lanes, 1e3))
    stop_the_clock(monkeypatch)


def stop_the_clock(monkeypatch):
    """The planner sees no time pass: a machine that is busy leaves no plan out."""
    monkeypatch.setattr(planner, "time", SimpleNamespace(perf_counter=lambda: 0.0))


@pytest.mark.parametrize(
    ("seconds", "chosen"),
    [
        ({1: 0.010, 2: 0.020, 8: 0.005, 27: 0.004}, 27),
        ({1: 0.010, 2: 0.020, 8: 0.005, 16: 0.002, 27: 0.006}, 16),
        ({1: 0.010, 2: 0.012, 8: 0.016, 27: 0.1}, 1),
        ({1: 0.010, 2: 0.0099, 8: 0.0098, 27: 0.0097}, 1),
        ({1: 20.0, 2: 5.0, 8: 1.0}, 1),
    ],
    ids=["all", "near the best", "one at a time", "hardly faster is not worth it", "wide lanes would take too long"],
)
def test_the_fastest_is_chosen(store, monkeypatch, seconds, chosen):
    timed(monkeypatch, seconds)
    made = started("fedavg", hw.LocalEngine(lanes="auto", compiled=False))
    assert made.engine.measured_plan.plan.lanes == made.engine.groups.width == chosen
    assert made.engine.measured_plan.seconds == (seconds[chosen], seconds[1])


@pytest.mark.parametrize(("faster", "threads"), [(1.5, 2), (1.0, 1), (0.5, 1)])
def test_the_best_batches_are_tried_on_all_threads(store, monkeypatch, faster, threads):
    tried = []

    def seconds(self, way):
        several = torch.get_num_threads() > 1
        tried.append((way.lanes, several))
        return {1: 0.010, 8: 0.004}.get(way.lanes, 1e3) / (faster if several and way.lanes > 1 else 1.0)

    monkeypatch.setattr(planner._Trial, "seconds", seconds)
    stop_the_clock(monkeypatch)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        plan = started("fedavg", hw.LocalEngine(lanes="auto")).engine.measured_plan
    finally:
        torch.set_num_threads(before)
    assert (plan.plan.lanes, plan.threads) == (8, threads)
    assert [lanes for lanes, several in tried if several] == [1, 8], "only one client at a time, and the best batches"


def test_what_is_quick_is_measured_more_often(store):
    groups = started("fedavg", hw.LocalEngine(lanes=2)).engine.groups
    trial = planner._Trial(groups, 2)
    assert not trial._unsure(1, planner.LONG_S * 2)
    assert trial._unsure(planner.REPEATS, planner.QUICK_S * 2)
    assert not trial._unsure(planner.REPEATS + 1, planner.QUICK_S * 2)
    assert trial._unsure(50, planner.QUICK_S / 2)


def test_a_plan_is_remembered_for_the_same_work_alone(store, monkeypatch):
    timed(monkeypatch, {1: 0.010, 2: 0.005})
    assert not started("fedavg", hw.LocalEngine(lanes="auto")).engine.measured_plan.remembered
    timed(monkeypatch, {1: 0.010, 2: 0.020})
    again = started("fedavg", hw.LocalEngine(lanes="auto")).engine.measured_plan
    assert (again.plan.lanes, again.remembered) == (2, True)
    assert "as measured before" in again.summary
    assert started("fedprox", hw.LocalEngine(lanes="auto")).engine.measured_plan.plan.lanes == 1
    assert len(json.loads(store.read_text())) == 2


@pytest.mark.parametrize("damage", ["", "[]", "{", '{"a": 1}'])
def test_a_damaged_file_of_plans_is_measured_over(store, monkeypatch, damage):
    timed(monkeypatch, {1: 0.010, 2: 0.005})
    started("fedavg", hw.LocalEngine(lanes="auto"))
    known = {name: {"lanes": "many"} for name in json.loads(store.read_text())}
    for text in (damage, json.dumps(known)):
        store.write_text(text)
        plan = started("fedavg", hw.LocalEngine(lanes="auto")).engine.measured_plan
        assert (plan.plan.lanes, plan.remembered) == (2, False)


def test_a_folder_that_cannot_be_written_stops_nothing(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    timed(monkeypatch, {1: 0.010, 2: 0.005})
    assert started("fedavg", hw.LocalEngine(lanes="auto")).engine.measured_plan.plan.lanes == 2


@pytest.mark.parametrize("recipe", ["fedavg", "scaffold+ecgr", "qfedavg"])
def test_measuring_leaves_no_trace(store, recipe):
    """A run that has measured is the run that was told the same."""
    torch.manual_seed(5)
    state = torch.get_rng_state()
    threads = torch.get_num_threads()
    measured = run(recipe, hw.LocalEngine(lanes="auto"))
    assert torch.equal(torch.get_rng_state(), state)
    measured_plan = measured[0].engine.measured_plan
    plan = measured_plan.plan
    options = {"low_rank": plan.low_rank, "channels_last": plan.channels_last, "compiled": plan.compiled}
    told = run(recipe, hw.LocalEngine(lanes=plan.lanes, **options))
    torch.set_num_threads(threads)
    assert torch.equal(measured[0].state.params, told[0].state.params)
    assert measured_plan.seconds is not None
    assert all(seconds > 0 for seconds in measured_plan.seconds)


def test_a_resumed_run_keeps_its_plan(store, tmp_path, monkeypatch):
    algorithm, task = hw.recipes.recipe("fedavg", trainer=TRAINER), hw.Task(model)

    def part(rounds, resume):
        data, folder, engine = blobs(sizes=(5, 6, 7)), tmp_path / "run", hw.LocalEngine(lanes="auto")
        made = hw.Run(algorithm, data, task, rounds=rounds, engine=engine, folder=folder, resume=resume)
        list(made)
        made.close()
        return made.engine.measured_plan

    timed(monkeypatch, {1: 0.010, 2: 0.005, 3: 0.006})
    assert part(1, False).plan.lanes == 2
    store.unlink()
    timed(monkeypatch, {1: 0.010, 2: 0.020, 3: 0.030})
    plan = part(2, True)
    assert (plan.plan.lanes, plan.seconds) == (2, None)


def test_a_model_that_fails_is_left_to_the_run(store):
    class Fails(nn.Linear):
        def forward(self, x):
            raise ZeroDivisionError("on purpose")

    with pytest.raises(hw.ClientFailed, match="failed in the model's forward pass"):
        run("fedavg", hw.LocalEngine(lanes="auto"), make=lambda: Fails(4, 3))
    assert not store.exists()


def test_a_model_that_cannot_be_batched_is_planned_alone(store):
    engine = hw.LocalEngine(lanes="auto", compiled=False)
    made = started("fedavg", engine, make=lambda: nn.Sequential(nn.RReLU(), nn.Linear(4, 3)))
    assert made.engine.measured_plan.plan.lanes == 1
    assert made.engine.summary == "clients one at a time, since RuntimeError in a batched program"

"""Clients that train somewhere else than the processor: the same code, the same numbers, nothing read in a step."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from pretend import Pretend, Wrong, watched
from torch import nn
from toys import blobs

import headway as hw
from headway.core.errors import RunFolderError
from headway.engines import PooledEngine
from headway.engines.autotune import gpu_memory as room
from headway.engines.autotune.execution_plan import PlanConstraints
from headway.engines.autotune.gpu_memory import max_batch_clients
from headway.engines.autotune.planner import _fingerprint
from headway.engines.executors.low_rank_executor import LowRankExecutor
from headway.experiment.runfile_schema import EngineSection
from headway.model.device import Device
from headway.numerics.keys import Key
from headway.observe.drift import _Sketch
from headway.vectorized.batched_sgd import BatchedSGD
from headway.vectorized.low_rank import LowRank

SIZES = (7, 9, 5, 6, 3, 1)
CLOSE = 1e-6  # a watched operation may take its numbers in another order of memory
PLAIN = hw.LocalSGD(lr=0.1, batch_size=4)
TRAINER = hw.LocalSGD(lr=0.1, batch_size=4, epochs=2, momentum=0.5, clip_gradient=1.0, weight_decay=0.01)
RECIPES = [name for name in hw.recipes.names() if not name.startswith(("fedsgd", "fedasync", "fedbuff"))]
LIKE_OTHERS = {
    f"{name}+ecgr" for name in ("fedavgm", "fedadam", "fedadagrad", "fedyogi")
}  # for a client, as fedavg+ecgr


def model():
    return nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3))


def with_statistics():
    return nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Tanh(), nn.Linear(6, 3))


def with_dropout():
    return nn.Sequential(nn.Linear(4, 6), nn.Dropout(0.3), nn.Tanh(), nn.Linear(6, 3))


def run(algorithm, lanes=1, site=None, drift=True, make=model, rounds=2, folder=None, sizes=SIZES, way=None, **task):
    """A run, all of it, in the way of a GPU if a site is given."""
    engine = hw.LocalEngine(drift, lanes, **(way or {}))
    engine.change_options(device=site or engine.site)
    task = hw.Task(make, metrics=("accuracy",), **task)
    data = blobs(sizes=sizes)
    object.__setattr__(data, "central", data.store.rows(0, 5))
    made = hw.Run(algorithm, data, task, rounds=rounds, engine=engine, seed=3, folder=folder)
    return made, list(made)


def agree(algorithm, monkeypatch, site=None, **options):
    """There and here; the run there."""
    site = site or Pretend()
    here, reports = run(algorithm, **options)
    with watched(site, monkeypatch):
        there, others = run(algorithm, site=site, **options)
    assert site.holds(there.engine.execution.setup.flat_module.shared)
    assert not site.holds(there.state.params)
    torch.testing.assert_close(here.state.params, there.state.params, rtol=CLOSE, atol=CLOSE)
    for one, other in zip(reports, others, strict=True):
        assert one.train_loss == pytest.approx(other.train_loss, rel=CLOSE)
        for figures in ("metrics", "central", "drift"):
            assert getattr(one, figures) == pytest.approx(getattr(other, figures), rel=1e-4, abs=CLOSE)
    for client in here.memory.clients():
        for label, kept in here.memory.get(client).items():
            for name, tensor in kept.items():
                torch.testing.assert_close(tensor, there.memory.get(client)[label][name], rtol=1e-5, atol=CLOSE)
    return there


@pytest.mark.parametrize(
    ("recipe", "lanes"),
    [
        *(pytest.param(recipe, 4, marks=[pytest.mark.soak] * (recipe in LIKE_OTHERS)) for recipe in RECIPES),
        *(pytest.param(recipe, 1, marks=[pytest.mark.soak] * ("+" in recipe)) for recipe in RECIPES),
    ],
)
def test_every_recipe(recipe, lanes, monkeypatch):
    """Momentum, clipped gradients and decay, proximal terms, SCAFFOLD's and FedDyn's memory, ECGR's steps."""
    agree(hw.recipes.recipe(recipe, trainer=TRAINER), monkeypatch, lanes=lanes)


@pytest.mark.parametrize("lanes", [1, 4])
@pytest.mark.parametrize(
    "options",
    [
        {"schedule": hw.Schedule(kind="step", over="epochs", factor=0.5), "epochs": 3},
        {"batch_size": None, "epochs": 3},
        {"momentum": 0.9, "nesterov": True},
        {"stragglers": 0.5, "epochs": 3},
        {"validation": 0.2},
    ],
    ids=str,
)
def test_every_kind_of_loop(options, lanes, monkeypatch):
    trainer = hw.LocalSGD(**{"lr": 0.1, "batch_size": 4, **options})
    agree(hw.recipes.recipe("scaffold+ecgr", trainer=trainer), monkeypatch, lanes=lanes)


@pytest.mark.parametrize("kept", ["half", "replay"])
def test_steps_however_kept(kept, monkeypatch):
    trainer = hw.LocalSGD(lr=0.1, batch_size=4, steps_kept=kept)
    agree(hw.recipes.recipe("fedavg+ecgr", trainer=trainer), monkeypatch)


@pytest.mark.parametrize("by", ["validation", "entropy"])
def test_what_is_measured_before_the_steps(by, monkeypatch):
    trainer = hw.LocalSGD(lr=0.1, batch_size=4, validation=0.2)
    chain = hw.chain(hw.Scaffold(option="I"), hw.WeighByQuality(by=by), hw.Clip(norm=1.0), hw.Mean())
    for lanes in (1, 4):
        agree(hw.Algorithm(chain, trainer, hw.All()), monkeypatch, lanes=lanes)


@pytest.mark.parametrize("lanes", [1, 4])
def test_dropout(lanes, monkeypatch):
    agree(hw.recipes.recipe("fedprox", trainer=TRAINER), monkeypatch, lanes=lanes, make=with_dropout)


@pytest.mark.parametrize("task", [{}, {"shared": ("0.*",)}])
def test_statistics_and_what_stays_with_a_client(task, monkeypatch):
    fedprox = hw.recipes.recipe("fedprox", trainer=hw.LocalSGD(lr=0.1, batch_size=None, epochs=2))
    agree(fedprox, monkeypatch, make=with_statistics, buffers="average", sizes=(7, 4, 9), **task)
    agree(fedprox, monkeypatch, dtype="float64", **task)


@pytest.mark.parametrize("lanes", [1, 4])
@pytest.mark.parametrize("trainer", [PLAIN, TRAINER])
def test_examples_that_do_not_fit_come_batch_by_batch(trainer, lanes, monkeypatch):
    site = Pretend(resident=False)
    algorithm = hw.recipes.recipe("fedavg", trainer=trainer)
    there = agree(algorithm, monkeypatch, site, lanes=lanes, drift=False)
    assert not there.engine.execution.is_resident


def test_clients_without_weights_of_their_own(monkeypatch):
    there = agree(hw.recipes.recipe("fedavg", trainer=PLAIN), monkeypatch, lanes=6, drift=False)
    assert there.engine.execution.low_rank.reason is None


def test_what_is_read_is_read_once_a_client_or_batch(monkeypatch):
    """Norms, the weight and the loss, however many steps there are; a batch is read like a client."""

    def read(epochs, lanes):
        """In two rounds, without what is read when an engine opens."""
        site, counts = Pretend(), []
        algorithm = hw.recipes.recipe("fedavg", trainer=hw.LocalSGD(lr=0.1, batch_size=4, epochs=epochs))
        with watched(site, monkeypatch):
            for rounds in (1, 3):
                run(algorithm, lanes, site, rounds=rounds)
                counts.append(site.now["read"])
        return counts[1] - 2 * counts[0]

    assert read(1, 1) == read(5, 1) <= 2 * len(SIZES) * 8
    assert read(1, 6) == read(5, 6) <= 2 * 8


def test_a_sketch_of_drift(monkeypatch):
    site, sketch, delta = Pretend(), _Sketch(50, Key.root(0)), torch.randn(2, 50)
    expected = sketch(delta)
    with watched(site, monkeypatch):
        assert torch.equal(sketch(site.put(delta)).cpu(), expected)


class TestTheWatch:
    """The stand-in itself: what it is to find, it finds."""

    def test_mixing(self, monkeypatch):
        site = Pretend()
        with watched(site, monkeypatch):
            there = site.put(torch.ones(3))
            assert site.holds(there * torch.tensor(2.0))
            with pytest.raises(Wrong, match="mixes devices"):
                there + torch.ones(3)
            with pytest.raises(Wrong, match="NumPy"):
                there.numpy()

    @pytest.mark.parametrize("read", [lambda grad: float(grad[0]), lambda grad: grad.tolist(), lambda grad: grad.cpu()])
    def test_reading_in_a_step(self, read, monkeypatch):
        class Reads(hw.Stage):
            place = hw.Place.STEP

            def step(self, grad, w, memory, ctx):
                read(grad)
                return grad

        site = Pretend()
        algorithm = hw.Algorithm(hw.chain(Reads(), hw.Mean()), PLAIN, hw.All())
        with watched(site, monkeypatch), pytest.raises(Wrong, match="a step reads"):
            run(algorithm, site=site)


def images():
    return nn.Sequential(nn.Unflatten(1, (1, 2, 2)), nn.Conv2d(1, 3, 2), nn.Flatten(), nn.Tanh(), nn.Linear(3, 3))


LOW_RANK = {
    "momentum": (hw.chain(hw.Mean()), hw.LocalSGD(lr=0.1, batch_size=4, momentum=0.5, nesterov=True), model),
    "pull": (hw.chain(hw.FedProx(mu=0.1), hw.Mean()), PLAIN, model),
    "combined steps": (hw.chain(hw.ECGR(), hw.Mean()), PLAIN, model),
    "own": (hw.chain(hw.Mean()), PLAIN, images),
}


@pytest.mark.parametrize("case", LOW_RANK)
def test_batches_in_low_rank_form(case, monkeypatch):
    chain, trainer, make = LOW_RANK[case]
    algorithm, way = hw.Algorithm(chain, trainer, hw.All()), {"low_rank": True, "channels_last": make is images}
    lowered, whole = LowRankExecutor.train, []

    def noted(self, *given):
        whole.append(lowered(self, *given))
        return whole[-1]

    monkeypatch.setattr(LowRankExecutor, "train", noted)
    agree(algorithm, monkeypatch, lanes=3, drift=False, make=make, way=way)
    assert len(whole) == 8
    assert None not in whole


class TestMemoryThatRunsOut:
    """Batches beyond a width find no room, as a GPU would say it."""

    @pytest.fixture(params=["lanes", "low rank"])
    def most(self, request, monkeypatch):
        """How many fit, in a list that a test may change."""
        most, kind = [2], BatchedSGD if request.param == "lanes" else LowRank
        train = kind.train

        def limited(self, work, plan, *gradients):
            if len(plan.table.counts) > most[0]:
                raise torch.OutOfMemoryError("CUDA out of memory")
            return train(self, work, plan, *gradients)

        monkeypatch.setattr(kind, "train", limited)
        self.drift = kind is BatchedSGD
        return most

    def test_half_as_many_train_and_a_line_says_so(self, most):
        algorithm = hw.recipes.recipe("fedavg", trainer=PLAIN)
        narrowed, reports = run(algorithm, 6, drift=self.drift)
        assert narrowed.engine.groups.width == 1
        assert (
            reports[0].notes[0].startswith("6 clients side by side do not fit in the memory of cpu: from here on they")
        )
        assert [note.split(",")[0].rpartition("train ")[2] for note in reports[0].notes] == [
            "3 side by side",
            "one at a time",
        ]
        assert reports[1].notes == ()
        alone, _ = run(algorithm, 1, drift=self.drift)
        torch.testing.assert_close(narrowed.state.params, alone.state.params)
        assert [r.count("counted") for r in reports] == [len(SIZES)] * 2

    def test_what_fits_stays_side_by_side(self, most):
        most[0] = 3
        narrowed, reports = run(hw.recipes.recipe("fedavg", trainer=PLAIN), 6, drift=self.drift)
        assert narrowed.engine.groups.width == 3
        assert len(reports[0].notes) == 1

    def test_the_planner_takes_what_fits(self, most):
        made, reports = run(hw.recipes.recipe("fedavg", trainer=PLAIN), "auto", drift=self.drift)
        assert made.engine.measured_plan.plan.lanes <= 2
        assert reports[0].notes == ()


class Small(Device):
    """A site with so much room, where a batch of w lanes needs 100 + 10 w bytes."""

    __slots__ = ("free", "needs")

    def __init__(self, free):
        super().__init__()
        object.__setattr__(self, "free", free)
        object.__setattr__(self, "needs", [120, 160])

    def room(self):
        return self.free

    def peak(self, act):
        act()
        return self.needs.pop(0)


@pytest.mark.parametrize(("free", "lanes"), [(1000, 6), (175, 4), (150, 2), (10, 1)])
def test_as_many_lanes_as_fit_by_what_two_small_batches_need(free, lanes, monkeypatch):
    """Of six clients two, and then all, are rehearsed: 120 and 160 bytes are 10 a lane; 0.8 of 175 are 140."""
    made, _ = run(hw.recipes.recipe("scaffold", trainer=TRAINER), 6, Small(free))
    assert made.engine.groups.width == lanes
    assert made.engine.pinned_settings == ({} if lanes == 1 else {"lanes": lanes})
    assert ("(of 6 that were asked for, those that fit in its memory)" in made.engine.summary) == (lanes < 6)
    again, _ = run(hw.recipes.recipe("scaffold", trainer=TRAINER), lanes)
    assert torch.equal(made.state.params, again.state.params)


def test_lanes_are_counted_down_only_where_memory_has_an_end():
    made, _ = run(hw.recipes.recipe("fedavg", trainer=PLAIN), 6)
    assert max_batch_clients(made.engine.groups, 6) == 6
    assert room.SHARE < 1


def test_a_folder_says_device_and_precision_and_is_not_gone_on_with_elsewhere(tmp_path):
    def begun(where):
        algorithm = hw.recipes.recipe("fedavg", trainer=PLAIN)
        run(algorithm, folder=where, rounds=1)[0].close()
        return json.loads((where / "run.json").read_text())

    assert begun(tmp_path / "here")["plan"] == {"engine": "Local", "threads": 1}
    there = hw.LocalEngine()
    there.change_options(device=Device(torch.device("cuda", 0), "tf32"))
    assert there.pinned_settings == {"device": "cuda", "precision": "tf32"}
    with pytest.raises(RunFolderError, match='trained with device = "cpu" and precision = "float32", and would go on'):
        there.restore_settings(begun(tmp_path / "other")["plan"])
    with pytest.raises(RunFolderError, match='with "cpu" and "float32", which gives other bits: resume it as it was'):
        hw.LocalEngine().restore_settings({"device": "cuda", "precision": "tf32"})
    there.restore_settings({"device": "cuda", "precision": "tf32"})
    with pytest.raises(RunFolderError):
        PooledEngine().restore_settings({"device": "cuda", "precision": "float32"})


def test_plans_are_remembered_by_device_and_precision(monkeypatch):
    made, _ = run(hw.recipes.recipe("fedavg", trainer=PLAIN), 2)
    names = set()
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "a GPU")
    for site in (Device(), Device(torch.device("cuda", 0)), Device(torch.device("cuda", 0), "tf32")):
        names.add(_fingerprint(replace(made.engine.execution.setup, device=site), 6, 1, PlanConstraints(), 0))
    assert len(names) == 3


class TestRunFiles:
    """The device and the precision, in a run file and on the command line."""

    def section(self, **said):
        return EngineSection(**said)

    def test_the_engine_that_is_said(self):
        engine = self.section(device="cpu", precision="float32", lanes=2, drift=False).engine()
        assert (engine.site, engine.options.lanes, engine.options.drift) == (Device(), 2, False)
        with pytest.raises(hw.ConfigError, match='precision = "tf32" needs a GPU'):
            self.section(precision="tf32").engine()
        with pytest.raises(hw.ConfigError, match='precision = "tf32" needs a GPU'):
            self.section(precision="tf32").pooled()

    @pytest.mark.parametrize("several", [{"workers": 2}, {"kind": "processes"}, {"kind": "ray"}])
    def test_workers_have_no_gpu(self, several):
        with pytest.raises(hw.ConfigError) as caught:
            self.section(**several, device="cuda").engine()
        assert str(caught.value) == (
            "engine.device is 'cuda', but clients in workers train on processors: a GPU cannot be used in forked "
            "processes, and one process with lanes keeps it busy. Leave engine.workers out and say "
            'engine.kind = "local" (--engine local), or leave the device out.'
        )
        with pytest.raises(hw.ConfigError, match='is "bfloat16", but clients in workers'):
            self.section(**several, precision="bfloat16").engine()
        assert self.section(**several, device="cpu", precision="float32").engine().site == Device()

    def test_on_the_command_line(self, headway):
        code, out, _ = headway("run", "hospitals", "--rounds", 1, "--device", "cpu", "--out", "one")
        assert code == 0
        assert "engine" not in out
        assert 'device = "cpu"' in Path("one/run.toml").read_text()
        code, _, err = headway("run", "hospitals", "--rounds", 1, "--device", "tpu", "--out", "two")
        assert code == 1
        assert "device must be" in err
        code, _, err = headway("run", "hospitals", "--set", "engine.precision=float16")
        assert (code, 'engine.precision must be one of "float32"' in err) == (1, True)

    @pytest.mark.skipif(torch.cuda.is_available(), reason="needs another system: one without a GPU")
    def test_on_a_machine_without_a_gpu(self, headway):
        code, out, err = headway("run", "hospitals", "--rounds", 1, "--device", "cuda")
        assert (code, out) == (1, "")
        assert err.startswith('error: device = "cuda" needs a GPU, found none: torch')
        assert not Path("runs").exists()


@pytest.mark.parametrize(
    ("lanes", "said"),
    [
        (1, "on cuda (Some GPU), tf32: clients one at a time"),
        (4, "on cuda (Some GPU), tf32: 4 clients side by side"),
    ],
)
def test_the_engines_line_says_which_gpu(lanes, said, monkeypatch):
    made, _ = run(hw.recipes.recipe("fedavg", trainer=PLAIN), lanes)
    assert made.engine.summary == ("" if lanes == 1 else "4 clients side by side")
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "Some GPU")
    made.engine.change_options(device=Device(torch.device("cuda", 0), "tf32"))
    assert made.engine.summary == said.replace(":", ", the examples there too:")
    made.engine.execution.setup = replace(made.engine.execution.setup, device=made.engine.site)
    assert made.engine.summary == said
    assert made.engine.site.versions["gpu"] == "Some GPU"


@pytest.mark.parametrize("lanes", [1, 4])
@pytest.mark.parametrize("recipe", ["fedbuff", "fedasync+ecgr"])
def test_late_updates_from_several_models(recipe, lanes, monkeypatch):
    """By a clock: what clients were asked with, and their ages, are there too."""
    options = {"concurrency": 6, **({"buffer": 3} if recipe == "fedbuff" else {})}
    algorithm = hw.recipes.recipe(recipe, trainer=TRAINER, **options)
    fleet = hw.DeviceFleet(examples_per_s=20.0, speed_spread=1.2)

    def late(site=None):
        inner = hw.LocalEngine(lanes=lanes)
        inner.change_options(device=site or inner.site)
        engine = hw.ClockEngine(inner, fleet)
        made = hw.Run(algorithm, blobs(sizes=(*SIZES, 8, 6)), hw.Task(model), rounds=6, engine=engine, seed=3)
        return made, list(made)

    here, reports = late()
    site = Pretend()
    with watched(site, monkeypatch):
        there, _ = late(site)
    assert max(client.metrics["age"] for report in reports for client in report.clients) > 0
    torch.testing.assert_close(here.state.params, there.state.params, rtol=CLOSE, atol=CLOSE)

"""On a GPU, where there is one: whole runs agree with the processor, and no step waits."""

import pytest
import torch
from torch import nn
from toys import blobs

import headway as hw
from headway.training import local_loop
from headway.vectorized import batched_sgd as lanes

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")

SIZES = (7, 12, 5, 9, 20, 2)
# The limits that are held to, of the difference of two runs over how far the model goes: what a run in this precision
# on the processor may differ by.  bfloat16 has 8 bits of mantissa, tf32 11, float32 24; errors of steps partly cancel.
LIMITS = {"float32": 1e-4, "tf32": 5e-3, "bfloat16": 2e-2}
TRAINER = hw.LocalSGD(lr=0.1, batch_size=4, epochs=2, momentum=0.5, clip_gradient=1.0)
PLAIN = hw.LocalSGD(lr=0.1, batch_size=4)


def layers():
    return nn.Sequential(nn.Linear(16, 24), nn.Tanh(), nn.Linear(24, 3))


def picture():
    return nn.Sequential(
        nn.Unflatten(1, (1, 4, 4)), nn.Conv2d(1, 4, 3), nn.Tanh(), nn.Dropout(0.2), nn.Flatten(), nn.Linear(16, 3)
    )


def with_statistics():
    return nn.Sequential(nn.Linear(16, 24), nn.BatchNorm1d(24), nn.Tanh(), nn.Linear(24, 3))


def run(recipe, device="cpu", precision="float32", lanes=1, make=layers, trainer=TRAINER, drift=True, **task):
    engine = hw.LocalEngine(drift, lanes, device=device, precision=precision)
    algorithm = hw.recipes.recipe(recipe, trainer=trainer)
    data = blobs(sizes=SIZES, features=16)
    made = hw.Run(algorithm, data, hw.Task(make, **task), rounds=3, engine=engine, seed=3)
    start = made.state.params
    reports = list(made)
    made.close()
    return made, made.state.params - start, reports


def near(one, other, limit):
    (_, moved, reports), (_, expected, others) = one, other
    assert moved.device.type == "cpu"
    difference = torch.linalg.vector_norm((moved - expected).double()) / torch.linalg.vector_norm(expected.double())
    assert difference <= limit
    for mine, theirs in zip(reports, others, strict=True):
        assert mine.train_loss == pytest.approx(theirs.train_loss, rel=5 * limit)
        assert mine.drift == pytest.approx(theirs.drift, rel=50 * limit, abs=50 * limit)


@pytest.fixture
def strict(monkeypatch):
    """Whatever makes the processor wait during a step is an error."""

    def waits_for_nothing(step):
        def stepped(*args):
            torch.cuda.set_sync_debug_mode("error")
            try:
                return step(*args)
            finally:
                torch.cuda.set_sync_debug_mode("default")

        return stepped

    monkeypatch.setattr(local_loop.LocalLoop, "step", waits_for_nothing(local_loop.LocalLoop.step))
    monkeypatch.setattr(lanes.BatchedLoop, "_step", waits_for_nothing(lanes.BatchedLoop._step))


@pytest.mark.parametrize("lanes", [1, 4])
@pytest.mark.parametrize("recipe", ["fedavg", "fedprox", "feddyn", "fednova", "qfedavg", "quality", "afl"])
def test_whole_runs_in_float64(recipe, lanes, strict):
    near(run(recipe, "cuda", lanes=lanes, dtype="float64"), run(recipe, dtype="float64"), 1e-9)


@pytest.mark.parametrize("lanes", [1, 4])
@pytest.mark.parametrize("precision", LIMITS)
@pytest.mark.parametrize("recipe", ["fedavg", "scaffold", "fedprox"])
def test_whole_runs_in_every_precision(recipe, precision, lanes, strict):
    near(run(recipe, "cuda", precision, lanes), run(recipe), LIMITS[precision])


@pytest.mark.parametrize("lanes", [1, 4])
def test_a_convolution_with_dropout(lanes, strict):
    near(run("fedprox", "cuda", lanes=lanes, make=picture), run("fedprox", make=picture), LIMITS["float32"])


@pytest.mark.parametrize("kept", ["full", "half", "replay"])
def test_steps_however_kept(kept, strict):
    trainer = hw.LocalSGD(lr=0.1, batch_size=4, steps_kept=kept)
    one = run("fedavg+ecgr", "cuda", trainer=trainer, dtype="float64")
    near(one, run("fedavg+ecgr", trainer=trainer, dtype="float64"), 1e-9)


def test_clients_without_weights_of_their_own(strict):
    there = run("fedavg", "cuda", lanes=6, trainer=PLAIN, drift=False)
    assert there[0].engine.execution.low_rank.reason is None
    near(there, run("fedavg", trainer=PLAIN, drift=False), LIMITS["float32"])


@pytest.mark.parametrize(
    "options", [{"buffers": "average"}, {"buffers": "local"}, {"shared": ("0.*",), "buffers": "local"}]
)
def test_statistics_and_what_stays_with_a_client(options, strict):
    trainer = hw.LocalSGD(lr=0.1, batch_size=None, epochs=2)
    here = run("fedprox", trainer=trainer, make=with_statistics, **options)
    near(run("fedprox", "cuda", trainer=trainer, make=with_statistics, **options), here, LIMITS["float32"])


@pytest.mark.parametrize("lanes", [1, 4])
def test_examples_that_do_not_fit_come_batch_by_batch(lanes, monkeypatch):
    monkeypatch.setattr("headway.model.device.RESIDENT", 0.0)
    there = run("scaffold", "cuda", lanes=lanes)
    assert not there[0].engine.execution.is_resident
    near(there, run("scaffold"), LIMITS["float32"])


@pytest.mark.parametrize("precision", LIMITS)
def test_a_run_repeats_to_the_bit(precision):
    one, two = (run("scaffold+ecgr", "cuda", precision, 4, picture) for _ in range(2))
    assert torch.equal(one[1], two[1])


def test_the_planner_measures_and_the_settings_are_put_back():
    before = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    made, _, _ = run("fedavg", "cuda", "tf32", "auto")
    assert made.engine.measured_plan is not None
    assert made.engine.summary.startswith("on cuda (")
    assert "tf32, the examples there too: " in made.engine.summary
    assert (torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32) == before


def test_memory_that_runs_out_narrows_the_batches(monkeypatch):
    """With 80 MB more than is taken, six lanes of wide layers do not fit."""

    def wide():
        return nn.Sequential(nn.Linear(16, 4096), nn.Tanh(), nn.Linear(4096, 256), nn.Tanh(), nn.Linear(256, 3))

    engine = hw.LocalEngine(lanes=6, device="cuda")
    monkeypatch.setattr("headway.engines.local.max_batch_clients", lambda runner, wanted: wanted)
    made = hw.Run(
        hw.recipes.recipe("fedavg", trainer=TRAINER), blobs(SIZES, features=16), hw.Task(wide), rounds=1, engine=engine
    )
    total = torch.cuda.get_device_properties(0).total_memory
    torch.cuda.set_per_process_memory_fraction((torch.cuda.memory_allocated() + 80 * 2**20) / total)
    try:
        reports = list(made)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert engine.groups.width < 6
    assert reports[0].notes
    assert reports[0].count("counted") == len(SIZES)

"""However a client's steps are kept, the algorithm is the same, and the budget holds."""

import random
from dataclasses import replace

import pytest
import torch
from test_local_sgd import trained
from torch import nn
from toys import blobs

import headway as hw
from headway.numerics.gram import COLUMNS, gram_matrix
from headway.numerics.units import bytes_of
from headway.training.step_storage import add_steps, gram_of, plan_steps

BASE = hw.LocalSGD(lr=0.1, batch_size=4, epochs=2, momentum=0.9)
ECGR = hw.ECGR(select=0.5, beta=0.2)


def layered(*between: nn.Module) -> nn.Module:
    return nn.Sequential(nn.Linear(4, 7), *between, nn.Tanh(), nn.Linear(7, 3))


MODELS = {
    "plain": (layered, {}),
    "dropout": (lambda: layered(nn.Dropout(0.5)), {}),
    "ambient": (lambda: layered(nn.RReLU()), {}),
    "batchnorm": (lambda: layered(nn.BatchNorm1d(7)), {"buffers": "local"}),
    "cumulative": (lambda: layered(nn.BatchNorm1d(7, momentum=None)), {"buffers": "average"}),
    "personal": (layered, {"shared": ("0.*",)}),
}


def task(model="plain", dtype="float64", **more) -> hw.Task:
    make, options = MODELS[model]
    return hw.Task(model=make, dtype=dtype, **options, **more)


def whole_run(trainer, recipe="fedavg+ecgr", model="plain", rounds=3):
    data = blobs(sizes=(8, 12, 6))  # no batch of one, which BatchNorm cannot take
    run = hw.Run(hw.recipes.recipe(recipe, trainer=trainer), data, task(model), rounds=rounds)
    list(run)
    return run


def budgets(size: int, count: int = 8, itemsize: int = 8):
    """A budget for blocks that divide the coordinates with a remainder, and for one coordinate at a time."""
    width = size // 3 - 1
    assert size % width
    return (count * width * itemsize, count * itemsize)


@pytest.mark.parametrize(
    ("recipe", "model", "options"),
    [
        ("fedavg+ecgr", "plain", {}),
        ("fedavg+ecgr", "plain", {"momentum": 0.0}),
        ("fedprox+ecgr", "plain", {"nesterov": True, "weight_decay": 0.01}),
        ("scaffold+ecgr", "plain", {"momentum": 0.5}),
        ("fednova+ecgr", "plain", {}),
        ("fedadam+ecgr", "dropout", {}),
        ("fedadam+ecgr", "ambient", {}),
        ("fedavg+ecgr", "batchnorm", {}),
        ("fedavg+ecgr", "cumulative", {}),
        ("scaffold+ecgr", "personal", {"momentum": 0.0}),
        ("fedavg+ecgr", "plain", {"stragglers": 0.5, "schedule": hw.Schedule(kind="cosine", over="steps")}),
    ],
)
def test_replay_is_full_precision_over_whole_runs(recipe, model, options):
    trainer = replace(BASE, **options)
    full = whole_run(trainer, recipe, model)
    undamped = whole_run(trainer, recipe.removesuffix("+ecgr"), model)
    assert not torch.allclose(full.state.params, undamped.state.params)
    for budget in budgets(full.flat_module.layout.size):
        replayed = whole_run(replace(trainer, steps_memory=budget, steps_kept="replay"), recipe, model)
        torch.testing.assert_close(replayed.state.params, full.state.params, rtol=1e-12, atol=1e-13)
        if full.state.buffers is not None:
            torch.testing.assert_close(replayed.state.buffers, full.state.buffers, rtol=1e-12, atol=1e-13)
        for client in full.data.clients:
            kept, expected = replayed.memory.get(client) or {}, full.memory.get(client) or {}
            assert kept.keys() == expected.keys()
            for label, tensors in expected.items():
                for name, tensor in tensors.items():
                    torch.testing.assert_close(kept[label][name], tensor, rtol=1e-12, atol=1e-13)


def one(trainer, model="plain", dtype="float64", **more):
    outcome, _, _, runner = trained(trainer, ECGR, task=task(model, dtype, **more))
    return outcome, runner.flat_module


def wide() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 1300), nn.Tanh(), nn.Linear(1300, 3))


def test_ties_are_decided_alike_where_blocks_are_whole_chunks():
    """All clipped steps have the same length but for the last bits, which decide what is selected first."""
    trainer = replace(BASE, momentum=0.0, clip_gradient=0.01)
    finals = []
    for options in ({}, {"steps_memory": COLUMNS * 8 * 8, "steps_kept": "replay"}):
        algorithm = hw.recipes.recipe("fedavg+ecgr", trainer=replace(trainer, **options))
        run = hw.Run(algorithm, blobs(), hw.Task(model=wide, dtype="float64"), rounds=3)
        list(run)
        finals.append(run.state.params)
    torch.testing.assert_close(*finals, rtol=1e-12, atol=1e-14)


def test_blocks_of_whole_chunks_give_the_bits_of_the_gram_matrix_in_full():
    for dtype in ("float32", "float64"):
        wide_task = hw.Task(model=wide, dtype=dtype)
        full, _, _, _ = trained(BASE, ECGR, task=wide_task)
        size = full.update.delta.numel()
        assert size > 2 * COLUMNS
        budget = (COLUMNS + 1234) * full.trained.count * wide_task.number.itemsize
        again, _, _, _ = trained(replace(BASE, steps_memory=budget, steps_kept="replay"), ECGR, task=wide_task)
        assert again.trained.steps.plan.width == COLUMNS
        assert torch.equal(gram_of(again.trained.steps), gram_matrix(full.trained.steps))
        assert torch.equal(again.trained.movement, full.trained.movement)
        torch.testing.assert_close(again.update.delta, full.update.delta)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_half_precision_stays_within_its_stated_tolerance(dtype):
    error = 2.0**-11 * (1 + 2.0**-12)
    for seed in range(5):
        data, trainer = blobs(sizes=(40, 12, 5), seed=seed), replace(BASE, batch_size=2)
        full, _, _, _ = trained(trainer, ECGR, task=task(dtype=dtype), data=data, client="client-0")
        half, _, _, _ = trained(
            replace(trainer, steps_kept="half"), ECGR, task=task(dtype=dtype), data=data, client="client-0"
        )
        steps = full.trained.steps.double()
        lengths = steps.norm(dim=1)
        kept = half.trained.steps.matrix.double() * half.trained.steps.unit[:, None]
        assert bool(((kept - steps).norm(dim=1) <= error * lengths).all())
        assert bool((kept != steps).any())
        coefficients = torch.linspace(-1, 2, len(steps), dtype=torch.float64)
        movement = steps.sum(0)
        one, other = (add_steps(movement, s, coefficients) for s in (steps, half.trained.steps))
        assert float((one - other).norm()) <= error * float((coefficients - 1).abs() @ lengths)
        torch.testing.assert_close(gram_of(half.trained.steps), kept @ kept.T, rtol=1e-12, atol=0)
        # the selection is that of full precision here, so that the deltas are as close as the steps
        assert float((full.update.delta - half.update.delta).norm()) <= 4 * error * float(lengths.sum())


@pytest.mark.parametrize("size", [1e-42, 1e-30, 1e-3, 1.0, 1e6, 1e30])
def test_half_precision_holds_steps_of_any_size(size):
    """The scale of each step keeps it from under- and overflowing 16 bits."""
    outcome, flat_module = one(replace(BASE, steps_kept="half"), dtype="float32")
    tape = type(outcome.trained.steps)(flat_module, plan_steps(3, flat_module.layout.size, 4, 10**6, "half"))
    start, ramp = flat_module.shared.clone(), torch.linspace(-1, 1, flat_module.layout.size)
    for step in (1.0, 0.0, -0.25):
        tape.previous.zero_()
        tape.add(ramp * size * step)
        tape.previous.copy_(start)
    made = tape.matrix.double() * tape.unit[:, None]
    for row, step in zip(made, (1.0, 0.0, -0.25), strict=True):
        wanted = (ramp * size * step).double()
        assert float((row - wanted).norm()) <= 2.0**-10.9 * float(wanted.norm())
    assert bool(made[0].any())


def test_a_client_trains_once_per_block_and_once_more():
    calls = []

    def counting(outputs, targets):
        calls.append(len(targets))
        return nn.functional.cross_entropy(outputs, targets, reduction="none")

    for blocks in (1, 2, 59):
        calls.clear()
        size, count = 59, 6
        width = -(-size // blocks)
        outcome, _ = one(replace(BASE, steps_memory=width * count * 8, steps_kept="replay"), loss=counting)
        assert outcome.update.delta.numel() == size
        assert outcome.trained.count == count
        assert outcome.trained.steps.plan.trainings == blocks + 1
        assert len(calls) == (blocks + 1) * count


def test_a_model_that_remembers_elsewhere_is_refused_under_replay():
    source = random.Random(0)

    def wavering(outputs, targets):
        return nn.functional.cross_entropy(outputs * source.random(), targets, reduction="none")

    with pytest.raises(hw.ConfigError, match="the same training ended with another model"):
        one(replace(BASE, steps_memory=600, steps_kept="replay"), loss=wavering)


@pytest.mark.parametrize("kept", ["full", "half", "replay"])
def test_a_single_step_is_fedavg_exactly(kept):
    trainer = hw.LocalSGD(lr=0.1, batch_size=None, steps_kept=kept)
    single, _ = one(trainer)
    assert single.trained.count == 1
    assert torch.equal(single.update.delta, single.trained.movement)


def test_bad_updates_are_still_rejected():
    trainer = hw.LocalSGD(lr=1e300, batch_size=2, epochs=5)
    data, broken = blobs(), task(loss=lambda o, t: o.square().sum(1) ** 2)
    for kept, memory in (("full", "1 GB"), ("half", "1 GB"), ("replay", 4000)):
        algorithm = hw.recipes.recipe("fedavg+ecgr", trainer=replace(trainer, steps_kept=kept, steps_memory=memory))
        with pytest.raises(hw.Diverged, match="no update was fit to count"):
            list(hw.rounds(algorithm, data, broken, rounds=1))


class TestTheBudget:
    def test_decides(self):
        kept = {b: plan_steps(10, 100, 4, b).kept for b in (4000, 3999, 2000, 1999, 40)}
        assert kept == {4000: "full", 3999: "half", 2000: "half", 1999: "replay", 40: "replay"}
        assert plan_steps(10, 100, 4, 4000, "replay").blocks == 1
        assert plan_steps(10, 100, 4, 1999).width == 49
        assert plan_steps(10, 100, 4, 40).trainings == 101

    def test_that_holds_not_one_coordinate_is_refused_before_training(self):
        algorithm = hw.recipes.recipe("fedavg+ecgr", trainer=replace(BASE, steps_memory=47))
        with pytest.raises(hw.ConfigError, match="47 bytes, but one coordinate of 6 steps needs 48: raise it"):
            hw.Run(algorithm, blobs(sizes=(12, 5, 3)), task(), rounds=1)
        hw.Run(hw.recipes.fedavg(trainer=replace(BASE, steps_memory=47)), blobs(), task(), rounds=1)

    @pytest.mark.parametrize("kept", ["full", "half"])
    def test_is_not_exceeded_by_a_pinned_choice(self, kept):
        needed = 6 * 59 * {"full": 8, "half": 2}[kept]
        one(replace(BASE, steps_kept=kept, steps_memory=needed))
        with pytest.raises(hw.ConfigError, match=f"steps_kept = '{kept}' needs {needed:,} bytes for 6 steps of 59"):
            one(replace(BASE, steps_kept=kept, steps_memory=needed - 1))

    @pytest.mark.parametrize("budget", [10**6, 2831, 707, 100, 48])
    def test_holds_for_the_scratch_memory_of_a_whole_run(self, budget):
        run = whole_run(replace(BASE, steps_memory=budget), rounds=1)
        assert 0 < run.engine.execution.setup.flat_module.scratch_bytes <= budget

    @pytest.mark.parametrize(
        ("said", "found"),
        [("256 MB", 256_000_000), ("1GB", 10**9), ("0.5 KiB", 512), ("12", 12), (" 3 B ", 3), (7, 7)],
    )
    def test_is_said_in_bytes_or_units(self, said, found):
        assert bytes_of(said, "x") == found
        assert hw.LocalSGD(steps_memory=said).steps_memory == said

    @pytest.mark.parametrize("said", ["many", "1 gb", "-1 MB", 0, -5, "0 MB", "1e3 MB", ""])
    def test_that_is_no_size_is_refused(self, said):
        with pytest.raises(hw.ConfigError, match=r"LocalSGD.steps_memory must be a number of bytes above 0"):
            hw.LocalSGD(steps_memory=said)

    @pytest.mark.parametrize("said", [1.5, True, None])
    def test_of_another_type_is_refused(self, said):
        with pytest.raises(hw.ConfigError, match=r"LocalSGD.steps_memory must be"):
            hw.LocalSGD(steps_memory=said)

    def test_is_shown_by_explain(self):
        shown = str(hw.recipes.recipe("fedavg+ecgr", trainer=replace(BASE, steps_memory="8 MB")).explain())
        assert "kept within 8 MB a client, in full, else in half precision, else by repeated training" in shown
        assert "steps are" not in str(hw.recipes.fedavg(trainer=BASE).explain())


class Peak:
    """The most bytes that torch held at once inside the block, by its own allocator's events."""

    def __enter__(self):
        self.profile = torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True)
        self.profile.__enter__()
        return self

    def __exit__(self, *error):
        self.profile.__exit__(*error)
        held = self.bytes = 0
        for event in self.profile.profiler.kineto_results.events():
            if event.name() == "[memory]":
                held += event.nbytes()
                self.bytes = max(self.bytes, held)


def test_the_peak_of_a_training_stays_within_the_budget():
    """Beside the steps: a few vectors [P], chunks of the Gram matrix, and what FedAvg's training takes."""

    def wide() -> nn.Module:
        return nn.Sequential(nn.Linear(4, 3000), nn.Tanh(), nn.Linear(3000, 3))

    big, data = hw.Task(model=wide), blobs(sizes=(5, 400, 5))
    trainer = hw.LocalSGD(lr=0.01, batch_size=4, epochs=2)
    count, size = 200, 24_003
    chunk = 3 * count * COLUMNS * 8

    def peak(**options):
        with Peak() as measured:
            outcome, _, _, _ = trained(replace(trainer, **options), ECGR, task=big, data=data)
        assert outcome.trained.count == count
        assert outcome.update.delta.numel() == size
        return measured.bytes

    vectors = 20 * size * 4
    sizes = {
        kept: peak(**options)
        for kept, options in {
            "full": {},
            "half": {"steps_kept": "half"},
            "replay": {"steps_memory": count * COLUMNS * 4, "steps_kept": "replay"},
        }.items()
    }
    budget = {"full": count * size * 4, "half": count * size * 2, "replay": count * COLUMNS * 4}
    for kept, most in sizes.items():
        assert budget[kept] < most < budget[kept] + chunk + vectors, kept


def test_adding_the_steps_makes_no_second_matrix():
    steps, movement = torch.randn(300, 50_000), torch.zeros(50_000)
    with Peak() as measured:
        add_steps(movement, steps, torch.linspace(0, 1, 300, dtype=torch.float64))
    assert 50_000 * 4 <= measured.bytes < 5 * 50_000 * 4

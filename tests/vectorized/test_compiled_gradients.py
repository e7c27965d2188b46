"""Steps through `torch.compile`: the same numbers, only where they agree and pay, and a reason where they cannot."""

import re
import shutil
import warnings

import pytest
import torch
from test_batched_sgd import SIZES, Branches, agree, model
from test_process_engine import same
from torch import nn
from toys import blobs

import headway as hw
from headway.engines.autotune import planner
from headway.engines.autotune.execution_plan import ExecutionPlan, PlanConstraints
from headway.vectorized import compiled_gradients as module
from headway.vectorized.compiled_gradients import BatchedGradients, Compiled, NotCompiled, SingleGradients, _phrase

pytestmark = pytest.mark.skipif(
    shutil.which("g++") is None, reason="needs another system: one with g++, a C++ compiler"
)

TRAINER = hw.LocalSGD(lr=0.1, batch_size=4, epochs=2, momentum=0.5)


@pytest.fixture(autouse=True, scope="module")
def _cache(tmp_path_factory):
    """What torch has compiled for other runs of the tests is not used."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path_factory.mktemp("inductor")))
        yield


@pytest.fixture
def calls(monkeypatch):
    """How many steps a program has made, by size of its batches."""
    made = []
    whole = Compiled.call

    def call(self, width, *arguments):
        found = whole(self, width, *arguments)
        made.append((width, found is not None))
        return found

    monkeypatch.setattr(Compiled, "call", call)
    return made


def started(recipe, engine, make=model, number="float64", rounds=3, trainer=TRAINER, sizes=SIZES, **options):
    algorithm = hw.recipes.recipe(recipe, trainer=trainer)
    task = hw.Task(make, dtype=number, **options)
    return hw.Run(algorithm, blobs(sizes=sizes), task, rounds=rounds, engine=engine, seed=3)


def run(*arguments, **options):
    made = started(*arguments, **options)
    reports = list(made)
    made.close()
    return made, reports


# the same numbers -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("recipe", "lanes"),
    [
        ("fedavg", 1),
        ("scaffold+ecgr", 6),
        *(
            pytest.param(*each, marks=pytest.mark.soak)
            for each in [("fedavg", 6), ("fedprox", 1), ("fedprox", 6), ("scaffold+ecgr", 1)]
        ),
    ],
)
def test_the_same_numbers_over_whole_runs(recipe, lanes, calls):
    """Sizes from 1 to 20: few batches of other sizes, and fewer clients than lanes, go the usual way."""
    found = run(recipe, hw.LocalEngine(lanes=lanes, compiled=True))
    assert found[0].engine.summary.endswith("compiled")
    assert found[0].engine.pinned_settings["compiled"] is True
    assert (4, True) in calls
    agree(run(recipe, hw.LocalEngine(lanes=lanes)), found)


@pytest.mark.parametrize("lanes", [pytest.param(1, marks=pytest.mark.soak), 6])
def test_the_same_numbers_in_a_round_of_float32(lanes):
    found = run("fedavg", hw.LocalEngine(lanes=lanes, compiled=True), number="float32", rounds=1)
    agree(run("fedavg", hw.LocalEngine(lanes=lanes), number="float32", rounds=1), found, 1e-5)


def test_of_several_sizes_of_batches_those_that_are_frequent_are_compiled(calls):
    """Eight clients of 9 examples and one of 3: batches of 4, 4, 1, and one of 3."""
    engine = hw.LocalEngine(compiled=True)
    run("fedavg", engine, sizes=(9,) * 8 + (3,))
    assert set(engine.execution.compiler.used.programs) == {4, 1}
    assert set(calls) == {(4, True), (1, True), (3, False)}


def test_a_batch_that_is_nearly_full_is_padded_and_others_are_not(calls):
    """Of ten clients in batches of six, four are left over; of eleven, five, and an empty place."""
    trainer = hw.LocalSGD(lr=0.1, batch_size=4, steps=1)
    for clients, steps in ((10, 1), (11, 2)):
        calls.clear()
        options = {"sizes": (9,) * clients, "trainer": trainer, "rounds": 1}
        found = run("fedavg", hw.LocalEngine(lanes=6, compiled=True), **options)
        assert calls == [(4, True)] * steps
        agree(run("fedavg", hw.LocalEngine(lanes=6), **options), found)


@pytest.mark.parametrize("lanes", [pytest.param(1, marks=pytest.mark.soak), 3])
def test_dropout_drops_the_same(lanes, calls):
    def make():
        return nn.Sequential(nn.Linear(4, 6), nn.Dropout(0.4), nn.Tanh(), nn.Dropout(0.2), nn.Linear(6, 3))

    found = run("fedavg", hw.LocalEngine(lanes=lanes, compiled=True), make=make)
    assert (4, True) in calls
    agree(run("fedavg", hw.LocalEngine(lanes=lanes), make=make), found)


@pytest.mark.soak
def test_statistics_are_kept_and_averaged_alike(calls):
    def make():
        return nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Tanh(), nn.Linear(6, 3))

    options = {"make": make, "buffers": "average", "sizes": (11,) * 4}
    found = run("fedavg", hw.LocalEngine(compiled=True), **options)
    assert (4, True) in calls
    plain = run("fedavg", hw.LocalEngine(), **options)
    agree(plain, found)
    torch.testing.assert_close(plain[0].state.buffers, found[0].state.buffers, rtol=1e-10, atol=1e-10)


def test_what_stays_with_a_client_is_trained_alike(calls):
    options = {"shared": ("0.*",), "rounds": 2}
    found = run("fedavg", hw.LocalEngine(compiled=True), **options)
    assert (4, True) in calls
    agree(run("fedavg", hw.LocalEngine(), **options), found)


# what is not compiled -------------------------------------------------------------------------------------


class Counts(nn.Linear):
    """Does something else each time, by a number that a compiled program takes for fixed."""

    def __init__(self):
        super().__init__(4, 3)
        self.times = 0

    def forward(self, x):
        self.times += 1
        return super().forward(x) * (1 + self.times % 2)


def draws():
    return nn.Sequential(nn.Linear(4, 6), nn.RReLU(), nn.Linear(6, 3))


@pytest.mark.parametrize(
    ("make", "recipe", "why"),
    [
        (Branches, "fedavg", r"torch cannot compile it \(.{1,120}\)"),
        (Counts, "fedavg", "the model keeps Counts.times between calls"),
        (model, "moon", "Moon looks at each client's last model"),
    ],
)
def test_what_cannot_be_compiled_says_why_and_trains_as_it_is(make, recipe, why, capfd):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = run(recipe, hw.LocalEngine(compiled=True), make=make, rounds=2)
    said = found[0].engine.summary
    assert re.fullmatch(f"clients one at a time; not compiled, since {why}", said), said
    assert found[0].engine.pinned_settings == {}
    assert capfd.readouterr() == ("", "")
    if make is not Counts:  # which knows how often it was called
        assert torch.equal(found[0].state.params, run(recipe, hw.LocalEngine(), make=make, rounds=2)[0].state.params)


@pytest.mark.soak
def test_draws_from_torchs_own_generator_are_the_same_or_nothing_is_compiled():
    found = run("fedavg", hw.LocalEngine(compiled=True), make=draws)
    torch.testing.assert_close(
        found[0].state.params, run("fedavg", hw.LocalEngine(), make=draws)[0].state.params, rtol=1e-10, atol=1e-10
    )


def test_sizes_that_differ_too_much_are_not_compiled():
    trainer = hw.LocalSGD(lr=0.1, batch_size=None)
    engine = hw.LocalEngine(compiled=True)
    run("fedavg", engine, trainer=trainer, sizes=tuple(range(5, 30)), rounds=1)
    assert engine.planned.not_compiled == "its batches have too many different sizes"


def test_batches_in_low_rank_form_are_not_compiled():
    engine = hw.LocalEngine(lanes=3, drift=False, compiled=True)
    run("fedavg", engine, rounds=1)
    assert engine.summary == "3 clients side by side; not compiled, since batches in low-rank form gain nothing by it"
    assert engine.pinned_settings == {"lanes": 3}


def test_no_compiler_on_the_machine(monkeypatch, capfd):
    from torch._inductor.exc import InvalidCxxCompiler

    def compile_fx(*arguments, **options):
        raise InvalidCxxCompiler

    monkeypatch.setattr("torch._inductor.compile_fx.compile_fx", compile_fx)
    engine = hw.LocalEngine(compiled=True)
    run("fedavg", engine, rounds=1)
    assert engine.summary == "clients one at a time; not compiled, since torch finds no C++ compiler here"
    assert capfd.readouterr() == ("", "")


def test_torch_may_be_told_not_to_compile(monkeypatch):
    monkeypatch.setattr("torch.compile", lambda function, **options: function)
    engine = hw.LocalEngine(compiled=True)
    run("fedavg", engine, rounds=1)
    assert engine.planned.not_compiled == "torch is set not to compile here"


def test_a_program_that_fails_later_is_left_with_a_note(monkeypatch):
    engine = hw.LocalEngine(compiled=True)
    made = started("fedavg", engine)
    reports = iter(made)
    assert next(reports).notes == ()
    for program in engine.execution.compiler.used.programs.values():
        monkeypatch.setattr(program, "function", lambda *_: 1 / 0)
    (note,) = next(reports).notes
    assert "torch cannot compile it (ZeroDivisionError: division by zero)" in note
    assert next(reports).notes == ()
    agree((run("fedavg", hw.LocalEngine())[0], []), (made, []))


def test_reasons_are_found_behind_other_errors():
    error = ValueError()
    assert _phrase(error) == "torch cannot compile it (ValueError)"
    error.__cause__ = RuntimeError()
    error.__cause__.__context__ = NotCompiled("of this")
    assert _phrase(error) == "of this"


# the planner ----------------------------------------------------------------------------------------------


@pytest.fixture
def store(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "headway" / "plans.json"


@pytest.fixture
def tried(monkeypatch):
    """Clients take as long as is said by lanes and whether they are compiled; nothing is, but for its seconds."""

    def pinned(seconds, compiling=15.0):
        clock, tries = [0.0], []

        def use(self, lanes, lowered=False):
            if lanes is not None and (lanes, self.flat_module.channels_last) not in tries:
                tries.append((lanes, self.flat_module.channels_last))
                clock[0] += compiling
            return "of the test" if compiling == 0 else None

        monkeypatch.setattr(module.Compiler, "use", use)
        monkeypatch.setattr(planner._Trial, "seconds", lambda self, way: seconds.get((way.lanes, way.compiled), 1e3))
        monkeypatch.setattr(planner.time, "perf_counter", lambda: clock[0])
        return tries

    return pinned


TIMES = {(1, False): 0.010, (8, False): 0.006, (6, False): 0.005, (6, True): 0.003, (1, True): 0.004}


@pytest.mark.parametrize(
    ("rounds", "seconds", "compiling", "chosen", "tries"),
    [
        (1_000, TIMES, 15.0, ExecutionPlan(6), []),  # 6 clients x 5 ms: half a minute is left
        (3_000, TIMES, 15.0, ExecutionPlan(6, compiled=True), [6]),  # 90 s; 15 + 54, and one at a time 90 at best
        (2_100, TIMES, 40.0, ExecutionPlan(6), [6]),  # 63 s; 40 + 38
        (3_000, {**TIMES, (6, True): 0.0049, (1, True): 0.0045}, 15.0, ExecutionPlan(6), [6]),  # 15 + 88
        (
            3_000,
            {**TIMES, (1, False): 0.006, (6, True): 0.0049, (1, True): 0.0045},
            15.0,
            ExecutionPlan(6),
            [6, 1],
        ),  # 15 + 81
        (3_000, {**TIMES, (1, False): 0.006, (6, True): 0.0049}, 15.0, ExecutionPlan(compiled=True), [6, 1]),
        (
            3_000,
            {**TIMES, (1, False): 0.020},
            15.0,
            ExecutionPlan(6, compiled=True),
            [6],
        ),  # it would have to be 4 times as fast
        (3_000, TIMES, 0, ExecutionPlan(6), [6]),
    ],
    ids=[
        "short",
        "long",
        "slow to compile",
        "no gain",
        "no gain of either",
        "one at a time",
        "hopeless",
        "cannot be compiled",
    ],
)
def test_it_is_compiled_only_where_the_length_of_the_run_pays(store, tried, rounds, seconds, compiling, chosen, tries):
    seen = tried(seconds, compiling)
    made = started("fedavg", hw.LocalEngine(lanes="auto"), rounds=rounds)
    assert made.engine.measured_plan.plan == chosen
    assert [lanes for lanes, _ in seen] == tries
    assert "\n" not in made.engine.measured_plan.summary
    assert made.engine.measured_plan.seconds == (seconds[chosen.lanes, chosen.compiled], seconds[1, False])


def test_a_plan_is_remembered_for_runs_of_like_length(store, tried):
    tried(TIMES)

    def plan(rounds, **options):
        return started("fedavg", hw.LocalEngine(lanes="auto", **options), rounds=rounds).engine.measured_plan

    assert plan(3_000).plan == ExecutionPlan(6, compiled=True)
    again = plan(3_100)
    assert (again.plan, again.remembered) == (ExecutionPlan(6, compiled=True), True)
    assert (plan(100).plan, plan(100).remembered) == (ExecutionPlan(6), True)
    assert not plan(3_000, compiled=False).remembered
    assert plan(100, compiled=False).remembered


@pytest.mark.parametrize(("compiled", "way"), [(True, ExecutionPlan(6, compiled=True)), (False, ExecutionPlan(6))])
def test_what_is_said_is_not_measured(store, tried, compiled, way):
    for rounds in (3, 10_000):
        tried(TIMES)
        assert (
            started("fedavg", hw.LocalEngine(lanes="auto", compiled=compiled), rounds=rounds).engine.measured_plan.plan
            == way
        )


def test_workers_share_the_work_that_is_left(store, tried):
    seen = tried({**TIMES, (3, False): 0.005, (3, True): 0.003})
    plan = started("fedavg", hw.ProcessEngine(2), rounds=3_000).engine.measured_plan
    assert (plan.plan, seen) == (ExecutionPlan(3), [])  # 45 s each
    assert started("fedavg", hw.ProcessEngine(1), rounds=3_000).engine.measured_plan.plan == ExecutionPlan(
        6, compiled=True
    )


def test_compiling_ends_when_it_cannot_pay_any_more(store, tmp_path):
    made = started("fedavg", hw.LocalEngine(lanes="auto"))
    trial = planner._Trial(made.engine.groups, 6)
    assert trial.compile((ExecutionPlan(), 1), most=-1.0) is None
    with pytest.raises(KeyError):
        trial.found[ExecutionPlan(compiled=True), 1]
    assert made.engine.execution.not_compiled == "compiling takes longer than the run could save"


def test_the_planner_says_why_what_was_asked_for_cannot_be(store):
    engine = hw.LocalEngine(lanes="auto", compiled=True)
    run("fedavg", engine, make=Branches, rounds=1)
    assert engine.summary.startswith(
        "clients one at a time, since RuntimeError in a batched program; not compiled, sin"
    )
    assert engine.measured_plan.plan == ExecutionPlan()


# runs that are resumed, workers, and run files ------------------------------------------------------------


def test_a_resumed_run_stays_as_it_was(store, tried, tmp_path):
    tried(TIMES)
    algorithm, task = hw.recipes.recipe("fedavg", trainer=TRAINER), hw.Task(model)

    def part(name, rounds, resume, **options):
        folder, engine = tmp_path / name, hw.LocalEngine(**options)
        made = hw.Run(algorithm, blobs(sizes=SIZES), task, rounds=rounds, engine=engine, folder=folder, resume=resume)
        next(iter(made))
        made.close()
        return made.engine

    assert part("auto", 3_000, False, lanes="auto").measured_plan.plan == ExecutionPlan(6, compiled=True)
    store.unlink()
    again = part("auto", 3_000, True, lanes="auto")
    assert (again.measured_plan.plan, again.measured_plan.seconds) == (ExecutionPlan(6, compiled=True), None)
    assert part("told", 3, False, compiled=True).pinned_settings == {"compiled": True}
    assert part("told", 3, True).pinned_settings == {"compiled": True}
    part("plain", 3, False)
    assert part("plain", 3, True, compiled=True).pinned_settings == {}
    with pytest.raises(hw.RunFolderError, match="another plan"):
        part("told", 3, True, compiled=False)
    tried(TIMES, compiling=0)
    for name, options in (("told", {}), ("auto", {"lanes": "auto"})):
        with pytest.raises(hw.RunFolderError, match="go on without, since of the test, which gives other bits"):
            part(name, 3, True, **options)


@pytest.mark.parametrize("lanes", [pytest.param(1, marks=pytest.mark.soak), 6])
def test_the_number_of_workers_changes_no_bit(lanes, calls):
    """Also after this process has used several threads, of which the forked ones know nothing."""
    torch.set_num_threads(2)
    try:
        torch.randn(500, 500) @ torch.randn(500, 500)
        found = [
            run("scaffold+ecgr", hw.ProcessEngine(n, lanes=lanes, compiled=True), number="float32") for n in (1, 2)
        ]
    finally:
        torch.set_num_threads(1)
    assert len(calls) <= 2  # no client was trained in this process, but in the trial of each run before its first round
    calls.clear()
    assert found[1][0].engine.summary.endswith("compiled")
    same(*found)
    here = run("scaffold+ecgr", hw.LocalEngine(lanes=lanes, compiled=True), number="float32")
    assert (4, True) in calls
    torch.testing.assert_close(found[0][0].state.params, here[0].state.params, rtol=1e-5, atol=1e-6)


def test_it_is_an_option_of_run_files():
    from headway.experiment.runfile_schema import EngineSection

    for said in (None, True, False):
        for kind in ("local", "processes", "ray"):
            assert EngineSection(kind=kind, compiled=said).engine().options.constraints == PlanConstraints(
                None, None, said
            )
    with pytest.raises(ValueError, match="compiled"):
        EngineSection(compiled="yes")


def test_one_function_of_gradients_is_chosen_or_none():
    engine = hw.LocalEngine(lanes=6, compiled=True)
    started("fedavg", engine)
    execution = engine.execution
    compiler = execution.compiler
    assert isinstance(compiler.batched, BatchedGradients)
    assert compiler.single is None
    execution.use(ExecutionPlan(compiled=True))
    assert (compiler.batched, type(compiler.single)) == (None, SingleGradients)
    execution.use(ExecutionPlan())
    assert (compiler.batched, compiler.single) == (None, None)

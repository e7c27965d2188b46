"""Samplers in whole runs: on every engine, by the clock, resumed, refused."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import pytest
import torch
from toys import blobs, linear_task

import headway as hw
from headway.core.flow import Flow, PrivacyEvent
from headway.engines.local_clients import REPLY
from headway.experiment.runfile import load_runfile
from headway.protocol import wire as frame
from headway.protocol.messages import Measure, Train

SIZES = tuple(range(5, 17))


def model():
    return torch.nn.Sequential(torch.nn.Linear(4, 6), torch.nn.Tanh(), torch.nn.Linear(6, 3))


TRAINER = hw.LocalSGD(lr=0.1, batch_size=4, epochs=2)
SAMPLERS = {
    "Poisson": hw.Poisson(rate=0.3),
    "truncated Poisson": hw.Poisson(rate=0.7, most=4),
    "BySize": hw.BySize(count=4),
    "RoundRobin": hw.RoundRobin(count=5),
    "LeastAvailable": hw.LeastAvailable(count=3),
    "PowerOfChoice": hw.PowerOfChoice(count=3, candidates=6),
    "rpow-d": hw.PowerOfChoice(count=3, candidates=6, refresh=False),
    "Oort": hw.Oort(count=4, explore=0.5, window=2, exclude_after=4),
}
KEEPING = [name for name in SAMPLERS if "Poisson" not in name]
ROUGH = hw.DeviceFleet(
    examples_per_s=30.0,
    speed_spread=0.7,
    down_per_s=1e4,
    up_per_s=4e3,
    link_spread=0.5,
    latency_s=0.1,
    crash=0.1,
    availability=hw.Bernoulli(share=0.7, every_s=20.0),
)


def made(sampler, engine=None, quorum=None, rounds=5, chain=None, task=None, data=None, **options):
    stages = chain or (hw.Mean(over="clients"), hw.ServerSGD())
    algorithm = hw.Algorithm(hw.chain(*stages), TRAINER, sampler, quorum or hw.Quorum())
    task = task or hw.Task(model, metrics=("accuracy",))
    data = data or blobs(sizes=SIZES)
    return hw.Run(algorithm, data, task, rounds=rounds, engine=engine, seed=3, **options)


def finished(run):
    reports = list(run)
    run.close()
    return run, reports


def cohorts(reports):
    return [[(client.client, client.status) for client in report.clients] for report in reports]


def same(one, other):
    (a, reports), (b, others) = one, other
    assert cohorts(reports) == cohorts(others)
    assert torch.equal(a.state.params, b.state.params)
    assert [r.clock for r in reports] == [r.clock for r in others]
    histories = a.federation.history, b.federation.history
    if histories[0] is not None:
        mine, theirs = (history.tensors() for history in histories)
        for name, tensor in mine.items():
            assert torch.equal(tensor.nan_to_num(nan=-1.0), theirs[name].nan_to_num(nan=-1.0)), name


# everywhere --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", list(SAMPLERS))
def test_the_same_draws_on_every_engine(name):
    """Losses differ by rounding between clients alone and side by side, and not with the number of workers."""
    alone = finished(made(SAMPLERS[name]))
    for engine in (hw.LocalEngine(lanes=4), hw.ClockEngine()):
        assert cohorts(finished(made(SAMPLERS[name], engine))[1]) == cohorts(alone[1])
    one, three = (finished(made(SAMPLERS[name], hw.ProcessEngine(n, lanes=2))) for n in (1, 3))
    same(one, three)
    assert cohorts(one[1]) == cohorts(alone[1])
    assert len({str(cohort) for cohort in cohorts(alone[1])}) > 1


@pytest.mark.parametrize("late", ["drop", "keep"])
@pytest.mark.parametrize("name", list(SAMPLERS))
def test_by_the_clock_and_resumed_to_the_bit(name, late, tmp_path):
    quorum = hw.Quorum(count=2, late=late, deadline_s=60.0 if late == "drop" else None, cap=50)
    if late == "keep" and name not in KEEPING:
        with pytest.raises(hw.ChainRefused, match=r"needed: a sampler that draws as many clients as are missing.*keep"):
            made(SAMPLERS[name], hw.ClockEngine(fleet=ROUGH), quorum)
        return

    def part(folder, rounds, **options):
        engine = hw.ClockEngine(fleet=ROUGH)
        return made(SAMPLERS[name], engine, quorum, rounds, folder=tmp_path / folder, checkpoint_every=2, **options)

    whole = finished(part("whole", 9))
    assert len(whole[1]) == 9
    assert sum(report.count("counted") for report in whole[1]) >= 6
    for stop in (3, 6):
        finished(part(f"stop-{stop}", stop))
        again, rest = finished(part(f"stop-{stop}", 9, resume=True))
        same((whole[0], whole[1][stop:]), (again, rest))


@pytest.mark.parametrize("name", list(SAMPLERS))
def test_resumed_to_the_bit_without_a_clock(name, tmp_path):
    whole = finished(made(SAMPLERS[name], rounds=7))
    finished(made(SAMPLERS[name], rounds=3, folder=tmp_path / "run"))
    again, rest = finished(made(SAMPLERS[name], rounds=7, folder=tmp_path / "run", resume=True))
    same((whole[0], whole[1][3:]), (again, rest))


@pytest.mark.parametrize("name", ["LeastAvailable", "RoundRobin", "Oort", "PowerOfChoice"])
def test_an_interrupt_in_the_middle_of_a_round_is_not_counted_twice(name, tmp_path):
    whole = finished(made(SAMPLERS[name], rounds=6))
    run = made(SAMPLERS[name], rounds=6, folder=tmp_path / "run")
    original, trained = run.engine.ask, []

    def interrupted(ask):
        trained.append(type(ask.request))
        if trained.count(Train) == 4:
            original(ask)
            raise KeyboardInterrupt
        return original(ask)

    run.engine.ask = interrupted
    with pytest.raises(KeyboardInterrupt):
        list(run)
    run.close()
    again, rest = finished(made(SAMPLERS[name], rounds=6, folder=tmp_path / "run", resume=True))
    same((whole[0], whole[1][3:]), (again, rest))


def test_as_many_are_at_work_as_the_sampler_wants_by_its_own_rule():
    """RoundRobin among those who are free: nobody is asked a second time before all have been asked."""
    fleet = hw.DeviceFleet(examples_per_s=20.0, speed_spread=1.2)
    engine = hw.ClockEngine(fleet=fleet)
    run = made(hw.RoundRobin(count=4), engine, hw.Quorum(count=2, late="keep"), rounds=6)
    asked, original = [], engine.coordinator.pool.open

    def noted(round_, cohort, *rest):
        asked.append(cohort)
        return original(round_, cohort, *rest)

    engine.coordinator.pool.open = noted
    for _ in run:
        assert engine.busy == 2
    run.close()
    assert [len(cohort) for cohort in asked] == [4, 2, 2, 2, 2, 2]
    first = [client for cohort in asked[:5] for client in cohort]
    assert len(set(first)) == len(first) == len(SIZES)


def test_those_named_are_asked_when_they_are_free():
    names = ("client-1", "client-4", "client-9")
    engine = hw.ClockEngine(fleet=hw.DeviceFleet(examples_per_s=20.0, speed_spread=1.2))
    _, reports = finished(made(hw.Fixed(clients=names), engine, hw.Quorum(count=1, late="keep"), rounds=8))
    assert {client.client for report in reports for client in report.clients} <= set(names)


def test_who_is_seldom_there_is_heard_more_than_by_an_even_draw():
    """Half of the clients are there in one hour of four."""

    @dataclass(frozen=True)
    class Halves(hw.Always):
        def window(self, client, key, at):
            if int(client.split("-")[1]) % 2 == 0:
                return 0.0, math.inf
            start = 14_400.0 * math.floor(at / 14_400)
            return (start, start + 3600) if at < start + 3600 else (start + 14_400, start + 18_000)

    def share(sampler):
        """Of those asked in the hours in which all are there, and after the first four of these."""
        fleet = hw.DeviceFleet(examples_per_s=0.02, availability=Halves())
        engine, quorum = hw.ClockEngine(fleet=fleet), hw.Quorum(deadline_s=1800.0)
        _, reports = finished(made(sampler, engine, quorum, rounds=160, evaluate_every=None))
        shared = [report for report in reports if report.clock["begun_s"] % 14_400 < 3600][8:]
        asked = [client.client for report in shared for client in report.clients]
        return len(asked), sum(int(name.split("-")[1]) % 2 for name in asked) / len(asked)

    (often, even), (_, weighted) = share(hw.Uniform(count=3)), share(hw.LeastAvailable(count=3))
    assert often >= 90
    assert abs(even - 0.5) < 0.1
    assert abs(weighted - 0.78) < 0.1  # three of six that weigh 4 and six that weigh 1, one after another


# nobody is drawn ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "engine",
    [
        lambda: hw.LocalEngine(),
        lambda: hw.LocalEngine(lanes=3),
        lambda: hw.LocalEngine(lanes="auto"),
        lambda: hw.ProcessEngine(2),
        lambda: hw.ClockEngine(fleet=ROUGH),
        lambda: hw.ClockEngine(hw.ProcessEngine(2, lanes=1)),
    ],
    ids=["local", "lanes", "auto", "processes", "clock", "processes by a clock"],
)
@pytest.mark.parametrize(
    "chain",
    [
        (hw.Mean(), hw.ServerAdam()),
        (hw.Scaffold(), hw.Mean(over="expected")),
        (hw.ECGR(), hw.Mean(), hw.ServerSGD(momentum=0.9)),
    ],
    ids=["mean", "scaffold", "ecgr"],
)
def test_a_round_without_clients_just_advances(engine, chain):
    run, reports = finished(made(hw.Poisson(rate=1e-9), engine(), chain=chain, rounds=3))
    assert [report.round for report in reports] == [1, 2, 3]
    assert all(report.clients == () and report.train_loss is None for report in reports)
    assert torch.equal(run.state.params, run.flat_module.shared)
    assert reports[-1].metrics


@pytest.mark.parametrize("engine", [hw.LocalEngine, lambda: hw.ProcessEngine(2, lanes=1)], ids=["local", "processes"])
def test_rounds_with_and_without_clients(engine):
    """The mean over the expected cohort divides by the same number, whoever is drawn."""
    run = made(hw.Poisson(rate=0.08), engine(), chain=(hw.Mean(over="expected"),), rounds=8)
    before, sizes = run.state.params.clone(), []
    for report in run:
        sizes.append(len(report.clients))
        moved = not torch.equal(run.state.params, before)
        assert moved == (sizes[-1] > 0)
        before = run.state.params.clone()
    run.close()
    assert 0 in sizes
    assert max(sizes) >= 2


# losses that are asked for -----------------------------------------------------------------------------


def losses_of(run, clients, global_model):
    """The mean loss of the run's model on each client's training examples, by plain torch."""
    global_model.load_state_dict(run.model().state_dict())
    losses = {}
    for client in clients:
        examples = run.data.train_of(client)
        with torch.no_grad():
            losses[client] = float(torch.nn.functional.cross_entropy(global_model(examples.inputs), examples.targets))
    return losses


def test_the_candidates_of_power_of_choice_are_measured_on_the_rounds_model():
    sampler = hw.PowerOfChoice(count=2, candidates=7)
    run = made(sampler, rounds=6)
    original, asked = run.engine.ask, []
    run.engine.ask = lambda ask: asked.append(ask) or original(ask)
    iterator = iter(run)
    for _ in range(6):
        asked.clear()
        losses = losses_of(run, run.data.clients, model())
        report = next(iterator)
        (measured,) = [ask for ask in asked if isinstance(ask.request, Measure)]
        assert len(measured.cohort) == 7
        worst = sorted(measured.cohort, key=losses.get)[-2:]
        assert sorted(client.client for client in report.clients) == sorted(worst)
        down, up = frame.size(measured.message.tensors()), frame.size(REPLY)
        trained_down = sum(client.bytes_down for client in report.clients)
        trained_up = sum(client.bytes_up for client in report.clients)
        assert (report.bytes_down, report.bytes_up) == (trained_down + 7 * down, trained_up + 7 * up)
    run.close()


def test_what_clients_keep_for_themselves_is_part_of_the_loss():
    task = hw.Task(model, metrics=("accuracy",), shared=("0.*",))
    run = made(hw.PowerOfChoice(count=3, candidates=12), task=task, rounds=3)
    original, answers = run.engine.ask, {}
    run.engine.ask = lambda ask: answers.setdefault((type(ask.request), ask.round), original(ask))
    list(run)
    kept = {client: run.memory.get(client) for client in run.memory.clients()}
    assert 3 <= len(kept) < 12
    final = run.engine.ask(run.algorithm.measure(run.state, run.engine.clients(), run.key, run.federation.history))
    losses = {report.client: report.metrics["train_loss"] for report in final.reports}
    for client in run.data.clients:
        run.flat_module.load(run.state.params, (kept.get(client) or {}).get("trainer", {}).get("personal"), None)
        examples = run.data.train_of(client)
        with torch.no_grad():
            loss = torch.nn.functional.cross_entropy(run.flat_module.module(examples.inputs), examples.targets)
        assert losses[client] == pytest.approx(float(loss), rel=1e-5)
    run.close()


def test_measuring_takes_the_time_of_a_forward_pass():
    """Twice the latency, the model down, a third of training on the examples once, a number up; all are waited for."""
    fleet = hw.DeviceFleet(
        examples_per_s=10.0, speed_spread=0.8, down_per_s=1e4, up_per_s=4e3, link_spread=0.6, latency_s=0.2
    )
    engine = hw.ClockEngine(fleet=fleet)
    _, (report,) = finished(made(hw.PowerOfChoice(count=2, candidates=12), engine, rounds=1))
    run = made(hw.Uniform(count=2))
    down = frame.size({"params": run.state.params})
    takes = []
    for client in run.data.clients:
        device, size = fleet.device(client, engine.key), len(run.data.train[client])
        seconds = 0.2 + down / device.down_per_s + size / device.examples_per_s / 3
        takes.append(seconds + 0.2 + frame.size(REPLY) / device.up_per_s)
    run.close()
    assert report.clock["measured_s"] == pytest.approx(max(takes))
    assert report.clock["begun_s"] == pytest.approx(max(takes))
    assert report.clock["ended_s"] > report.clock["begun_s"]


def test_nobody_is_waited_for_beyond_the_deadline():
    fleet = hw.DeviceFleet(examples_per_s=10.0, speed_spread=0.8)
    whole = finished(made(hw.PowerOfChoice(count=2, candidates=12), hw.ClockEngine(fleet=fleet), rounds=1))[1][0]
    limit = whole.clock["measured_s"] / 2
    quorum = hw.Quorum(deadline_s=limit)
    engine = hw.ClockEngine(fleet=fleet)
    run = made(hw.PowerOfChoice(count=12, candidates=12), engine, quorum, rounds=1)
    (report,) = list(run)
    assert report.clock["measured_s"] == limit
    in_time = [
        client
        for client in run.data.clients
        if len(run.data.train[client]) / 3 / fleet.device(client, engine.key).examples_per_s <= limit
    ]
    assert 0 < len(in_time) < 12
    assert [client.client for client in report.clients] == in_time
    run.close()


def test_candidates_that_crash_or_leave_are_not_measured():
    dead = hw.ClockEngine(fleet=hw.DeviceFleet(examples_per_s=10.0, crash=1.0))
    _, reports = finished(made(hw.PowerOfChoice(count=2, candidates=6), dead, rounds=2))
    assert all(report.clients == () and report.bytes_up == 0 and report.bytes_down > 0 for report in reports)
    assert 0 < reports[0].clock["measured_s"] < reports[1].clock["begun_s"]
    rough = hw.ClockEngine(fleet=hw.DeviceFleet(examples_per_s=10.0, crash=0.5))
    _, reports = finished(made(hw.PowerOfChoice(count=6, candidates=6), rough, rounds=10))
    asked = [len(report.clients) for report in reports]
    assert min(asked) < 6
    assert sum(asked) / 60 == pytest.approx(0.5, abs=0.2)


def test_those_at_work_go_on_while_others_are_measured():
    fleet = hw.DeviceFleet(examples_per_s=10.0, speed_spread=1.5)
    quorum = hw.Quorum(count=1, late="keep")
    engine = hw.ClockEngine(fleet=fleet)
    run = made(hw.PowerOfChoice(count=4, candidates=12), engine, quorum, rounds=25)
    arrived = 0
    original, ends = engine.requests.measure, []

    def measuring(ask):
        nonlocal arrived
        before = len(engine.coordinator.pool.busy)
        answer = original(ask)
        arrived += before - len(engine.coordinator.pool.busy)  # their updates wait to count
        ends.append(engine.now)
        return answer

    engine.requests.measure = measuring
    for report in run:
        assert engine.busy <= 4
        assert report.count("counted") == 1
    run.close()
    assert arrived > 0
    assert ends == sorted(ends)


def test_asks_that_fail_while_others_are_measured_are_not_made_again(tmp_path):
    """With all that may go wrong: crashes, retries, replacements and late updates; and resumed to the bit."""
    quorum = hw.Quorum(count=2, late="keep", retries=1, replace=True, max_age=6)
    fleet = hw.DeviceFleet(
        examples_per_s=10.0, speed_spread=1.5, crash=0.3, availability=hw.Bernoulli(0.8, every_s=30.0)
    )

    def part(folder, rounds, **options):
        sampler, engine = hw.PowerOfChoice(count=5, candidates=8), hw.ClockEngine(fleet=fleet)
        return finished(made(sampler, engine, quorum, rounds, folder=tmp_path / folder, **options))

    whole = part("whole", 40)
    assert sum(report.count("dropped") for report in whole[1]) > 10
    assert sum(report.count("counted") for report in whole[1]) > 60
    for stop in (7, 20):
        part(f"stop-{stop}", stop)
        again, rest = part(f"stop-{stop}", 40, resume=True)
        same((whole[0], whole[1][stop:]), (again, rest))


# what is refused, and what is warned of ----------------------------------------------------------------


@dataclass(frozen=True)
class Noisy(hw.Stage):
    """Promises noise."""

    place: ClassVar[hw.Place] = hw.Place.RELEASE

    def connect(self, flow: Flow) -> Flow:
        return flow.set(self, events=(PrivacyEvent("gaussian", 1.0, 1.0),))


@dataclass(frozen=True)
class Veiled(hw.Stage):
    """Lets the server see only sums."""

    place: ClassVar[hw.Place] = hw.Place.CLIP

    def connect(self, flow: Flow) -> Flow:
        return flow.set(self, server_sees="sum", additive=True, dense=True)


PROTECTED = {"Noisy": (hw.Mean(over="clients"), Noisy()), "Veiled": (Veiled(), hw.Mean(over="clients"))}


@pytest.mark.parametrize("stage", list(PROTECTED))
@pytest.mark.parametrize("name", ["PowerOfChoice", "rpow-d", "Oort"])
def test_losses_of_single_clients_are_refused_where_they_are_protected(name, stage):
    with pytest.raises(hw.ChainRefused) as refused:
        hw.Algorithm(hw.chain(*PROTECTED[stage]), TRAINER, SAMPLERS[name])
    assert refused.value.needed == f"each client's own training loss ({type(SAMPLERS[name]).__name__} draws by it)"
    assert refused.value.caused_by == stage
    assert ("sums" if stage == "Veiled" else "noise") in refused.value.found
    assert f"leave {stage} out" in refused.value.do_this


@pytest.mark.parametrize("stage", list(PROTECTED))
@pytest.mark.parametrize("name", ["Poisson", "truncated Poisson", "BySize", "RoundRobin", "LeastAvailable"])
def test_the_others_go_with_protection(name, stage):
    algorithm = hw.Algorithm(hw.chain(*PROTECTED[stage]), TRAINER, SAMPLERS[name])
    assert algorithm.protected
    warned = "BySize draws by each client's number of training examples" in str(algorithm.explain())
    assert warned == (name == "BySize")


def test_by_size_twice_is_warned_of():
    def said(sampler, mean):
        return str(hw.Algorithm(hw.chain(mean), TRAINER, sampler).explain())

    assert 'use Mean(over="clients") with BySize' in said(hw.BySize(count=2), hw.Mean())
    choice = hw.PowerOfChoice(count=2, candidates=3)
    assert 'use Mean(over="clients") with PowerOfChoice' in said(choice, hw.Mean())
    assert "count twice" not in said(hw.BySize(count=2), hw.Mean(over="clients"))
    assert "count twice" not in said(hw.Uniform(count=2), hw.Mean())
    weighed = hw.Algorithm(hw.chain(hw.Weigh(by="uniform"), hw.Mean()), TRAINER, hw.BySize(count=2))
    assert "count twice" not in str(weighed.explain())


def test_a_quorum_above_the_cohort_is_refused():
    with pytest.raises(hw.ChainRefused, match=r"found: cohorts of 3\.6;"):
        made(hw.Poisson(rate=0.3), hw.ClockEngine(), hw.Quorum(count=4))
    with pytest.raises(hw.ChainRefused, match="found: cohorts of 4"):
        made(hw.Oort(count=4), hw.ClockEngine(), hw.Quorum(count=5))


def test_a_cap_ends_a_run_with_a_sentence():
    fleet = hw.DeviceFleet(examples_per_s=10.0)
    run = made(hw.RoundRobin(count=6), hw.ClockEngine(fleet=fleet), hw.Quorum(cap=1), rounds=3)
    with pytest.raises(hw.ConfigError, match=r"0 of 12 clients are there and may be asked"):
        list(run)
    run.close()


# what it costs -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "sampler", [hw.Uniform(count=3), hw.All(), hw.Poisson(rate=0.5), hw.Fixed(clients=("client-1",))]
)
def test_nothing_is_kept_for_samplers_that_read_nothing(sampler, tmp_path):
    run = made(sampler, rounds=1, folder=tmp_path / "run")
    assert run.federation.history is None
    list(run)
    tensors, _ = run.folder.latest()
    assert not [name for name in tensors if name.startswith("roster/")]
    run.close()


def test_a_column_that_is_read_is_in_the_checkpoint(tmp_path):
    run = made(hw.RoundRobin(count=3), rounds=2, folder=tmp_path / "run")
    list(run)
    tensors, _ = run.folder.latest()
    assert int(tensors["roster/asked"].sum()) == 6
    assert "roster/loss" not in tensors
    run.close()


# the run file ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", list(SAMPLERS))
def test_a_run_file_names_any_sampler(name, tmp_path):
    from headway.core.sampler import samplers
    from headway.observe.text import to_toml

    text = load_runfile("hospitals").to_toml().split("[algorithm.sampler]")[0].rstrip()
    assert "sampler" not in text
    lines = [
        f"{key} = {to_toml(value)}" for key, value in samplers.describe(SAMPLERS[name]).items() if value is not None
    ]
    (tmp_path / "mine.toml").write_text("\n".join([text, "", "[algorithm.sampler]", *lines]))
    loaded = load_runfile(str(tmp_path / "mine.toml"))
    assert loaded.algorithm.sampler == SAMPLERS[name]
    (tmp_path / "again.toml").write_text(loaded.to_toml())
    assert load_runfile(str(tmp_path / "again.toml")).algorithm.sampler == SAMPLERS[name]


def test_from_the_command_line(headway, tmp_path):
    sets = ["algorithm.sampler.sampler=Oort", "algorithm.sampler.count=2", "clock.preset=hospitals"]
    words = [word for change in sets for word in ("--set", change)]
    code, said, err = headway("run", "hospitals", "--rounds", 3, "--out", tmp_path / "run", *words)
    assert code == 0, err
    code, said, err = headway("resume", tmp_path / "run", "--rounds", 4)
    assert code == 0, err
    code, said, err = headway("explain", "hospitals", *words)
    assert "cohort: Oort(count=2" in said
    code, said, err = headway("list")
    for name in ("BySize", "LeastAvailable", "Oort", "Poisson", "PowerOfChoice", "RoundRobin"):
        assert f"  {name} " in said
    code, said, err = headway("run", "hospitals", "--set", "algorithm.sampler.sampler=Ort")
    assert code == 1
    assert "did you mean 'Oort'?" in err


def test_rounds_without_clients_from_the_command_line(headway, tmp_path):
    words = ["--set", "algorithm.sampler.sampler=Poisson", "--set", "algorithm.sampler.rate=0.000001"]
    code, _, err = headway("run", "hospitals", "--rounds", 2, "--out", tmp_path / "run", *words)
    assert code == 0, err
    code, _, err = headway("report", tmp_path / "run", "--out", tmp_path / "page.html")
    assert code == 0, err


def test_pooled_training_is_one_client_with_all_sizes():
    from headway.engines import PooledEngine

    run = hw.Run(
        hw.Algorithm(hw.chain(hw.Mean(over="clients")), TRAINER, hw.BySize(count=1)),
        blobs(sizes=SIZES),
        linear_task(),
        rounds=1,
        engine=PooledEngine(),
    )
    assert run.federation.history.sizes.tolist() == [sum(SIZES)]
    (report,) = list(run)
    assert [client.client for client in report.clients] == ["everyone"]
    run.close()

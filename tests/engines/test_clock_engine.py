"""The clock engine: time changes who counts, and nothing else."""

from __future__ import annotations

import math

import pytest
import torch
from test_process_engine import TRAINER, model
from toys import blobs

import headway as hw
from headway.protocol.messages import Ask, Message, Train
from headway.vectorized.batched_sgd import BatchedSGD

SIZES = tuple(range(5, 17))
SLOW = hw.DeviceFleet(
    examples_per_s=20.0, speed_spread=0.8, down_per_s=1e4, up_per_s=4e3, link_spread=0.6, latency_s=0.1
)


def made(engine, recipe="fedavg", rounds=4, quorum=None, sampler=None, sizes=SIZES, trainer=None, **options):
    algorithm = hw.recipes.recipe(recipe, trainer=trainer or TRAINER, sampler=sampler or hw.Uniform(count=6))
    algorithm = hw.Algorithm(algorithm.chain, algorithm.trainer, algorithm.sampler, quorum or hw.Quorum())
    task = hw.Task(model, metrics=("accuracy",))
    return hw.Run(algorithm, blobs(sizes=sizes), task, rounds=rounds, engine=engine, seed=3, **options)


def run(engine, recipe="fedavg", **options):
    one = made(engine, recipe, **options)
    reports = list(one)
    one.close()
    return one, reports


def counted(report):
    return [client.client for client in report.clients if client.status == "counted"]


@pytest.mark.parametrize("recipe", ["fedavg", "scaffold", "fedavg+ecgr", "qfedavg"])
def test_without_delays_it_is_the_plain_run_to_the_bit(recipe):
    plain, reports = run(hw.LocalEngine(), recipe)
    clocked, others = run(hw.ClockEngine(), recipe)
    assert torch.equal(plain.state.params, clocked.state.params)
    assert clocked.engine.now == 0.0
    for one, other in zip(reports, others, strict=True):
        assert (one.train_loss, one.metrics, counted(one)) == (other.train_loss, other.metrics, counted(other))
        assert (one.bytes_up, one.bytes_down) == (other.bytes_up, other.bytes_down)


@pytest.mark.parametrize("recipe", ["fedavg", "scaffold"])
def test_slow_clients_without_a_quorum_change_no_bit(recipe):
    plain, _ = run(hw.LocalEngine(), recipe)
    clocked, reports = run(hw.ClockEngine(fleet=SLOW), recipe)
    assert torch.equal(plain.state.params, clocked.state.params)
    ends = [report.clock["ended_s"] for report in reports]
    assert ends == sorted(ends)
    assert ends[0] > 0


def test_a_round_takes_what_its_slowest_client_takes():
    engine = hw.ClockEngine(fleet=SLOW)
    one, reports = run(engine, rounds=1)
    report = reports[0]
    expected = {}
    for client in report.clients:
        size = len(one.data.train[client.client])
        device = SLOW.device(client.client, engine.key)
        examples = TRAINER.epochs * size if TRAINER.steps is None else None
        expected[client.client] = device.seconds(examples, client.bytes_down, client.bytes_up)
        assert client.metrics["ended_s"] == pytest.approx(expected[client.client])
    assert report.clock["ended_s"] == pytest.approx(max(expected.values()))
    assert report.clock["wasted_s"] == 0


@pytest.mark.parametrize(
    "trainer",
    [
        hw.LocalSGD(batch_size=4, epochs=3),
        hw.LocalSGD(batch_size=4, steps=7),
        hw.LocalSGD(batch_size=None, steps=2),
        hw.LocalSGD(batch_size=3, epochs=4, stragglers=0.7, validation=0.3),
        hw.LocalSGD(batch_size=3, steps=9, stragglers=0.7),
    ],
    ids=lambda t: f"{t.batch_size} {t.epochs} {t.steps} {t.stragglers}",
)
def test_examples_are_those_that_training_uses(trainer):
    """Counted by the model itself."""
    seen = []

    class Counts(torch.nn.Linear):
        def forward(self, x):
            if self.training:
                seen.append(len(x))
            return super().forward(x)

    one = made(hw.ClockEngine(), trainer=trainer, sampler=hw.All(), sizes=(7,))
    one.close()
    algorithm = hw.Algorithm(hw.recipes.fedavg().chain, trainer, hw.All())
    counting = hw.Run(algorithm, blobs(sizes=(11,)), hw.Task(lambda: Counts(4, 3)), rounds=3, seed=1)
    for round_ in range(3):
        seen.clear()
        next(iter_ := iter(counting))
        iter_.close()
        client = counting.data.clients[0]
        key = counting.engine.execution.setup.client_algorithm.client_key(client, round_).derive("trainer")
        assert trainer.examples_used(len(counting.data.train[client]), key) == sum(seen)
    counting.close()


def test_over_selection_counts_the_first():
    engine = hw.ClockEngine(fleet=SLOW)
    _, reports = run(engine, quorum=hw.Quorum(count=4))
    for report in reports:
        ended = {c.client: c.metrics["ended_s"] for c in report.clients}
        assert max(ended[name] for name in counted(report)) == report.clock["ended_s"]
        assert (report.count("counted"), report.count("dropped")) == (4, 2)
        assert {c.reason for c in report.clients if c.status == "dropped"} == {"the round was over before it answered"}
        assert report.clock["wasted_s"] > 0
    whole = run(hw.ClockEngine(fleet=SLOW))[1]
    assert reports[-1].clock["ended_s"] < whole[-1].clock["ended_s"]


def test_a_deadline_ends_a_round_at_that_time():
    whole = run(hw.ClockEngine(fleet=SLOW), rounds=1)[1][0]
    times = sorted(c.metrics["ended_s"] for c in whole.clients)
    deadline = (times[2] + times[3]) / 2
    _, reports = run(hw.ClockEngine(fleet=SLOW), rounds=1, quorum=hw.Quorum(deadline_s=deadline))
    assert reports[0].clock["ended_s"] == deadline
    assert reports[0].count("counted") == 3


@pytest.mark.parametrize(
    "recipe", ["scaffold", *(pytest.param(each, marks=pytest.mark.soak) for each in ("fedavg", "fedavg+ecgr"))]
)
def test_many_crashes_lose_and_double_nothing(recipe):
    """Whoever counts in 200 rounds with crashes is all that trains: the same cohorts without crashes end the same."""
    fleet = hw.DeviceFleet(examples_per_s=50.0, crash=0.3)
    clocked, reports = run(hw.ClockEngine(fleet=fleet), recipe, rounds=200, sampler=hw.Uniform(count=5))
    assert len(reports) == 200
    lost = sum(report.count("dropped") for report in reports)
    assert 0.2 < lost / 1000 < 0.4
    assert all(report.count("counted") + report.count("dropped") == 5 for report in reports)

    class Replayed(hw.Sampler):
        def draw(self, clients, round, key, known=None, busy=0):
            return tuple(counted(reports[round]))

        def facts(self, population):
            return hw.Uniform(count=5).facts(population)

    plain, _ = run(hw.LocalEngine(), recipe, rounds=200, sampler=Replayed())
    assert torch.equal(plain.state.params, clocked.state.params)


def test_who_crashes_is_asked_again_or_replaced():
    fleet = hw.DeviceFleet(examples_per_s=50.0, crash=0.5)
    quorum = hw.Quorum(retries=1, replace=True)
    _, reports = run(hw.ClockEngine(fleet=fleet), quorum=quorum, sampler=hw.Uniform(count=4), rounds=20)
    assert all(report.count("counted") == 4 for report in reports)
    asked = {client.client for report in reports for client in report.clients}
    assert len(asked) > 4


def test_nobody_answers_and_the_model_stays():
    one, reports = run(hw.ClockEngine(fleet=hw.DeviceFleet(crash=1.0)), rounds=2)
    assert [report.count("counted") for report in reports] == [0, 0]
    assert torch.equal(one.state.params, one.flat_module.shared)


def test_only_those_who_are_there_are_asked():
    fleet = hw.DeviceFleet(examples_per_s=100.0, availability=hw.Bernoulli(share=0.5, every_s=60.0))
    engine = hw.ClockEngine(fleet=fleet)
    one = made(engine, sampler=hw.Uniform(count=3), rounds=30)
    for report in one:
        for client in report.clients:
            asked = client.metrics["asked_s"]
            key = engine.key.derive("client", client.client)
            window = fleet.availability.window(client.client, key, asked)
            assert window[0] <= asked < window[1]
            away = client.metrics["ended_s"] == window[1]
            assert (client.status, client.reason) == (("dropped", "it went away") if away else ("counted", ""))
    one.close()


@pytest.mark.parametrize(
    ("availability", "says"),
    [
        (hw.Bernoulli(share=0.0), r"after 0 s of simulated time 0 of 12 clients are there"),
        (hw.Bernoulli(share=1e-9, every_s=86_400.0), r"a round needs 6 of 12 clients at once.* longer than 3650 d:"),
    ],
    ids=["never", "hardly ever"],
)
def test_a_population_that_never_comes_is_an_error(availability, says):
    with pytest.raises(hw.ConfigError, match=says):
        run(hw.ClockEngine(fleet=hw.DeviceFleet(availability=availability)))


def test_a_cap_that_leaves_too_few_is_an_error_with_the_time():
    fleet = hw.DeviceFleet(examples_per_s=10.0)
    with pytest.raises(hw.ConfigError, match=r"0 of 12 clients are there and may be asked.*raise quorum\.cap"):
        run(hw.ClockEngine(fleet=fleet), quorum=hw.Quorum(cap=1), sampler=hw.Uniform(count=6), rounds=3)


def test_the_same_timeline_and_weights_on_any_engine_inside():
    quorum = hw.Quorum(count=4, retries=1)
    fleet = hw.DeviceFleet(examples_per_s=30.0, speed_spread=0.5, crash=0.2, up_per_s=1e4)
    results = []
    for inner in (hw.LocalEngine(lanes=2), hw.ProcessEngine(1, lanes=2), hw.ProcessEngine(3, lanes=2)):
        one, reports = run(hw.ClockEngine(inner, fleet), "scaffold", quorum=quorum, rounds=6)
        timeline = [(r.clock, [(c.client, c.status, c.metrics["ended_s"]) for c in r.clients]) for r in reports]
        results.append((timeline, one.state.params))
    for timeline, params in results[1:]:
        assert timeline == results[0][0]
        assert torch.equal(params, results[0][1])


QUORUMS = {
    "drop": hw.Quorum(count=4, deadline_s=40.0),
    "keep": hw.Quorum(count=3, late="keep", max_age=5),
}


@pytest.mark.parametrize("kind", list(QUORUMS))
def test_a_resumed_run_goes_on_in_its_time(tmp_path, kind):
    quorum, fleet = QUORUMS[kind], hw.DeviceFleet(examples_per_s=20.0, speed_spread=1.0, crash=0.1, latency_s=0.3)

    def part(folder, rounds, resume=False):
        options = {"rounds": rounds, "folder": tmp_path / folder, "resume": resume, "checkpoint_every": 2}
        return run(hw.ClockEngine(fleet=fleet), quorum=quorum, **options)

    whole, reports = part("whole", 8)
    part("parts", 3)
    again, rest = part("parts", 8, resume=True)
    assert torch.equal(whole.state.params, again.state.params)
    assert [r.clock for r in reports[3:]] == [r.clock for r in rest]
    assert [[c.client for c in r.clients] for r in reports[3:]] == [[c.client for c in r.clients] for r in rest]


# late updates that are kept ----------------------------------------------------------------------------


def test_a_buffer_as_large_as_the_cohort_without_delays_is_the_plain_run():
    plain, _ = run(hw.LocalEngine())
    kept, reports = run(hw.ClockEngine(), quorum=hw.Quorum(count=6, late="keep"))
    assert torch.equal(plain.state.params, kept.state.params)
    assert all(client.metrics["age"] == 0 for report in reports for client in report.clients)


def test_kept_updates_start_from_the_model_they_were_asked_with():
    """Against a direct implementation: each update is a client's training from an older model, their mean is added."""
    fleet = hw.DeviceFleet(examples_per_s=20.0, speed_spread=1.2)
    quorum = hw.Quorum(count=2, late="keep")
    one = made(hw.ClockEngine(fleet=fleet), quorum=quorum, rounds=12)
    versions, ages = [one.state.params.clone()], []
    reference = made(hw.LocalEngine(), rounds=12)
    training, data = reference.engine.execution.setup.training, reference.data
    for report in one:
        assert report.count("counted") == 2
        total, weight = torch.zeros_like(versions[0], dtype=torch.float64), 0.0
        for client in report.clients:
            age = int(client.metrics["age"])
            ages.append(age)
            asked = report.round - 1 - age
            ask = Ask(Train(Message(versions[asked]), asked), (client.client,))
            update = training.train(client.client, ask, data.train_of(client.client), None).update
            total += update.delta.double() * float(update.weight)
            weight += float(update.weight)
        expected = versions[-1] + (total / weight).to(versions[-1].dtype)
        torch.testing.assert_close(one.state.params, expected, rtol=1e-6, atol=1e-7)
        versions.append(one.state.params.clone())
    assert max(ages) >= 2
    one.close()
    reference.close()


def test_as_many_are_in_flight_as_the_sampler_wants():
    fleet = hw.DeviceFleet(examples_per_s=20.0, speed_spread=1.2)
    engine = hw.ClockEngine(fleet=fleet)
    one = made(engine, quorum=hw.Quorum(count=2, late="keep"), rounds=10)
    for _ in one:
        assert engine.busy == 4
    one.close()


def test_stale_updates_do_not_count():
    fleet = hw.DeviceFleet(examples_per_s=20.0, speed_spread=2.0)
    quorum = hw.Quorum(count=1, late="keep", max_age=2)
    _, reports = run(hw.ClockEngine(fleet=fleet), quorum=quorum, rounds=40)
    ages = [c.metrics["age"] for r in reports for c in r.clients if c.status == "counted"]
    assert max(ages) == 2
    stale = [c for r in reports for c in r.clients if c.status == "dropped"]
    assert stale
    assert all("rounds old, and at most 2 may be" in c.reason for c in stale)


# what is refused ---------------------------------------------------------------------------------------


def test_a_quorum_that_no_cohort_meets_is_refused():
    with pytest.raises(hw.ChainRefused, match="a cohort of at least 7"):
        made(hw.ClockEngine(), quorum=hw.Quorum(count=7))


def test_a_quorum_without_a_clock_is_refused():
    with pytest.raises(hw.ChainRefused, match="an engine with a clock"):
        made(hw.LocalEngine(), quorum=hw.Quorum(count=2))


def test_asynchrony_and_control_variates_are_refused():
    with pytest.raises(hw.ChainRefused, match="a stale variate breaks the correction"):
        made(hw.ClockEngine(), "scaffold", quorum=hw.Quorum(count=2, late="keep"))


def test_infinitely_fast_is_the_default():
    assert hw.DeviceFleet().device("a", made(hw.ClockEngine()).key).seconds(10**9, 10**9, 10**9) == 0.0
    assert math.isinf(hw.DeviceFleet().examples_per_s)


def test_what_the_engine_inside_notes_is_kept(monkeypatch):
    """Batches of more than three find no room."""
    train = BatchedSGD.train

    def limited(self, work, plan, *gradients):
        if len(plan.table.counts) > 3:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return train(self, work, plan, *gradients)

    monkeypatch.setattr(BatchedSGD, "train", limited)
    one, reports = run(hw.ClockEngine(hw.LocalEngine(lanes=6)), trainer=hw.LocalSGD(lr=0.1, batch_size=4))
    assert one.engine.site is one.engine.inner.site
    assert [len(report.notes) for report in reports] == [1, 0, 0, 0]
    assert reports[0].notes[0].startswith("6 clients side by side do not fit")


def test_a_run_may_end_by_its_clock(tmp_path):
    _, reports = run(hw.ClockEngine(fleet=SLOW), rounds=6)
    until = reports[2].clock["ended_s"] + 1e-6  # a fourth round begins
    ended, fewer = run(hw.ClockEngine(fleet=SLOW), rounds=6, until_s=until, folder=tmp_path / "run", evaluate_every=100)
    assert [r.clock for r in fewer] == [r.clock for r in reports[:4]]
    assert fewer[-1].central or fewer[-1].metrics  # the last round is evaluated, and kept
    assert ended.finished
    again = made(hw.ClockEngine(fleet=SLOW), rounds=6, until_s=until, folder=tmp_path / "run", resume=True)
    assert again.finished
    assert list(again) == []
    again.close()
    assert not made(hw.ClockEngine(fleet=SLOW), rounds=6, until_s=until).finished


@pytest.mark.parametrize(("engine", "until"), [(hw.LocalEngine, 5.0), (hw.ClockEngine, 0.0)])
def test_an_end_by_the_clock_needs_one(engine, until):
    with pytest.raises(hw.ConfigError, match="needs a run with a simulated clock, and must be above 0 seconds"):
        made(engine(), until_s=until)

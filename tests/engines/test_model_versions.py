"""Clients who were asked with different models train side by side, in workers, and as if alone."""

import pytest
import torch
from conformance.teststages import Median
from test_clock_engine import made
from toys import blobs

import headway as hw
from headway.protocol.messages import Ask, Message, Train, Version
from headway.vectorized.batched_sgd import BatchedSGD

FLEET = hw.DeviceFleet(examples_per_s=20.0, speed_spread=1.2)
QUORUM = hw.Quorum(count=4, late="keep")
HEAVY = hw.LocalSGD(
    lr=0.1,
    batch_size=4,
    epochs=2,
    momentum=0.5,
    validation=0.2,
    schedule=hw.Schedule(kind="exponential", factor=0.8, over="rounds"),
)


class Fades(hw.Stage):
    """Reads the round, and what the server tells, where a client steps and sends."""

    place = hw.Place.STEP

    def init(self, w):
        return {"drift": torch.zeros_like(w)}

    def broadcast(self, state):
        return state

    def step(self, grad, w, memory, ctx):
        return grad * (1 + 0.1 * ctx.round) + 0.1 * ctx.received["drift"]

    def receive(self, update, state, ctx):
        return update, {"drift": update.delta.to(state["drift"].dtype)}


CHAINS = {
    "staleness": hw.chain(hw.Staleness(), hw.Mean(), hw.ServerSGD()),
    "fedprox": hw.chain(hw.FedProx(mu=0.3), hw.Staleness("hinge", grace=0), hw.Mean(), hw.ServerSGD()),
    "rebased": hw.chain(hw.Staleness(), hw.Rebase(), hw.Mean(over="clients"), hw.ServerSGD(lr=0.5)),
    "ecgr": hw.chain(hw.ECGR(), hw.Staleness(), hw.Mean(), hw.ServerSGD()),
    "fednova": hw.chain(hw.FedNova(), hw.Mean(), hw.ServerSGD()),
    "qfedavg": hw.chain(hw.QFedAvg(q=0.5), hw.Mean(over="clients"), hw.ServerSGD()),
    "quality": hw.chain(hw.WeighByQuality("validation"), hw.Mean(), hw.ServerSGD()),
    "alignment": hw.chain(hw.WeighByQuality("alignment"), hw.Mean(), hw.ServerSGD()),
    "own": hw.chain(Fades(), hw.Staleness(), hw.Mean(), hw.ServerSGD()),
    "median": hw.chain(hw.Staleness(), Median(), hw.ServerSGD()),
}


def build():
    return torch.nn.Sequential(torch.nn.Linear(4, 6), torch.nn.Tanh(), torch.nn.Dropout(0.2), torch.nn.Linear(6, 3))


def run(chain, inner, rounds=8):
    algorithm = hw.Algorithm(chain, HEAVY, hw.Uniform(count=8), QUORUM)
    data = blobs(sizes=tuple(range(5, 17)))
    task = hw.Task(build, dtype="float64")
    one = hw.Run(algorithm, data, task, rounds=rounds, engine=hw.ClockEngine(inner, FLEET), seed=3)
    reports = list(one)
    one.close()
    ages = [int(client.metrics["age"]) for report in reports for client in report.clients]
    return one, ages, reports


@pytest.mark.parametrize("chain", CHAINS)
def test_side_by_side_as_alone(chain):
    alone, ages, reports = run(CHAINS[chain], hw.LocalEngine())
    beside, others, again = run(CHAINS[chain], hw.LocalEngine(lanes=3))
    assert ages == others
    assert max(ages) > 1
    torch.testing.assert_close(beside.state.params, alone.state.params, rtol=1e-10, atol=1e-12)
    for one, other in zip(reports, again, strict=True):
        assert [c.steps for c in one.clients] == [c.steps for c in other.clients]
        assert one.train_loss == pytest.approx(other.train_loss, rel=1e-10)


def test_batches_do_mix_models(monkeypatch):
    """Not one batch for each model: a buffer of four in lanes of four is one batch."""
    train, batches = BatchedSGD.train, []

    def watched(self, work, plan, *gradients):
        batches.append((len(plan.table.counts), work.ctx.global_params.ndim))
        return train(self, work, plan, *gradients)

    monkeypatch.setattr(BatchedSGD, "train", watched)
    run(CHAINS["staleness"], hw.LocalEngine(lanes=4))
    assert {size for size, _ in batches[1:]} == {4}, "the first batch is the trial before the run"
    assert len(batches) == 1 + 8
    assert sum(dims == 2 for _, dims in batches) >= 5


def test_low_rank_batches_share_one_model():
    """Without weights of one's own, the large product is of one model, so each model's clients are a batch."""
    results = []
    for inner in (hw.LocalEngine(drift=False), hw.LocalEngine(drift=False, lanes=4)):
        quorum, trainer = hw.Quorum(count=4, late="keep"), hw.LocalSGD(lr=0.1, batch_size=4)
        algorithm = hw.Algorithm(hw.chain(hw.Mean(), hw.ServerSGD()), trainer, hw.Uniform(count=8), quorum)
        task = hw.Task(lambda: torch.nn.Linear(4, 3), dtype="float64")
        data = blobs(sizes=tuple(range(5, 17)))
        one = hw.Run(algorithm, data, task, rounds=8, engine=hw.ClockEngine(inner, FLEET), seed=3)
        list(one)
        one.close()
        results.append(one)
    assert results[1].engine.inner.execution.uses_low_rank
    torch.testing.assert_close(results[1].state.params, results[0].state.params, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("chain", ["rebased", "own", "alignment", "median"])
def test_the_same_bits_in_workers(chain):
    lanes, _, reports = run(CHAINS[chain], hw.ProcessEngine(1, lanes=2), rounds=5)
    workers, _, others = run(CHAINS[chain], hw.ProcessEngine(3, lanes=2), rounds=5)
    assert torch.equal(lanes.state.params, workers.state.params)
    assert [r.train_loss for r in reports] == [r.train_loss for r in others]
    here, _, _ = run(CHAINS[chain], hw.LocalEngine(lanes=2), rounds=5)
    torch.testing.assert_close(here.state.params, workers.state.params, rtol=1e-10, atol=1e-12)


@pytest.mark.soak
def test_the_same_bits_on_ray():
    processes, _, _ = run(CHAINS["rebased"], hw.ProcessEngine(2, lanes=2), rounds=5)
    ray, _, _ = run(CHAINS["rebased"], hw.RayEngine(2, lanes=2), rounds=5)
    assert torch.equal(processes.state.params, ray.state.params)


def test_a_worker_is_sent_each_model_once():
    """What is still being answered lies in shared memory already."""
    engine = hw.ProcessEngine(2, lanes=2)
    one = made(hw.ClockEngine(engine, FLEET), quorum=QUORUM, sampler=hw.Uniform(count=8), rounds=10)
    rounds, held = iter(one), {}
    for _ in range(9):
        next(rounds)
        if engine.pool.areas is None:
            continue
        for place, each in enumerate(engine.pool.areas.broadcasts):
            if each.written is not None and held.get(id(each.written), (None, place))[1] != place:
                pytest.fail("a message was written twice")
            held[id(each.written)] = (each.written, place)
    one.close()


def test_an_ask_knows_what_each_was_asked_with():
    old, new = Message(torch.zeros(2)), Message(torch.ones(2))
    version = Version(3, old)
    ask = Ask(Train(new, 5), ("a", "b", "c"), earlier={"b": version, "c": version}, steps={"c": 2})
    assert [ask.asked_in(client) for client in "abc"] == [5, 3, 3]
    assert ask.ages("abc") == [0, 2, 2]
    assert ask.broadcast_for("a") is new
    assert ask.stacked_broadcast(["b", "c"]) is old
    assert torch.equal(ask.stacked_broadcast(["a", "b"]).params, torch.tensor([[1.0, 1.0], [0.0, 0.0]]))
    assert ask.of(["a"]).earlier == {}
    assert ask.of(["c"]).steps == {"c": 2}
    assert ask.versions == [version]
    brought = ask.map_broadcasts(lambda message: Message(message.params + 1))
    assert brought.broadcast_for("b") is brought.broadcast_for("c")
    assert brought.broadcast_for("b").params.tolist() == [1.0, 1.0]
    assert brought.broadcast_for("a").params.tolist() == [2.0, 2.0]


@pytest.mark.parametrize("lanes", [1, 3])
def test_memory_is_committed_when_the_update_counts_and_not_before(lanes):
    """Of clients whose update comes rounds later, or never; MOON's client keeps its last model that counted."""
    algorithm = hw.recipes.moon(trainer=hw.LocalSGD(lr=0.1, batch_size=4), sampler=hw.Uniform(count=8))
    algorithm = hw.Algorithm(algorithm.chain, algorithm.trainer, algorithm.sampler, hw.Quorum(count=2, late="keep"))
    fleet = hw.DeviceFleet(examples_per_s=20.0, speed_spread=1.2, crash=0.3)
    task = hw.Task(lambda: torch.nn.Sequential(torch.nn.Linear(4, 6), torch.nn.Tanh(), torch.nn.Linear(6, 3)))
    engine = hw.ClockEngine(hw.LocalEngine(lanes=lanes), fleet)
    one = hw.Run(algorithm, blobs(sizes=tuple(range(5, 17))), task, rounds=8, engine=engine, seed=3)
    ever, late = set(), 0
    for report in one:
        counted = {client.client for client in report.clients if client.status == "counted"}
        late += sum(client.metrics["age"] > 0 for client in report.clients if client.client in counted)
        ever |= counted
        assert set(one.memory.clients()) == ever
        assert engine.busy  # others are at work, and remember nothing of it
    assert late > 3
    one.close()

"""The Local engine: failures have names, memory has its rule, groups do not depend on arrival."""

import gc
import pdb
import weakref
from dataclasses import dataclass
from typing import ClassVar

import pytest
import torch
from torch import nn
from toys import blobs, linear_task

import headway as hw
from headway.core.update import Update
from headway.engines.grouping import GROUP, groups_of
from headway.protocol.sums import ExactTotal, GroupSum

TRAINER = hw.LocalSGD(lr=0.1, batch_size=4)


@dataclass(frozen=True)
class Breaks(hw.Stage):
    """Fails in one hook for one client: the one with this many examples."""

    place: ClassVar[hw.Place] = hw.Place.STEP
    examples: int = 5

    def step(self, grad, w, memory, ctx):
        if int(ctx.examples) == self.examples:
            raise ZeroDivisionError("on purpose")
        return grad


def engine(algorithm, data=None, task=None):
    return hw.Run(algorithm, data or blobs(), task or linear_task(), rounds=10**6)


class TestFailures:
    def algorithm(self):
        return hw.Algorithm(hw.chain(Breaks(), hw.Mean()), TRAINER, hw.All())

    def test_name_the_client_the_stage_and_the_inputs(self):
        with pytest.raises(hw.ClientFailed) as caught:
            next(iter(engine(self.algorithm())))
        failure = caught.value
        assert (failure.client, failure.where) == ("client-2", "Breaks.step")
        assert failure.inputs["grad"].shape == (12,)
        assert "client 'client-2' failed in Breaks.step with ZeroDivisionError: on purpose" in str(failure)
        assert "w = float32 [12], from" in str(failure)

    def test_keep_the_original_frame_for_a_debugger(self):
        with pytest.raises(hw.ClientFailed) as caught:
            next(iter(engine(self.algorithm())))
        original = caught.value.__cause__
        frame = original.__traceback__
        while frame.tb_next:
            frame = frame.tb_next
        assert frame.tb_frame.f_code.co_name == "step"
        assert frame.tb_frame.f_locals["self"] == Breaks()

    def test_a_breakpoint_inside_a_client_stops_in_this_process(self, monkeypatch):
        stopped = []
        monkeypatch.setattr(pdb, "set_trace", lambda *a, **k: stopped.append(torch.is_grad_enabled()))

        class Stops(nn.Linear):
            def forward(self, x):
                pdb.set_trace()
                return super().forward(x)

        list(hw.rounds(hw.recipes.fedavg(trainer=TRAINER), blobs(), hw.Task(lambda: Stops(4, 3)), rounds=1))
        assert True in stopped

    def test_a_model_of_the_wrong_shape_names_the_first_client(self):
        with pytest.raises(hw.ClientFailed, match=r"client 'client-0' failed in the model's forward pass"):
            next(iter(engine(hw.recipes.fedavg(), task=hw.Task(lambda: nn.Linear(9, 3)))))


def poisoned(which: int, value: float):
    """A loss that is not finite for the client that has `which` examples (full batches)."""

    def loss(outputs, targets):
        each = nn.functional.cross_entropy(outputs, targets, reduction="none")
        return each * value if len(targets) == which else each

    return loss


class TestBadUpdates:
    def rounds(self, value, recipe="scaffold", rounds=3):
        task = hw.Task(lambda: nn.Linear(4, 3), loss=poisoned(12, value))
        trainer = hw.LocalSGD(lr=0.1, batch_size=None)
        clipped = hw.Algorithm(hw.chain(hw.Clip(norm=1.0), hw.Mean()), trainer, hw.All())
        algorithm = clipped if recipe == "clipped" else hw.recipes.recipe(recipe, trainer=trainer)
        return hw.Run(algorithm, blobs(), task, rounds=rounds)

    @pytest.mark.parametrize("value", [float("nan"), float("inf")])
    @pytest.mark.parametrize("recipe", ["fedavg", "scaffold", "fedavg+ecgr", "fedadam", "clipped"])
    def test_never_enter_the_model_and_name_their_client(self, value, recipe):
        run = self.rounds(value, recipe)
        for report in run:
            status = {c.client: c.status for c in report.clients}
            assert status == {"client-0": "counted", "client-1": "rejected", "client-2": "counted"}
            reason = next(c.reason for c in report.clients if c.client == "client-1")
            assert "not finite" in reason
            assert "of 15 numbers" in reason
        assert bool(torch.isfinite(run.state.params).all())

    def test_do_not_commit_memory(self):
        run = self.rounds(float("nan"))
        list(run)
        assert run.memory.get("client-1") is None
        assert run.memory.get("client-0") is not None

    def test_the_others_train_as_if_the_client_had_not_been_asked(self):
        run = self.rounds(float("nan"), "fedavg")
        list(run)
        data = blobs()
        without = hw.FederatedData(
            data.name, data.store, {c: data.train[c] for c in ("client-0", "client-2")}, classes=data.classes
        )
        other = hw.Run(
            hw.recipes.fedavg(trainer=hw.LocalSGD(lr=0.1, batch_size=None)), without, linear_task(), rounds=3
        )
        list(other)
        assert torch.equal(run.state.params, other.state.params)

    def test_when_nobody_is_left_the_run_stops_with_advice(self):
        task = hw.Task(lambda: nn.Linear(4, 3), loss=lambda o, t: o.sum(1) * float("nan"))
        run = hw.Run(hw.recipes.fedavg(), blobs(), task, rounds=3)
        with pytest.raises(hw.Diverged, match=r"round 1: no update was fit to count.*client-0.*Try a lower learning"):
            list(run)

    def test_an_exploding_run_stops_with_the_round_and_the_leaders(self):
        run = hw.Run(hw.recipes.fedavg(trainer=hw.LocalSGD(lr=1e4, epochs=3)), blobs(), linear_task(), rounds=50)
        run_squared = hw.Run(
            hw.recipes.fedavg(trainer=hw.LocalSGD(lr=5.0, epochs=5)),
            blobs(),
            hw.Task(lambda: nn.Linear(4, 3), loss=lambda o, t: (o - t[:, None].float()).square().sum(1)),
            rounds=50,
        )
        with pytest.raises(hw.Diverged, match=r"diverged in round \d+: .*The clients that lead: client-\d .*norm"):
            list(run_squared)
        assert bool(torch.isfinite(run_squared.state.params).all())
        list(run)  # a large step alone is no reason to stop: cross entropy may well come down again


def test_groups_are_a_function_of_the_sorted_cohort():
    names = [f"c{i:03d}" for i in range(2 * GROUP + 5)]
    shuffled = names[::-1]
    assert list(groups_of(names, {})) == list(groups_of(shuffled, {}))
    assert [len(unit) for unit in groups_of(names, {})] == [GROUP, GROUP, 5]
    assert list(groups_of([], {})) == []


def test_same_seed_same_bits_and_another_seed_others():
    def final(seed):
        run = hw.Run(hw.recipes.recipe("scaffold+ecgr", trainer=TRAINER), blobs(), linear_task(), rounds=4, seed=seed)
        list(run)
        return run.state.params

    assert torch.equal(final(1), final(1))
    assert not torch.equal(final(1), final(2))


@pytest.mark.parametrize("part", [lambda: nn.Dropout(0.5), nn.RReLU])
def test_the_ambient_generator_neither_matters_nor_moves(part):
    task = hw.Task(lambda: nn.Sequential(nn.Linear(4, 8), part(), nn.Linear(8, 3)))

    def final(ambient):
        torch.manual_seed(ambient)
        before = torch.get_rng_state()
        run = hw.Run(hw.recipes.fedavg(trainer=TRAINER), blobs(), task, rounds=2)
        list(run)
        assert torch.equal(before, torch.get_rng_state())
        return run.state.params

    assert torch.equal(final(1), final(2))


def test_a_round_holds_a_constant_number_of_updates(monkeypatch):
    """Over many clients, the updates alive at once do not grow with the cohort."""
    alive: set[int] = set()
    most = [0]
    original = Update.of.__func__

    def counted(cls, delta, weight=1.0, **vectors):
        update = original(cls, delta, weight, **vectors)
        alive.add(id(delta))
        weakref.finalize(delta, alive.discard, id(delta))
        most[0] = max(most[0], len(alive))
        return update

    monkeypatch.setattr(Update, "of", classmethod(counted))
    data = hw.FederatedData.from_clients({f"c{i:04d}": (torch.randn(2, 4), torch.tensor([0, 1])) for i in range(300)})
    gc.collect()
    engine_ = hw.LocalEngine(drift=False)  # which keeps deltas, up to a fixed number of bytes
    report = next(iter(hw.Run(hw.recipes.fedavg(), data, linear_task(), rounds=1, engine=engine_)))
    assert report.count("counted") == 300
    assert most[0] <= 3


def test_a_quorum_needs_a_clock():
    algorithm = hw.Algorithm(hw.chain(hw.Mean()), TRAINER, hw.All(), hw.Quorum(count=2))
    with pytest.raises(hw.ChainRefused, match="an engine with a clock"):
        hw.Run(algorithm, blobs(), linear_task(), rounds=1)


def test_bytes_are_those_of_the_frames():
    report = next(iter(engine(hw.recipes.recipe("scaffold", trainer=TRAINER))))
    one = report.clients[0]
    assert 2 * 15 * 4 < one.bytes_up < 2 * 15 * 4 + 150
    assert 2 * 15 * 4 < one.bytes_down < 2 * 15 * 4 + 150
    assert report.bytes_up == sum(c.bytes_up for c in report.clients)


def test_the_aggregate_does_not_depend_on_threads():
    """Group sums and exact sums are elementwise: no reduction whose order could follow the threads."""
    generator = torch.Generator().manual_seed(0)
    updates = [Update.of(torch.randn(300_000, generator=generator), weight=w) for w in (1.0, 7.3, 1e6)]

    def total():
        group, sum_ = GroupSum(), ExactTotal()
        for update in updates:
            group.add(update.scaled_exactly(update.weight))
        sum_.add_group(group)
        return sum_.value().delta

    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        one = total()
        torch.set_num_threads(2)
        assert torch.equal(one, total())
    finally:
        torch.set_num_threads(threads)


def test_torchs_threads_are_put_back_when_an_engine_closes(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    before = torch.get_num_threads()
    engine = hw.LocalEngine(lanes="auto")
    engine.restore_settings({"threads": before + 1, "lanes": 2})
    list(
        hw.Run(
            hw.recipes.fedavg(trainer=hw.LocalSGD(lr=0.1)),
            blobs(),
            linear_task(),
            rounds=1,
            engine=engine,
        )
    )
    assert torch.get_num_threads() == before + 1
    engine.close()
    assert torch.get_num_threads() == before


def test_facts_are_the_same_before_and_after_an_engine_opens():
    engine = hw.LocalEngine(lanes=2)
    before = engine.facts
    list(
        hw.Run(
            hw.recipes.fedavg(trainer=hw.LocalSGD(lr=0.1)),
            blobs(),
            linear_task(),
            rounds=1,
            engine=engine,
        )
    )
    assert engine.facts == before
    assert engine.recorded_name == "Lanes of 2"


def test_the_size_of_groups_is_part_of_what_a_run_records():
    assert hw.LocalEngine().pinned_settings == {}
    assert hw.LocalEngine(group=1).pinned_settings == {"group": 1}
    for wrong in (0, True, 1.5):
        with pytest.raises(hw.ConfigError, match="group must be a whole number of clients from 1"):
            hw.LocalEngine(group=wrong)


@pytest.mark.parametrize("lanes", [1, 2])
def test_groups_have_so_many_clients_and_whole_batches(lanes, monkeypatch):
    seen = []
    add_group = ExactTotal.add_group
    monkeypatch.setattr(ExactTotal, "add_group", lambda self, group: seen.append(1) or add_group(self, group))
    algorithm = hw.Algorithm(hw.chain(hw.Mean()), TRAINER, hw.All())
    run = hw.Run(algorithm, blobs(), linear_task(), rounds=2, engine=hw.LocalEngine(lanes=lanes, group=1))
    next(rounds := iter(run))
    seen.clear()
    next(rounds)
    run.close()
    assert len(seen) == {1: 3, 2: 2}[lanes]

"""The sum of updates that lie on disk has the bits of Local, for any order of arrival, and refuses what it must."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import ClassVar

import pytest
import torch
from conformance.teststages import FixedPoint
from toys import blobs, linear_task

import headway as hw
from headway.core.errors import FrameError, UpdateRejected
from headway.core.update import Update
from headway.engines.grouping import groups_of
from headway.engines.wire_engine import WireEngine
from headway.protocol.messages import Declined, SumReply, UpdateReply
from headway.protocol.reports import Reports
from headway.protocol.sums import ExactTotal
from headway.protocol.wire_messages import Binding, read_reply, write_reply
from headway.server.group_summer import GroupSummer, StoredUpdate
from headway.server.grouped_sum import GroupedSum
from headway.server.sum_memory import SumMemory
from headway.server.vector_files import VectorFiles

SIZES = (7, 12, 5, 9, 6, 8, 11)
TRAINER = hw.LocalSGD(lr=0.1, batch_size=4, momentum=0.5, last_batch="merge")
CHAINS = {
    "fedavg": (hw.Mean(),),
    "scaffold": (hw.Scaffold(), hw.Mean("clients")),
    "ecgr and adam": (hw.ECGR(select=0.5, beta=0.2), hw.Mean(), hw.ServerAdam(lr=0.01)),
    "fednova": (hw.FedNova(), hw.Mean()),
    "codes": (FixedPoint(), hw.Mean("clients")),
    "whole cohort": (hw.AFL(lr=0.1),),
}


def spooled(folder, group, seed, calls, columns=None):
    """Training of the wire engine, whose replies are written to files and are summed from there, in some order.

    columns: how many columns are summed at a time, in files.
    """
    order = random.Random(seed)

    def train(self, ask):
        guard, waiting = self.setup.guard, list(ask.cohort)
        summer = None
        if columns is not None:
            summer = GroupSummer(self.setup.collector, ask, SumMemory(1, VectorFiles(folder / "sums")))
            assert (summer.columns is None) == (summer.note is not None)
            summer.columns = columns if summer.columns else None
        sums = GroupedSum(self.setup.collector, ask, groups_of(ask.cohort, {}, group=group), summer=summer)
        order.shuffle(waiting)
        for client in waiting:
            self.trained[client] = ask.request_for(client)
            reply, size = self._exchange(client, self.trained[client], ask.number)
            if isinstance(reply, Declined):
                sums.drop(client, Reports([client], reply.status, reasons=reply.reason))
                continue
            path, binding = folder / f"{ask.round} {client}", Binding(ask.round, ask.attempt, ask.number)
            with path.open("wb") as file:
                write_reply(file, reply, binding, guard.bits)

            def read(path=path, binding=binding):
                calls.append(path.name)
                return read_reply(path, binding, 1 << 20, guard.bits, guard.lengths, checked=True)

            norm = sums.check(client, reply, len(self.job.data.train[client]))
            sums.accept(client, StoredUpdate(read, 0.5, size, 0, norm))
        return sums.answer()

    return train


def final(engine, stages, rounds=3):
    links = hw.chain(*stages)
    algorithm = hw.Algorithm(links, TRAINER, hw.All() if links.aggregator.whole_cohort else hw.Uniform(count=6))
    run = hw.Run(algorithm, blobs(SIZES), linear_task(dtype="float64"), rounds=rounds, engine=engine)
    reports = list(run)
    run.close()
    return run.state.tensors(), reports


@pytest.mark.parametrize("group", [1, 4, 64])
@pytest.mark.parametrize("name", CHAINS)
def test_the_bits_of_local_for_any_order(name, group, tmp_path, monkeypatch):
    local, reports = final(hw.LocalEngine(drift=False, group=group), CHAINS[name])
    for seed in (1, 2):
        calls = []
        monkeypatch.setattr(WireEngine, "_train", spooled(tmp_path, group, seed, calls))
        sent, others = final(WireEngine(), CHAINS[name])
        assert len(calls) == 3 * len(reports[0].clients)
        for key, value in local.items():
            assert torch.equal(value, sent[key]) if isinstance(value, torch.Tensor) else value == sent[key]
        for one, other in zip(reports, others, strict=True):
            assert one.train_loss == other.train_loss
            own = [(c.client, c.status, c.examples, c.steps, c.norm) for c in one.clients]
            assert own == [(c.client, c.status, c.examples, c.steps, c.norm) for c in other.clients]
            assert {c.seconds for c in other.clients} == {0.5}


WHOLE = {"codes": "decoded at the server", "whole cohort": "AFL needs all updates at once"}


@pytest.mark.parametrize(("group", "columns"), [(1, 1), (4, 3), (64, 7)])
@pytest.mark.parametrize("name", CHAINS)
def test_columns_in_files_have_the_same_bits(name, group, columns, tmp_path, monkeypatch):
    """Sums whose memory is limited are made a few columns at a time, where the chain lets them be."""
    local, reports = final(hw.LocalEngine(drift=False, group=group), CHAINS[name])
    taken, notes = [], []
    rounded = GroupSummer._rounded
    monkeypatch.setattr(GroupSummer, "_rounded", lambda self, *a: (taken.append(a[1]), rounded(self, *a))[1])
    made = GroupSummer.__init__
    monkeypatch.setattr(
        GroupSummer, "__init__", lambda self, *a, **k: (made(self, *a, **k), notes.append(self.note))[0]
    )
    monkeypatch.setattr(WireEngine, "_train", spooled(tmp_path, group, 3, [], columns))
    sent, others = final(WireEngine(), CHAINS[name])
    assert set(taken) == (set() if name in WHOLE else {columns})
    assert all(WHOLE[name] in note for note in notes) if name in WHOLE else set(notes) == {None}
    for key, value in local.items():
        assert torch.equal(value, sent[key]) if isinstance(value, torch.Tensor) else value == sent[key]
    for one, other in zip(reports, others, strict=True):
        assert [(c.client, c.status, c.norm) for c in one.clients] == [
            (c.client, c.status, c.norm) for c in other.clients
        ]
    assert list((tmp_path / "sums").glob("*")) == []


class World:
    """A round of five clients, and updates for it."""

    def __init__(self, *stages, group=2):
        engine = WireEngine()
        algorithm = hw.Algorithm(hw.chain(*(stages or (hw.Mean(),))), TRAINER, hw.All())
        run = hw.Run(algorithm, blobs(SIZES[:5]), linear_task(), rounds=1, engine=engine)
        self.setup, self.names = engine.setup, list(run.data.clients)
        run.close()
        self.ask = self.setup.first_ask(self.names)
        self.sum = self.fresh(group)
        self.size = self.setup.flat_module.layout.size

    def fresh(self, group=2):
        return GroupedSum(self.setup.collector, self.ask, groups_of(self.names, {}, group=group))

    def update(self, value=1.0, weight=2.0):
        return UpdateReply(Update.of(torch.full((self.size,), value), weight), {"examples": 2.0, "steps": 1.0})

    def stored(self, value=1.0, weight=2.0, **costs):
        return StoredUpdate(lambda: self.update(value, weight), **costs)


def test_a_group_is_read_only_when_all_its_clients_are_decided():
    world, read = World(), []
    first, second, third, *_ = world.names

    def reader(name):
        return StoredUpdate(lambda: (read.append(name), world.update())[1])

    world.sum.accept(second, reader(second))
    world.sum.accept(third, reader(third))
    assert read == []
    world.sum.accept(first, reader(first))
    assert read == [first, second]
    assert world.sum.undecided == frozenset(world.names[3:])
    answer = world.sum.answer()
    assert read == [first, second, third]
    assert answer.counted == (first, second, third)
    assert answer.total.count == 3


def test_clients_that_are_lost_do_not_hold_up_their_group():
    world = World()
    first, second, *_ = world.names
    world.sum.drop(first, Reports([first], "dropped", reasons="gone"))
    world.sum.accept(second, world.stored(bytes_up=7))
    answer = world.sum.answer()
    assert [(row.client, row.status, row.reason, row.bytes_up) for row in answer.reports] == [
        (first, "dropped", "gone", 0),
        (second, "counted", "", 7),
    ]


def test_a_decision_is_taken_once():
    world = World()
    world.sum.accept(world.names[0], world.stored())
    with pytest.raises(AssertionError, match="decided twice"):
        world.sum.accept(world.names[0], world.stored())


def test_an_update_that_is_wrong_is_refused_by_the_check_and_named_where_that_was_left_out():
    world = World()
    first, second, *_ = world.names
    with pytest.raises(UpdateRejected, match="not finite"):
        world.sum.check(first, world.update(float("nan")))
    with pytest.raises(UpdateRejected, match="above its 3 examples"):
        world.sum.check(first, world.update(weight=4.0), 3)
    world.sum.accept(first, world.stored(float("nan")))
    world.sum.accept(second, world.stored())
    answer = world.sum.answer()
    assert answer.counted == (second,)
    refused = {row.client: row for row in answer.reports}[first]
    assert refused.status == "rejected"
    assert "not finite" in refused.reason


@dataclass(frozen=True)
class Halved(hw.Stage):
    """Sends half of the delta, and vouches for the bound."""

    place: ClassVar[hw.Place] = hw.Place.QUANTISE

    def connect(self, flow):
        return flow.keep(self, "additive", "dense", "bound")

    def send(self, update, memory, ctx):
        return update.with_delta(update.delta / 2), memory

    def decode(self, update, ctx):
        return update.with_delta(update.delta * 2)


def test_a_bound_that_shows_only_when_decoded_is_checked_before_an_update_is_accepted():
    world = World(hw.Clip(norm=1.0), Halved(), hw.Mean("clients"))
    short, long = (world.update(length / world.size**0.5, 1.0) for length in (0.49, 0.6))
    world.sum.check(world.names[0], short)
    with pytest.raises(UpdateRejected, match=r"the norm 1\.2, and Mean promises 1"):
        world.sum.check(world.names[0], long)


def test_the_sum_of_a_relay_counts_for_its_clients():
    world, relay = World(group=1), World(group=1)
    first, second, third, *others = world.names
    for name in (first, third):
        relay.sum.accept(name, relay.stored(0.1))
    relay.sum.drop(second, Reports([second], "rejected", reasons="its weight is nan"))
    for name in others:
        relay.sum.drop(name)
    made = relay.sum.answer()
    world.sum.accept_sum(SumReply(made.total, made.reports))
    assert world.sum.undecided == frozenset(others)
    for name in others:
        world.sum.accept(name, world.stored(0.1))
    answer, plain = world.sum.answer(), world.fresh(1)
    for name in (*others, third, first):
        plain.accept(name, world.stored(0.1))
    assert torch.equal(answer.total.value().delta, plain.answer().total.value().delta)
    assert answer.counted == (first, third, *others)
    assert answer.total.count == 4
    assert {row.client: row.reason for row in answer.reports}[second] == "its weight is nan"


def test_a_sum_over_clients_that_the_round_does_not_wait_for_is_refused():
    world = World()
    world.sum.accept(world.names[0], world.stored())
    for stranger in (world.names[0], "nobody"):
        with pytest.raises(FrameError, match=f"holds '{stranger}'"):
            world.sum.accept_sum(SumReply(ExactTotal(), Reports([stranger])))


def test_a_client_that_was_asked_instead_of_another_is_summed_at_the_end():
    world = World()
    world.sum = GroupedSum(world.setup.collector, world.ask, groups_of(world.names[:4], {}, group=2))
    world.sum.drop(world.names[1], Reports([world.names[1]], "dropped", reasons="gone"))
    for name in (world.names[4], world.names[0]):
        world.sum.accept(name, world.stored())
    assert world.sum.answer().counted == (world.names[0], world.names[4])

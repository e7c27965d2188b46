"""What arrives is what the flow promised, and codecs see whole vectors: alone, in lanes, in workers."""

import re
from dataclasses import dataclass
from typing import ClassVar

import pytest
import torch
from torch import nn
from toys import blobs, linear_task, weights_and_reports

import headway as hw
from headway.core.errors import UpdateRejected
from headway.core.flow import VectorSpec
from headway.core.stage import Place, Stage
from headway.core.update import Update
from headway.numerics.exact_sum import ExactScalar
from headway.protocol.messages import UpdateReply
from headway.protocol.sums import ExactTotal
from headway.protocol.wire_messages import Binding, encode_reply
from headway.server.guard import Promise

SIZES = (9, 12, 5, 30, 7, 16)


@dataclass(frozen=True)
class Reverse(Stage):
    """Sends the delta backwards."""

    place: ClassVar[Place] = Place.QUANTISE

    def connect(self, flow):
        return flow.keep(self, "additive", "dense", "bound")

    def send(self, update, memory, ctx):
        return update.with_delta(update.delta.flip(-1)), memory

    def decode(self, update, ctx):
        return update.with_delta(update.delta.flip(-1))


def without(update, name, delta):
    vectors = {key: vector for key, vector in update.vectors.items() if key != name}
    return type(update)({**vectors, "delta": delta}, update.weight, update.sums)


@dataclass(frozen=True)
class Whiten(Stage):
    """Sends the delta over its largest number, and that number."""

    place: ClassVar[Place] = Place.QUANTISE

    def connect(self, flow):
        return flow.carry(self, "largest", scalar=True).keep(self, "dense")

    def send(self, update, memory, ctx):
        largest = update.delta.abs().amax(-1, keepdim=True).clamp_min(1e-12)
        return update.with_vectors(delta=update.delta / largest, largest=largest), memory

    def decode(self, update, ctx):
        assert update.delta.shape[-1] == ctx.layout.size
        return without(update, "largest", update.delta * update.vectors["largest"])


@dataclass(frozen=True)
class TopK(Stage):
    """The largest numbers of the delta, and where they stand."""

    place: ClassVar[Place] = Place.SPARSIFY
    share: float = 0.3

    def connect(self, flow):
        flow = flow.carry(self, "indices", spec=VectorSpec(self.share, "integer"))
        return flow.recode(self, delta=VectorSpec(self.share))

    def send(self, update, memory, ctx):
        count = VectorSpec(self.share).count(ctx.layout.size)
        indices = update.delta.abs().topk(count, dim=-1).indices
        return update.with_vectors(delta=update.delta.gather(-1, indices), indices=indices), memory

    def decode(self, update, ctx):
        values, indices = update.delta, update.vectors["indices"]
        whole = values.new_zeros(*values.shape[:-1], ctx.layout.size)
        return without(update, "indices", whole.scatter(-1, indices, values))


def trained(*stages, engine=None, rounds=2, mean=None, model=None):
    task = linear_task() if model is None else hw.Task(model=model, metrics=("accuracy",))
    trainer = hw.LocalSGD(lr=0.1, batch_size=4)
    algorithm = hw.Algorithm(hw.chain(*stages, mean or hw.Mean()), trainer, hw.All())
    run = hw.Run(algorithm, blobs(SIZES), task, rounds=rounds, engine=engine)
    return weights_and_reports(run)


def wide() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 400), nn.ReLU(), nn.Linear(400, 128), nn.Linear(128, 3))


ENGINES = {
    "lanes of 2": lambda: hw.LocalEngine(lanes=2),
    "lanes of 6": lambda: hw.LocalEngine(lanes=6),
    "workers": lambda: hw.ProcessEngine(2),
    "workers with lanes": lambda: hw.ProcessEngine(2, lanes=2),
}


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("codec", [Reverse(), Whiten(), TopK(), TopK(1e-9)], ids=repr)
def test_engines_agree_on_a_codec_that_is_not_elementwise(engine, codec) -> None:
    alone, _ = trained(codec)
    others, reports = trained(codec, engine=ENGINES[engine]())
    torch.testing.assert_close(others, alone, rtol=1e-5, atol=1e-6)
    assert all(report.count("counted") == len(SIZES) for report in reports)


@pytest.mark.parametrize("codec", [Reverse(), Whiten(), TopK(1.0)], ids=repr)
@pytest.mark.parametrize("at_a_time", [1, 120_000, 1 << 23])
def test_a_wide_model_is_decoded_whole_however_few_at_a_time(codec, at_a_time, monkeypatch) -> None:
    """More numbers than are lifted at a time, so that vectors would be cut into columns."""
    monkeypatch.setattr("headway.server.collector.AT_A_TIME", at_a_time)
    options = {"model": wide, "rounds": 1}
    plain, _ = trained(**options)
    coded, _ = trained(codec, engine=hw.LocalEngine(lanes=6), **options)
    torch.testing.assert_close(coded, plain, rtol=1e-4, atol=1e-5)


def test_drift_is_measured_on_what_is_decoded() -> None:
    _, coded = trained(TopK(1.0))
    _, plain = trained()
    for one, other in zip(coded, plain, strict=True):
        assert one.drift["headway"] == pytest.approx(other.drift["headway"], rel=1e-4)
        assert one.drift["leeway"] == pytest.approx(other.drift["leeway"], rel=1e-4)


@dataclass(frozen=True)
class Lie(Stage):
    """Vouches for what it breaks at the largest client."""

    place: ClassVar[Place] = Place.NOISE
    what: str = "weight"
    value: float | str = 1e30

    def connect(self, flow):
        return flow.keep(self, "additive", "dense", "bound")

    def send(self, update, memory, ctx):
        large, value = ctx.examples == max(SIZES), float(self.value)
        if self.what == "weight":
            return update.with_weight(torch.where(large, value, update.weight)), memory
        if self.what == "delta":
            scale = torch.where(large, value, 1.0).to(update.delta.dtype)
            return update.with_delta(update.delta * scale.unsqueeze(-1)), memory
        return update.with_vectors(**{self.what: update.delta}), memory


LIES = {
    "huge weight": ((), Lie("weight", 1e30), r"its weight is 1e\+30, above its 30 examples"),
    "more than its examples": ((), Lie("weight", 31.0), r"its weight is 31, above its 30"),
    "negative weight": ((), Lie("weight", -1.0), r"its weight is -1"),
    "nan weight": ((), Lie("weight", "nan"), r"its weight is nan"),
    "above a cap": ((hw.Weigh("capped", 10),), Lie("weight", 11.0), r"its weight is 11, and Weigh promises at most 10"),
    "above one": ((hw.Weigh("uniform"),), Lie("weight", 2.0), r"its weight is 2, and Weigh promises at most 1"),
    "by examples": ((hw.Weigh("examples"),), Lie("weight", 1e30), r"above its 30 examples"),
    "by quality": ((hw.WeighByQuality(),), Lie("weight", 1e30), r"above its 30 examples"),
    "too long": ((hw.Clip(0.01),), Lie("delta", 100.0), r"the norm .*promises 0\.01"),
    "decoded too long": ((hw.Clip(0.01), Reverse()), Lie("delta", 100.0), r"the norm .*promises 0\.01"),
}


@pytest.mark.parametrize("name", LIES)
@pytest.mark.parametrize("lanes", [1, 6])
def test_a_client_that_breaks_a_promise_is_refused_by_name(name, lanes) -> None:
    before, lie, says = LIES[name]
    _, reports = trained(*before, lie, engine=hw.LocalEngine(lanes=lanes), rounds=1)
    (refused,) = reports[0].clients.with_status("rejected")
    assert refused.client == "client-3"
    assert re.search(says, refused.reason), refused.reason
    assert reports[0].count("counted") == len(SIZES) - 1


@dataclass(frozen=True)
class Half(Stage):
    place: ClassVar[Place] = Place.SPARSIFY
    rounded: bool = False

    def send(self, update, memory, ctx):
        delta = update.delta.round().long() if self.rounded else update.delta[..., : ctx.layout.size // 2]
        return update.with_delta(delta), memory


UNDECLARED = {
    "length": (Half(), r"shape \(7,\), not \(15,\) as the chain promises"),
    "number": (Half(rounded=True), r"holds torch\.int64, and the chain promises floating-point numbers"),
    "vector": (Lie("extra"), r"'extra' that the chain does not send"),
}


@pytest.mark.parametrize("name", UNDECLARED)
def test_what_no_stage_declared_is_named_and_not_blamed_on_the_learning_rate(name) -> None:
    stage, says = UNDECLARED[name]
    with pytest.raises(hw.HeadwayError, match=says) as stopped:
        trained(stage)
    assert "learning rate" not in str(stopped.value)
    assert "connect" in str(stopped.value)


@pytest.mark.parametrize("stages", [(), (TopK(),), (Whiten(),), (hw.Scaffold(),)], ids=lambda each: str(each))
@pytest.mark.parametrize("size", [1, 15, 100_000])
def test_the_largest_reply_has_room_for_an_update_of_float64_and_little_more(stages, size):
    links = hw.chain(*stages, hw.Mean())
    promise = Promise.of(links, links.trace(hw.Flow()), size)
    vectors = {
        name: torch.zeros(length, dtype=torch.int64 if name in (promise.integers or ()) else torch.float64)
        for name, length in promise.lengths.items()
    }
    reply = UpdateReply(Update(vectors, torch.tensor(1.0).double()), {"examples": 1.0, "steps": 1.0, "train_loss": 0.0})
    needed = len(encode_reply(reply, Binding(0, 0, 0), promise.bits))
    assert needed <= promise.largest_reply <= needed + (1 << 16)


def test_a_sum_of_clients_has_no_more_weight_than_they_may_have():
    links = hw.chain(hw.Mean())
    promise = Promise.of(links, links.trace(hw.Flow()), 3)
    total = ExactTotal()
    for _ in range(2):
        total.add(Update.of(torch.ones(3), 5.0))
    promise.check_sum(total, "relay", 10)
    with pytest.raises(UpdateRejected, match="weight of its sum is 10, above its clients' 9 examples"):
        promise.check_sum(total, "relay", 9)
    total.weight.add(-20.0)
    with pytest.raises(UpdateRejected, match=r"'relay'.*weight of its sum is -10"):
        promise.check_sum(total, "relay", 9)
    bounded = hw.chain(hw.Weigh("uniform"), hw.Mean())
    promise = Promise.of(bounded, bounded.trace(hw.Flow()), 3)
    total.weight.add(12.5)
    with pytest.raises(UpdateRejected, match="promises at most 1 for each of its 2 clients"):
        promise.check_sum(total, "relay")
    total.weight.units, total.sums = 0, {"tau": ExactScalar(1 << 2200)}
    with pytest.raises(UpdateRejected, match="its sum 'tau' is inf"):
        promise.check_sum(total, "relay")

"""Stages for tests carry vectors that are not as long as the model, codes of few bits, and one client's update."""

from dataclasses import dataclass, replace
from typing import ClassVar

import pytest
import torch
from conformance.teststages import OnlyTheSum
from toys import blobs, linear_task

import headway as hw
from headway.core.errors import ConfigError, UpdateRejected
from headway.core.flow import VectorSpec
from headway.core.update import Rows, Update
from headway.protocol.wire import Expected, Frame, decode, encode, of_update, to_update
from headway.server.guard import Promise

SIZES = (12, 24, 17, 9, 30, 8)
SCALE = 2.0**12


def without(update: Update, name: str, delta: torch.Tensor) -> Update:
    """The update with this delta, and without a vector that only travelled."""
    vectors = {key: vector for key, vector in update.vectors.items() if key != name}
    return replace(update, vectors={**vectors, "delta": delta})


@dataclass(frozen=True)
class TopK(hw.Stage):
    """The largest numbers of the delta, and where they stand in 16 bits each."""

    place: ClassVar[hw.Place] = hw.Place.SPARSIFY
    share: float = 0.5

    def connect(self, flow):
        flow = flow.carry(self, "indices", spec=VectorSpec(self.share, "integer", bits=16))
        return flow.recode(self, delta=VectorSpec(self.share))

    def send(self, update, memory, ctx):
        count = VectorSpec(self.share).count(ctx.layout.size)
        indices = update.delta.abs().topk(count, dim=-1).indices
        return update.with_vectors(delta=update.delta.gather(-1, indices), indices=indices), memory

    def decode(self, update, ctx):
        whole = update.delta.new_zeros(*update.delta.shape[:-1], ctx.layout.size)
        return without(update, "indices", whole.scatter(-1, update.vectors["indices"], update.delta))


@dataclass(frozen=True)
class Ring(hw.Stage):
    """Reals as multiples of 2^-12 modulo 2^bits."""

    place: ClassVar[hw.Place] = hw.Place.QUANTISE
    bits: int = 20

    def connect(self, flow):
        return flow.recode(self, delta=replace(flow.spec("delta"), number="integer", bits=self.bits)).keep(
            self, "dense"
        )

    def send(self, update, memory, ctx):
        codes = torch.round(update.delta.double() * SCALE).to(torch.int64)
        return update.with_delta(codes & (2**self.bits - 1)), memory

    def decode(self, update, ctx):
        half = 2 ** (self.bits - 1)
        return update.with_delta(((update.delta + half) % (2 * half) - half).double() / SCALE)


@dataclass(frozen=True)
class LowRank(hw.Stage):
    """The delta, as a matrix of four columns with zeros at its end, as two factors of one column each."""

    place: ClassVar[hw.Place] = hw.Place.SPARSIFY
    rows: int = 4

    def connect(self, flow):
        flow = flow.carry(self, "right", spec=VectorSpec(4))
        return flow.recode(self, delta=VectorSpec(self.rows))

    def send(self, update, memory, ctx):
        size = self.rows * 4 - ctx.layout.size
        matrix = torch.nn.functional.pad(update.delta, (0, size)).unflatten(-1, (self.rows, 4))
        u, s, v = torch.linalg.svd(matrix, full_matrices=False)
        return update.with_vectors(delta=u[..., 0] * s[..., :1], right=v[..., 0, :]), memory

    def decode(self, update, ctx):
        matrix = update.delta.unsqueeze(-1) * update.vectors["right"].unsqueeze(-2)
        return without(update, "right", matrix.flatten(-2)[..., : ctx.layout.size])


@dataclass(frozen=True)
class Krum(hw.Aggregator):
    """The update that lies nearest to most others; remembers whose it was."""

    whole_cohort: ClassVar[bool] = True
    faulty: int = 1

    def connect(self, flow):
        return super().connect(flow).set(self, min_updates=2 * self.faulty + 3)

    def init(self, w):
        return {"chosen": torch.full((1,), -1.0)}

    def reduce(self, rows: Rows, state, ctx):
        joined = rows.joined().double()
        nearest = torch.cdist(joined, joined).square().sort(dim=1).values[:, 1 : len(rows.names) - self.faulty - 1]
        chosen = int(nearest.sum(1).argmin())
        assert rows.names == tuple(sorted(rows.names))
        assert ctx.counted == len(rows.names) == len(rows.weights)
        return rows.update(joined[chosen]), {"chosen": torch.tensor([float(chosen)])}


def trained(*stages, engine=None, rounds=2):
    mean = () if isinstance(stages[-1], hw.Aggregator) else (hw.Mean(),)
    algorithm = hw.Algorithm(hw.chain(*stages, *mean), hw.LocalSGD(lr=0.1, batch_size=4), hw.All())
    run = hw.Run(algorithm, blobs(SIZES), linear_task(), rounds=rounds, engine=engine)
    try:
        reports = list(run)
    finally:
        run.close()
    return run.state, reports


ENGINES = {
    "lanes": lambda: hw.LocalEngine(lanes=3),
    "workers": lambda: hw.ProcessEngine(2),
}
QUANTISED = (hw.Clip(0.5), hw.Quantize(24), OnlyTheSum(), hw.Mean("clients"))
CHAINS = {
    "sum": QUANTISED,
    "quantised": (hw.Clip(0.5), hw.Quantize(24)),
    "top-k": (TopK(),),
    "ring": (Ring(),),
    "both": (TopK(), Ring()),
    "low rank": (LowRank(),),
    "krum": (Krum(),),
}


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("name", CHAINS)
def test_engines_agree(engine, name):
    alone, reports = trained(*CHAINS[name])
    others, _ = trained(*CHAINS[name], engine=ENGINES[engine]())
    torch.testing.assert_close(others.params, alone.params, rtol=1e-4, atol=1e-5)
    assert all(report.count("counted") == len(SIZES) for report in reports)


def test_workers_add_integers_to_the_same_bits():
    alone = trained(*QUANTISED)[0]
    for engine in (hw.ProcessEngine(2, lanes=1), hw.ProcessEngine(3, lanes=1)):
        assert torch.equal(trained(*QUANTISED, engine=engine)[0].params, alone.params)


def test_a_sum_of_integers_is_the_sum_of_the_decoded_updates():
    summed, seen = trained(*QUANTISED)[0], trained(*QUANTISED[:2], hw.Mean("clients"))[0]
    torch.testing.assert_close(summed.params, seen.params, rtol=0, atol=1e-6)


def test_a_fine_ring_is_nearly_the_plain_mean():
    plain, coded = trained(hw.Mean())[0], trained(Ring())[0]
    assert not torch.equal(plain.params, coded.params)
    torch.testing.assert_close(coded.params, plain.params, rtol=0, atol=2 / SCALE)


def test_krum_takes_the_update_of_one_client_and_remembers_which():
    state, _ = trained(Krum(), rounds=1)
    assert 0 <= int(state.stages["Krum"]["chosen"]) < len(SIZES)
    with pytest.raises(hw.ChainRefused, match=r"at least 5 updates in a round \(Krum depends on it\)"):
        hw.Algorithm(hw.chain(Krum()), hw.LocalSGD(), hw.Uniform(count=4))


def bytes_up(*stages) -> int:
    _, reports = trained(*stages, rounds=1)
    return {client.bytes_up for client in reports[0].clients}.pop()


def test_bytes_are_those_of_what_is_encoded():
    size = 15
    plain, ring, pair = bytes_up(hw.Mean()), bytes_up(Ring()), bytes_up(TopK(0.5))
    assert plain - ring == 4 * size - (20 * size + 7) // 8
    head = 3 + 8 + len("v/indices")
    assert plain - pair == 4 * size - (4 * 7 + 2 * 7) - head


def test_codes_are_packed_on_the_wire_and_come_back_whole():
    packed, lengths = {"delta": 20}, {"delta": 1001}
    update = Update.of(torch.randint(0, 2**20, (1001,)), 3.0)
    tensors = of_update(update, packed)
    assert tensors["v/delta"].numel() == (20 * 1001 + 7) // 8
    message = Frame("update", 0, 0, 0, tensors)
    kinds = {name: (tensor.dtype, tuple(tensor.shape)) for name, tensor in tensors.items()}
    back = decode(encode(message), Expected("update", kinds, 0)).tensors
    assert torch.equal(to_update(back, packed, lengths).delta, update.delta)


@pytest.mark.parametrize("code", [-1, 2**20])
def test_a_code_of_more_bits_than_were_promised_is_refused_by_name(code):
    links = hw.chain(Ring(), hw.Mean())
    promise = Promise.of(links, links.trace(hw.Flow()), 3)
    good = Update.of(torch.tensor([0, 5, 2**20 - 1]), 1.0)
    promise.check(good, "client-0", 1)
    bad = Update.of(torch.tensor([0, code, 1]), 1.0)
    with pytest.raises(UpdateRejected, match="'delta' holds integers that do not fit in 20 bits"):
        promise.check(bad, "client-0", 1)
    both = Update(
        {"delta": torch.stack([good.delta, bad.delta])},
        torch.ones(2, dtype=torch.float64),
    )
    assert promise.check_lanes(both, torch.ones(2)) is None


@pytest.mark.parametrize("spec", [{"bits": 20}, {"number": "integer", "bits": 0}, {"number": "integer", "bits": 64}])
def test_bits_are_those_of_integers(spec):
    with pytest.raises(ConfigError, match=r"VectorSpec\.bits"):
        VectorSpec(None, **spec)

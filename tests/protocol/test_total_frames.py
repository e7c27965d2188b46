"""An exact sum arrives with its bits and its clients' reports, or is refused with a sentence."""

from __future__ import annotations

import json

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from headway.core.errors import FrameError
from headway.core.update import Update
from headway.protocol import wire
from headway.protocol.messages import SumReply
from headway.protocol.reports import ClientReport, Reports
from headway.protocol.sums import ExactTotal
from headway.protocol.total_frames import largest_sum, sum_from_tensors, sum_to_tensors
from headway.protocol.wire_messages import Binding, decode_reply, encode_reply

LENGTHS = {"delta": 5, "control": 5}
BINDING, MOST = Binding(3, 1, 2), 1 << 20
ROWS = [
    ClientReport("a", "counted", 3, 2, 0.5, 0.25, 100, 200, {"train_loss": 0.5, "weight": 3.0}),
    ClientReport("b\u00e9", "counted", 4, 2, float("nan"), 0.5, 100, 200, {"train_loss": float("inf")}),
    ClientReport("c", "rejected", reason="its weight is nan"),
    ClientReport("d", "dropped", bytes_down=200, reason="lost"),
]


def updates(count=2, scale=1.0):
    return [
        Update.of(torch.randn(5, dtype=torch.float64) * scale, 3.0, control=torch.randn(5)).with_sums(
            tau=torch.tensor(0.1)
        )
        for _ in range(count)
    ]


def total_of(terms):
    total = ExactTotal()
    for term in terms:
        total.add(term)
    return total


def reply(scale=1.0):
    return SumReply(total_of(updates(2, scale)), Reports.of(ROWS))


@pytest.mark.parametrize("scale", [1.0, 1e-300, 1e30])
def test_a_sum_merged_from_frames_has_the_bits_of_one(scale):
    terms = updates(6, scale)
    whole, merged = total_of(terms), ExactTotal()
    for part in (terms[:2], terms[2:4], terms[4:]):
        data = encode_reply(SumReply(total_of(part), Reports.of(ROWS)), BINDING)
        assert len(data) <= largest_sum(LENGTHS, 4)
        merged.merge(decode_reply(data, BINDING, MOST, {}, LENGTHS).total)
    one, other = whole.value(), merged.value()
    assert merged.count == 6
    for name in LENGTHS:
        assert torch.equal(one.vectors[name], other.vectors[name])
    assert torch.equal(one.weight, other.weight)
    assert torch.equal(one.sums["tau"], other.sums["tau"])


def test_reports_arrive_as_they_were_sent():
    found = decode_reply(encode_reply(reply(), BINDING), BINDING, MOST, {}, LENGTHS).reports
    assert repr(list(found)) == repr(ROWS)


def test_integers_of_a_ring_wrap_around_as_they_do_in_a_sum():
    total = ExactTotal()
    total.add(Update.of(torch.tensor([2**62, -5]), 1.0))
    back = sum_from_tensors(sum_to_tensors(SumReply(total, Reports.of(ROWS[:1]))), {"delta": 2})
    assert torch.equal(back.total.integers["delta"], total.integers["delta"])


def test_a_sum_of_no_clients_holds_none():
    back = sum_from_tensors(sum_to_tensors(SumReply(ExactTotal(), Reports.of(ROWS[2:]))), LENGTHS)
    assert (back.total.count, len(back.reports)) == (0, 2)
    with pytest.raises(FrameError, match="a sum of 0 updates must hold"):
        sum_from_tensors(
            {**sum_to_tensors(SumReply(ExactTotal(), Reports())), "i/delta": torch.zeros(5).long()}, LENGTHS
        )


def test_single_updates_are_not_sent_as_a_sum():
    total = ExactTotal()
    total.add_row("a", updates()[0])
    with pytest.raises(FrameError, match="keeps each client's update"):
        sum_to_tensors(SumReply(total, Reports.of(ROWS[:1])))


def other_reports(**changes):
    named = sum_to_tensors(reply())
    found = json.loads(bytes(named["reports"].tolist()))
    found.update(changes)
    return {"reports": torch.tensor(list(json.dumps(found).encode()), dtype=torch.uint8)}


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"b/0/delta": torch.zeros(4, dtype=torch.int8)}, "must be 5 whole numbers"),
        ({"b/0/delta": torch.zeros(5)}, "must be 5 whole numbers"),
        ({"b/0/delta": torch.full((5,), 2**40)}, "beyond 2"),
        ({"b/28/delta": torch.zeros(5, dtype=torch.int8)}, "bins go from"),
        ({"b/-35/delta": torch.zeros(5, dtype=torch.int8)}, "bins go from"),
        ({"b/x/delta": torch.zeros(5, dtype=torch.int8)}, "bins go from"),
        ({"b/0/other": torch.zeros(5, dtype=torch.int8)}, "'other' that the chain does not add"),
        ({"i/other": torch.zeros(5, dtype=torch.int8)}, "'other' that the chain does not add"),
        ({f"b/{k}/delta": torch.zeros(5, dtype=torch.int8) for k in range(-34, 27)}, "bins for 'delta', above"),
        ({"weight": torch.zeros(400, dtype=torch.uint8)}, "an exact number"),
        ({"u/tau": torch.tensor(1.0)}, "an exact number"),
        ({"count": torch.tensor(3)}, "a sum of 3 updates has reports on 2"),
        ({"count": torch.tensor(-1)}, "a sum must be of"),
        ({"what": torch.tensor(3)}, "'what', which no sum has"),
        ({"reports": torch.zeros(3, dtype=torch.uint8)}, "not what reports are"),
        (other_reports(statuses=["counted"] * 4), "reports on 4 clients"),
        (other_reports(statuses=["counted", "counted", "fine", "dropped"]), "holds 'fine'"),
        (other_reports(clients=["a", "a", "b", "c"]), "a client twice"),
        (other_reports(clients=[1, 2, 3, 4]), "holds 1"),
        (other_reports(examples=[1, 2]), "no column of 4"),
        (other_reports(examples=[-1, 2, 3, 4]), "holds -1"),
        (other_reports(bytes_up=[0.5, 2, 3, 4]), "holds 0.5"),
        (other_reports(metrics={"x": ["high", 1, 2, 3]}), "holds 'high'"),
        (other_reports(metrics={"a\nb": [1, 1, 2, 3]}), "metrics must be"),
        (other_reports(more=[]), "other columns"),
    ],
    ids=lambda each: each if isinstance(each, str) else "",
)
def test_what_is_no_sum_is_refused(changes, sentence):
    with pytest.raises(FrameError, match=sentence):
        sum_from_tensors({**sum_to_tensors(reply()), **changes}, LENGTHS)


@pytest.mark.parametrize("name", ["weight", "count", "reports"])
def test_a_sum_that_lacks_a_part_is_refused(name):
    named = sum_to_tensors(reply())
    del named[name]
    with pytest.raises(FrameError, match=f"lacks its {name}"):
        sum_from_tensors(named, LENGTHS)


TENSORS = st.builds(
    lambda dtype, shape, value: torch.full(shape, value, dtype=torch.float64).to(dtype),
    st.sampled_from(wire.DTYPES),
    st.lists(st.integers(0, 5), max_size=2).map(tuple),
    st.sampled_from([0.0, 1.0, -1.0, 2.5, 1e30, float("nan")]),
)
NAMES = ["b/0/delta", "b/-1/delta", "b//delta", "b/0", "i/delta", "u/tau", "u/", "weight", "count", "reports", ""]


@given(st.dictionaries(st.sampled_from(NAMES), TENSORS, max_size=4), st.booleans())
@settings(max_examples=300)
def test_tensors_of_any_kind_are_a_sum_or_refused(tensors, whole):
    named = {**(sum_to_tensors(reply()) if whole else {}), **tensors}
    try:
        found = decode_reply(wire.encode(wire.Frame("sum", 3, 1, 2, named)), BINDING, MOST, {}, LENGTHS)
    except FrameError as error:
        found = error
    assert isinstance(found, SumReply) or str(found).endswith(".")


def masked(count=3, bits=23):
    total = ExactTotal()
    for _ in range(count):
        total.add(Update({"delta": torch.randint(2**bits, (500,))}, torch.zeros(())))
    return SumReply(total, Reports(list("abc")[:count], "counted"))


@pytest.mark.parametrize("bits", [3, 23, 32, 62])
def test_a_sum_modulo_a_power_of_two_takes_as_many_bits_as_one_vector(bits):
    made, modulo, lengths = masked(3, bits), {"delta": bits}, {"delta": 500}
    data = encode_reply(made, BINDING, modulo)
    assert len(data) < 500 * bits / 8 + 600
    back = decode_reply(data, BINDING, MOST, modulo, lengths)
    wanted = made.total.integers["delta"] & (2**bits - 1)
    assert torch.equal(back.total.integers["delta"], wanted)
    for other in ({}, {"delta": bits + 9}):
        with pytest.raises(FrameError, match="'delta' of a sum must be"):
            decode_reply(data, BINDING, MOST, other, lengths)

"""Every request and reply survives the wire, and bytes that are none are refused with a sentence."""

from __future__ import annotations

import hashlib
from dataclasses import fields

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from headway.core.errors import FrameError
from headway.core.update import Update
from headway.protocol import wire
from headway.protocol.messages import (
    Declined,
    Evaluate,
    Exchange,
    ExchangeReply,
    Measure,
    Message,
    Reply,
    Request,
    Scores,
    Settle,
    Settled,
    Train,
    UpdateReply,
)
from headway.protocol.wire_files import WrittenFrame
from headway.protocol.wire_messages import (
    Binding,
    decode_reply,
    decode_request,
    encode_reply,
    encode_request,
    read_reply,
    read_request,
    write_reply,
    write_request,
)

MOST = 10_000
ONE, NAN = torch.tensor(1.0), torch.tensor(float("nan"))
BINDING = Binding(5, 1, 2)
MESSAGE = Message(torch.randn(4), {"Scaffold": {"variate": torch.randn(4)}}, torch.randn(2))
PRIVATE = {"share": torch.tensor([3, 4])}
REQUESTS = [
    Train(MESSAGE, 5, 1, PRIVATE, steps=7),
    Train(MESSAGE, 5, 1),
    Evaluate(Message(torch.randn(3, dtype=torch.float64)), 5, 1),
    Measure(MESSAGE, 5, 1),
    Exchange(MESSAGE, 5, 1, PRIVATE, name="advertise é"),
    Settle(round=5, attempt=1, counted=False),
    Settle(round=5, attempt=1),
]
REPLIES = [
    UpdateReply(Update.of(torch.randn(4), 3.0, control=torch.randn(4)).with_sums(tau=torch.tensor(2.0))),
    UpdateReply(Update.of(torch.randn(4), 3.0), {"examples": 3.0, "steps": 2.0, "train_loss": float("nan")}),
    Scores({"accuracy": 0.25, "loss": 1.5}, 8),
    Scores({}, 0),
    ExchangeReply({"public": torch.tensor([1, 2])}),
    Declined("rejected", "its local training ended with NaN"),
    Declined("dropped", ""),
    Settled(),
]


def same(one, other):
    if isinstance(one, torch.Tensor):
        return torch.equal(one, other) and one.dtype == other.dtype
    if isinstance(one, (Request, Reply, Message, Update)):
        own = type(one) is type(other)
        return own and all(same(getattr(one, each.name), getattr(other, each.name)) for each in fields(one))
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(value, other[name]) for name, value in one.items())
    return one == other or (one != one and other != other)


@pytest.mark.parametrize("request_", REQUESTS, ids=lambda each: type(each).__name__)
def test_a_request_arrives_as_it_was_sent(request_) -> None:
    received, binding = decode_request(encode_request(request_, 2), MOST)
    assert same(request_, received)
    assert binding == BINDING


@pytest.mark.parametrize("reply", REPLIES, ids=lambda each: type(each).__name__)
def test_a_reply_arrives_as_it_was_sent(reply) -> None:
    assert same(reply, decode_reply(encode_reply(reply, BINDING), BINDING, MOST))


def test_a_reply_to_another_request_is_refused() -> None:
    data = encode_reply(Settled(), BINDING)
    for other in (Binding(4, 1, 2), Binding(5, 0, 2), Binding(5, 1, 3)):
        with pytest.raises(FrameError, match="was expected, found one to"):
            decode_reply(data, other, MOST)


def test_a_request_is_no_reply_and_a_reply_no_request() -> None:
    with pytest.raises(FrameError, match="a request was expected, found a settled message"):
        decode_request(encode_reply(Settled(), BINDING), MOST)
    with pytest.raises(FrameError, match="a reply was expected, found a train message"):
        decode_reply(encode_request(REQUESTS[0], 2), BINDING, MOST)


@pytest.mark.parametrize("kind", ["train", "exchange", "settle", "measure"])
def test_a_request_that_lacks_a_tensor_is_refused(kind) -> None:
    with pytest.raises(FrameError, match=f"a {kind} request lacks a tensor"):
        decode_request(wire.encode(wire.Frame(kind, 1, 0, 0, {})), MOST)


@pytest.mark.parametrize("kind", ["update", "scores", "declined"])
def test_a_reply_that_lacks_a_tensor_is_refused(kind) -> None:
    with pytest.raises(FrameError, match=f"a {kind} reply lacks a tensor"):
        decode_reply(wire.encode(wire.Frame(kind, 5, 1, 2, {})), BINDING, MOST)


def test_a_message_longer_than_a_receiver_allows_is_refused_unread() -> None:
    with pytest.raises(FrameError, match="at most 20 bytes was expected"):
        decode_request(encode_request(REQUESTS[0]), 20)


def test_every_flipped_byte_and_every_truncation_is_refused() -> None:
    data = encode_request(REQUESTS[0])
    for place in range(len(data)):
        with pytest.raises(FrameError):
            decode_request(data[:place], MOST)
        with pytest.raises(FrameError):
            decode_request(data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :], MOST)


def forged(change) -> bytes:
    """A message whose checksum is right and whose heads were changed."""
    body = bytearray(wire.encode(wire.Frame("settled", 0, 0, 0, {"x": torch.zeros(2)}))[: -wire.CHECKSUM])
    change(body)
    return bytes(body) + hashlib.blake2b(bytes(body), digest_size=wire.CHECKSUM).digest()


HEAD = wire._HEADER.size


@pytest.mark.parametrize(
    ("place", "value", "reason"),
    [
        (HEAD, 200, "heads of a message are cut short|announce"),  # the length of a name
        (HEAD + 1, 99, "number type 99"),
        (HEAD + 2, 9, "9 dimensions"),
        (HEAD + 3, 255, "announce"),
        (HEAD + 10, 255, "a dimension above"),
        (6, 200, "cut short|number type|dimensions"),  # the number of buffers
        (5, 77, "kind 77"),
        (20, 200, "announced"),  # the length of the payload
    ],
)
def test_heads_that_lie_are_refused_before_a_tensor_is_made(monkeypatch, place, value, reason) -> None:
    monkeypatch.setattr(torch, "frombuffer", lambda *_, **__: pytest.fail("a tensor was made"))
    with pytest.raises(FrameError, match=reason):
        wire.read(forged(lambda body: body.__setitem__(place, value)), MOST)


NAMES = [
    "v/delta",
    "s/tau",
    "weight",
    "f/examples",
    "f/train_loss",
    "f/",
    "f/a\nb",
    "o/examples",
    "o/status",
    "o/reason",
]
NAMES += ["m/params", "m/stages", "m/a/b", "o/steps", "o/name", "o/counted", "p/share", "", "other"]
TENSORS = st.builds(
    lambda dtype, shape, value: torch.full(shape, value, dtype=torch.float64).to(dtype),
    st.sampled_from(wire.DTYPES),
    st.lists(st.integers(0, 3), max_size=3).map(tuple),
    st.sampled_from([0.0, 1.0, -1.0, 2.5, 300.0, 1e30, float("nan"), float("inf")]),
)


@given(st.sampled_from(wire.KINDS), st.dictionaries(st.sampled_from(NAMES), TENSORS, max_size=5))
@settings(max_examples=500)
def test_tensors_of_any_kind_are_a_message_or_refused_with_a_sentence(kind, tensors):
    data = wire.encode(wire.Frame(kind, 5, 1, 2, tensors))
    for read in (lambda: decode_reply(data, BINDING, MOST), lambda: decode_request(data, MOST)):
        try:
            found = read()
        except FrameError as error:
            found = error
        assert isinstance(found, (Reply, tuple)) or str(found).endswith(".")


@pytest.mark.parametrize(
    ("kind", "tensors", "sentence"),
    [
        ("update", {"v/delta": torch.zeros(4), "weight": torch.ones(2)}, "'weight' has the shape"),
        ("update", {"v/delta": torch.zeros(4), "weight": torch.tensor(1.0), "s/tau": torch.ones(4)}, "'tau' has"),
        (
            "update",
            {"v/delta": torch.zeros(4), "weight": torch.tensor(1.0), "f/examples": NAN},
            "nan is not a number of",
        ),
        ("update", {"v/delta": torch.zeros(4), "weight": torch.tensor(1.0), "f/steps": -ONE}, "-1 is not a number of"),
        (
            "update",
            {"v/delta": torch.zeros(4), "weight": torch.tensor(1.0), "f/status": ONE},
            "no figure of a training",
        ),
        ("scores", {"o/examples": torch.tensor(-3)}, "-3 is not a number of examples"),
        ("scores", {"o/examples": torch.tensor(3), "f/<b>\n": ONE}, "not the name of a metric"),
        ("declined", {"o/status": torch.tensor(float("inf")), "o/reason": torch.zeros(1)}, "inf is not"),
        ("declined", {"o/status": torch.tensor(0), "o/reason": torch.zeros(2, 2)}, "another kind"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_is_no_reply_of_one_client_is_refused(kind, tensors, sentence):
    with pytest.raises(FrameError, match=sentence):
        decode_reply(wire.encode(wire.Frame(kind, 5, 1, 2, tensors)), BINDING, MOST)


def test_an_update_of_few_bits_travels_in_few_bits() -> None:
    update = Update.of(torch.randint(0, 1 << 20, (1001,)), 3.0, extra=torch.randn(4))
    packed, lengths = {"delta": 20}, {"delta": 1001, "extra": 4}
    plain, few = encode_reply(UpdateReply(update), BINDING), encode_reply(UpdateReply(update), BINDING, packed)
    assert len(plain) - len(few) == 8 * 1001 - (20 * 1001 + 7) // 8
    assert same(UpdateReply(update), decode_reply(few, BINDING, MOST, packed, lengths))


@pytest.mark.parametrize("lengths", [{"delta": 9}, {"delta": 1 << 60}])
def test_packed_bytes_of_another_length_are_refused_before_they_are_unpacked(lengths) -> None:
    data = encode_reply(UpdateReply(Update.of(torch.arange(10))), BINDING, {"delta": 20})
    with pytest.raises(FrameError, match=r"'delta' must be .* bytes"):
        decode_reply(data, BINDING, MOST, {"delta": 20}, lengths)
    with pytest.raises(FrameError, match=r"'delta' must be 25 bytes.*found torch\.int64"):
        decode_reply(
            encode_reply(UpdateReply(Update.of(torch.arange(10))), BINDING), BINDING, MOST, {"delta": 20}, {"delta": 10}
        )


@pytest.mark.parametrize("code", [-1, 1 << 20])
def test_a_code_that_does_not_fit_is_declined_and_never_wraps_around(code) -> None:
    data = encode_reply(UpdateReply(Update.of(torch.tensor([1, code]))), BINDING, {"delta": 20})
    reply = decode_reply(data, BINDING, MOST, {"delta": 20}, {"delta": 2})
    assert reply == Declined("rejected", "'delta' holds integers that do not fit in 20 bits")


@pytest.mark.parametrize("request_", REQUESTS, ids=lambda each: type(each).__name__)
def test_a_request_in_a_file(tmp_path, request_) -> None:
    with (tmp_path / "request").open("wb") as file:
        written = write_request(file, request_, 2)
    data = (tmp_path / "request").read_bytes()
    assert data == encode_request(request_, 2)
    assert written == WrittenFrame(len(data), hashlib.sha256(data).hexdigest())
    received, binding = read_request(tmp_path / "request", MOST)
    assert same(request_, received)
    assert binding == BINDING


@pytest.mark.parametrize("reply", REPLIES, ids=lambda each: type(each).__name__)
def test_a_reply_in_a_file(tmp_path, reply) -> None:
    with (tmp_path / "reply").open("wb") as file:
        write_reply(file, reply, BINDING)
    assert (tmp_path / "reply").read_bytes() == encode_reply(reply, BINDING)
    assert same(reply, read_reply(tmp_path / "reply", BINDING, MOST))
    with pytest.raises(FrameError, match="was expected, found one to"):
        read_reply(tmp_path / "reply", Binding(6, 1, 2), MOST)

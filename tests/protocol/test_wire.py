"""A message is exactly the one that was expected, or nothing of it is used."""

import hashlib
import struct

import pytest
import torch

from headway.core.errors import FrameError
from headway.core.update import Update
from headway.protocol import wire as frame
from headway.protocol.wire import DTYPES, Expected, Frame, decode, encode, expected_size, of_update, size, to_update


def expected_of(message: Frame) -> Expected:
    tensors = {name: (tensor.dtype, tuple(tensor.shape)) for name, tensor in message.tensors.items()}
    return Expected(message.kind, tensors, message.round, message.attempt, message.ask)


def sealed(body: bytes) -> bytes:
    """Bytes with a valid checksum, as a liar would send them."""
    return body + hashlib.blake2b(body, digest_size=frame.CHECKSUM).digest()


SMALL = Frame("update", 3, 1, 2, {"v/delta": torch.tensor([1.5, -2.0]), "weight": torch.tensor(7.0).double()})


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(), (0,), (1,), (2, 3), (4, 0, 2)])
def test_every_dtype_and_shape_survives(dtype, shape) -> None:
    tensor = (torch.arange(6).reshape(2, 3).to(dtype) if shape == (2, 3) else torch.ones(shape)).to(dtype)
    message = Frame("reply", 2**32 - 1, 0, 9, {"x": tensor, "naïve": tensor.clone()})
    data = encode(message)
    back = decode(data, expected_of(message))
    assert (back.kind, back.round, back.attempt, back.ask) == ("reply", 2**32 - 1, 0, 9)
    for name in message.tensors:
        assert back.tensors[name].dtype == dtype
        assert back.tensors[name].shape == shape
        assert torch.equal(back.tensors[name], tensor)
    assert len(data) == size(message.tensors) == expected_size(expected_of(message))


def test_not_a_number_and_views_survive_bit_for_bit() -> None:
    strided = torch.tensor([[1.0, float("nan")], [-0.0, float("inf")]]).T
    message = Frame("update", 0, 0, 0, {"x": strided})
    back = decode(encode(message), expected_of(message)).tensors["x"]
    assert torch.equal(back.view(torch.int32), strided.contiguous().view(torch.int32))


def test_decoded_tensors_are_copies_that_may_be_changed() -> None:
    data = bytearray(encode(SMALL))
    tensors = decode(data, expected_of(SMALL)).tensors
    tensors["v/delta"] += 1
    assert torch.equal(decode(data, expected_of(SMALL)).tensors["v/delta"], torch.tensor([1.5, -2.0]))


def test_every_flipped_byte_is_refused() -> None:
    data = encode(SMALL)
    for position in range(len(data)):
        for flip in (0x01, 0x80, 0xFF):
            damaged = bytearray(data)
            damaged[position] ^= flip
            with pytest.raises(FrameError):
                decode(damaged, expected_of(SMALL))


def test_every_truncation_and_every_extension_is_refused() -> None:
    data = encode(SMALL)
    for length in range(len(data)):
        with pytest.raises(FrameError, match="bytes was expected"):
            decode(data[:length], expected_of(SMALL))
    with pytest.raises(FrameError, match="bytes was expected"):
        decode(data + b"\0", expected_of(SMALL))


DELTA = torch.tensor([1.5, -2.0])
WEIGHT = torch.tensor(7.0).double()
OTHER = {
    "kind must be update, found reply": Frame("reply", 3, 1, 2, SMALL.tensors),
    "round must be 3, found 4": Frame("update", 4, 1, 2, SMALL.tensors),
    "attempt must be 1, found 0": Frame("update", 3, 0, 2, SMALL.tensors),
    "ask must be 2, found 5": Frame("update", 3, 1, 5, SMALL.tensors),
    "'v/delta' as torch.float32": Frame("update", 3, 1, 2, {"v/delta": DELTA.int(), "weight": WEIGHT}),
    "'v/delta' as": Frame("update", 3, 1, 2, {"v/Delta": DELTA, "weight": WEIGHT}),
    "must hold 'v/delta'": Frame("update", 3, 1, 2, {"weight": WEIGHT, "v/delta": DELTA}),
    "bytes was expected": Frame("update", 3, 1, 2, {"v/delta": torch.ones(3), "weight": WEIGHT}),
    r"shape \(2,\) here": Frame("update", 3, 1, 2, {"v/delta": torch.ones(4).half(), "weight": WEIGHT}),
}


@pytest.mark.parametrize("reason", OTHER)
def test_a_message_that_is_not_the_expected_one_is_refused(reason) -> None:
    with pytest.raises(FrameError, match=reason):
        decode(encode(OTHER[reason]), expected_of(SMALL))


def test_another_version_or_magic_is_refused_although_its_checksum_is_right() -> None:
    body = encode(SMALL)[: -frame.CHECKSUM]
    for liar in (b"HTTP" + body[4:], body[:4] + b"\x02" + body[5:]):
        with pytest.raises(FrameError, match="frame of version 1"):
            decode(sealed(liar), expected_of(SMALL))


@pytest.mark.parametrize(
    ("where", "code", "lie"),
    [(5, "<B", 200), (6, "<H", 65535), (20, "<Q", 2**63), (31, "<Q", 2**60), (30, "<B", 255)],
    ids=["kind", "buffers", "payload length", "dimension", "dimensions"],
)
def test_a_lying_header_is_refused_before_anything_is_allocated(monkeypatch, where, code, lie) -> None:
    body = bytearray(encode(SMALL)[: -frame.CHECKSUM])
    struct.pack_into(code, body, where, lie)
    made = []
    monkeypatch.setattr(frame.torch, "frombuffer", lambda *given, **options: made.append(given))
    with pytest.raises(FrameError):
        decode(sealed(bytes(body)), expected_of(SMALL))
    assert not made


@pytest.mark.parametrize(
    "tensors",
    [{"x": torch.tensor([1j])}, {"x" * 256: torch.ones(1)}, {"x": torch.ones([1] * 9)}, {"x": torch.tensor(True)}],
    ids=["complex", "long name", "nine dimensions", "boolean"],
)
def test_what_has_no_code_is_not_sent(tensors) -> None:
    with pytest.raises(FrameError, match="cannot be sent"):
        encode(Frame("update", 0, 0, 0, tensors))


def test_an_update_goes_over_the_wire_and_back() -> None:
    update = Update.of(torch.ones(3), 2.0, control=torch.zeros(3)).with_sums(a=torch.tensor(0.5))
    back = to_update(of_update(update))
    assert of_update(back).keys() == of_update(update).keys()
    assert all(torch.equal(of_update(back)[name], tensor) for name, tensor in of_update(update).items())

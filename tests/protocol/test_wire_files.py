"""A message in a file is the bytes of `wire.encode`, is never copied whole, and is checked before it is used."""

import hashlib
import io
import tracemalloc

import pytest
import torch

from headway.core.errors import FrameError
from headway.protocol import wire, wire_files
from headway.protocol.wire_files import read_frame, write_frame

FRAME = wire.Frame(
    "update",
    3,
    1,
    2,
    {
        "v/delta": torch.randn(301),
        "odd": torch.tensor([1, 2, 3], dtype=torch.uint8),
        "v/wide": torch.randn(40, 3, dtype=torch.float64).T,
        "none": torch.empty(0, dtype=torch.int16),
        "half": torch.randn(5).to(torch.bfloat16),
        "weight": torch.tensor(7.0).double(),
    },
)


@pytest.fixture
def path(tmp_path, monkeypatch):
    monkeypatch.setattr(wire_files, "PIECE", 100)
    with (tmp_path / "frame").open("wb") as file:
        write_frame(file, FRAME)
    return tmp_path / "frame"


def same(one, other) -> bool:
    assert (one.kind, one.round, one.attempt, one.ask) == (other.kind, other.round, other.attempt, other.ask)
    assert list(one.tensors) == list(other.tensors)
    return all(
        torch.equal(tensor, other.tensors[name]) and tensor.dtype == other.tensors[name].dtype
        for name, tensor in one.tensors.items()
    )


def test_the_bytes_are_those_of_a_message_in_memory() -> None:
    file = io.BytesIO()
    written = write_frame(file, FRAME)
    assert file.getvalue() == wire.encode(FRAME)
    assert written.size == len(file.getvalue())
    assert written.digest == hashlib.sha256(file.getvalue()).hexdigest()


@pytest.mark.parametrize("mapped", [0, 1000, 1 << 30])
@pytest.mark.parametrize("checked", [False, True])
def test_a_message_is_read_as_it_was_written(path, mapped, checked) -> None:
    before = path.read_bytes()
    found = read_frame(path, 1 << 20, checked=checked, mapped=mapped)
    assert same(found, FRAME)
    found.tensors["v/delta"].mul_(2)  # a copy, or a private page: never the file
    assert path.read_bytes() == before


def test_sums_of_a_mapped_tensor_that_is_not_aligned_are_those_of_a_copy(tmp_path) -> None:
    vector = torch.randn(10_001)
    for name in ("a", "ab", "abc", "abcd"):  # each shifts the buffer by a byte
        with (tmp_path / name).open("wb") as file:
            write_frame(file, wire.Frame("update", 0, 0, 0, {name: vector}))
        held = read_frame(tmp_path / name, 1 << 20, mapped=0).tensors[name]
        assert torch.equal(held.double() * 3.0, vector.double() * 3.0)
        assert torch.equal(torch.zeros(10_001, dtype=torch.float64).add_(held), vector.double())


def test_every_flipped_byte_and_every_truncation_is_refused(path) -> None:
    data = path.read_bytes()
    for place in range(0, len(data), 7):
        path.write_bytes(data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :])
        with pytest.raises(FrameError):
            read_frame(path, 1 << 20)
        path.write_bytes(data[:place])
        with pytest.raises(FrameError):
            read_frame(path, 1 << 20)


def test_a_message_longer_than_a_receiver_allows_is_refused_unread(path, monkeypatch) -> None:
    monkeypatch.setattr(wire_files.mmap, "mmap", lambda *_, **__: pytest.fail("the file was mapped"))
    with pytest.raises(FrameError, match="at most 100 bytes was expected"):
        read_frame(path, 100)


def test_heads_that_lie_are_refused_before_a_tensor_is_made(path, monkeypatch) -> None:
    body = bytearray(path.read_bytes()[: -wire.CHECKSUM])
    body[wire.HEADER_SIZE + 3] ^= 0xFF  # the length of the first buffer
    path.write_bytes(bytes(body) + hashlib.blake2b(bytes(body), digest_size=wire.CHECKSUM).digest())
    monkeypatch.setattr(torch, "frombuffer", lambda *_, **__: pytest.fail("a tensor was made"))
    with pytest.raises(FrameError, match="announce"):
        read_frame(path, 1 << 20)


def test_a_large_message_is_never_in_memory_twice(tmp_path) -> None:
    frame = wire.Frame("update", 0, 0, 0, {"v/delta": torch.ones(1 << 23)})  # 32 MiB, held by torch
    tracemalloc.start()
    with (tmp_path / "frame").open("wb") as file:
        write_frame(file, frame)
    found = read_frame(tmp_path / "frame", 1 << 26, mapped=1 << 20)
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert most < 3 * wire_files.PIECE
    assert torch.equal(found.tensors["v/delta"], frame.tensors["v/delta"])

"""Messages of `wire` in files: written and read in pieces, so that a message may be larger than main memory.

The bytes are those of `wire.encode`.
"""

from __future__ import annotations

import hashlib
import mmap
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import BinaryIO

import torch
from torch import Tensor

from headway.core.errors import FrameError
from headway.protocol import wire
from headway.protocol.wire import CHECKSUM, Frame, Spec

PIECE = 4 << 20  # bytes that are written, hashed or compared at a time
MAPPED = 1 << 26  # bytes of a tensor from which it stays in its file instead of being copied into memory


@dataclass(frozen=True, slots=True)
class WrittenFrame:
    """A message in a file: how many bytes it has, and their SHA-256 in hexadecimal."""

    size: int
    digest: str


def write_frame(file: BinaryIO, frame: Frame) -> WrittenFrame:
    """Writes a message to an open file, without a second copy of its tensors in memory.

    Raises:
        FrameError: for a tensor of a kind that has no code, or a name over 255 bytes; nothing is written then.
    """
    body, whole, size = hashlib.blake2b(digest_size=CHECKSUM), hashlib.sha256(), 0
    for piece in _pieces_of(frame):
        body.update(piece)
        whole.update(piece)
        file.write(piece)
        size += len(piece)
    checksum = body.digest()
    whole.update(checksum)
    file.write(checksum)
    return WrittenFrame(size + CHECKSUM, whole.hexdigest())


def read_frame(path: Path, most: int, *, checked: bool = False, mapped: int = MAPPED) -> Frame:
    """The message in a file; large tensors are mapped into memory, and changes of them do not reach the file.

    The order is that of `wire.read`: size, header, checksum (a piece at a time), the sizes in the heads, tensors.

    most: the largest number of bytes that the message may have.  checked: whether the file's bytes have been compared
    with a digest before, so that the checksum is left out.  mapped: the bytes from which a tensor is mapped; smaller
    ones are copied.

    Raises:
        FrameError: for a message that is too long, damaged, of another version or kind, or whose sizes do not agree.
    """
    with path.open("rb") as file:
        length = os.fstat(file.fileno()).st_size
        wire.check_size(length, most)
        if not checked:
            _check(file, length)
        view = memoryview(mmap.mmap(file.fileno(), length, access=mmap.ACCESS_COPY))
    if len(view) != length:
        raise FrameError(f"the file of a message had {length} bytes, and {len(view)} a moment later.")
    contents = wire.contents_of(view)
    specs, position = wire.specs_of(view, contents, most)
    tensors = _tensors(view, position, specs, mapped)
    return Frame(contents.kind, contents.round, contents.attempt, contents.ask, tensors)


def _pieces_of(frame: Frame) -> Iterator[bytes | memoryview]:
    """The bytes of a message but for the checksum."""
    yield wire.head_of(frame)
    for tensor in frame.tensors.values():
        view = wire.raw(tensor)
        for start in range(0, len(view), PIECE):
            yield view[start : start + PIECE]


def _check(file: BinaryIO, length: int) -> None:
    """Compares the checksum with the bytes before it."""
    header = file.read(wire.HEADER_SIZE)
    wire.contents_of(header)
    body, left = hashlib.blake2b(header, digest_size=CHECKSUM), length - len(header) - CHECKSUM
    while left:
        piece = file.read(min(PIECE, left))
        if not piece:
            raise FrameError("the file of a message became shorter while it was read.")
        body.update(piece)
        left -= len(piece)
    wire.check_sum(body.digest(), file.read(CHECKSUM))


def _tensors(view: memoryview, position: int, specs: Mapping[str, Spec], mapped: int) -> dict[str, Tensor]:
    """The tensors that lie one after another from this place on: large ones mapped, the others copied."""
    tensors: dict[str, Tensor] = {}
    for name, (dtype, shape) in specs.items():
        count = prod(shape)
        length = count * dtype.itemsize
        if not length:
            flat = torch.empty(0, dtype=dtype)
        elif length >= mapped:
            flat = torch.frombuffer(view, dtype=dtype, count=count, offset=position)
        else:
            flat = torch.frombuffer(bytearray(view[position : position + length]), dtype=dtype)
        tensors[name] = flat.reshape(shape)
        position += length
    return tensors

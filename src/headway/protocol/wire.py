"""The bytes of a message: a fixed header, named raw buffers, a checksum.

    message := magic 4s | version u8 | kind u8 | buffers u16 | round u32 | attempt u32 | ask u32
               | payload length u64
               | for each buffer: name length u8 | dtype u8 | dimensions u8 | dims u64 ... | name
               | the buffers' bytes, little-endian, in the same order
               | BLAKE2b-128 of all that precedes

There is no object in it, no class name and no code.  Sizes are checked against what the receiver expects
before anything is allocated.  This is the one place where bytes are counted.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod

import torch
from torch import Tensor

from headway.core.errors import FrameError
from headway.core.update import Update

MAGIC = b"HWAY"
VERSION = 1
CHECKSUM = 16
KINDS = ("update", "message", "reply")
DTYPES = (
    torch.float32,
    torch.float64,
    torch.float16,
    torch.bfloat16,
    torch.int8,
    torch.uint8,
    torch.int16,
    torch.int32,
    torch.int64,
)
_HEADER = struct.Struct("<4sBBHIIIQ")
_MAX_DIMS = 8


@dataclass(frozen=True, slots=True)
class Frame:
    """A decoded message: what it is, what it belongs to, its named tensors."""

    kind: str
    round: int
    attempt: int
    ask: int
    tensors: Mapping[str, Tensor]


@dataclass(frozen=True, slots=True)
class Expected:
    """What a receiver is prepared to read: each tensor's dtype and shape, and what the message belongs to."""

    kind: str
    tensors: Mapping[str, tuple[torch.dtype, tuple[int, ...]]]
    round: int
    attempt: int = 0
    ask: int = 0


def of_update(update: Update) -> dict[str, Tensor]:
    """An update's tensors under the names that they have on the wire."""
    named = {f"v/{name}": vector for name, vector in update.vectors.items()}
    named |= {f"s/{name}": number for name, number in update.sums.items()}
    return named | {"weight": update.weight}


def to_update(tensors: Mapping[str, Tensor]) -> Update:
    """The update of tensors named by `of_update`."""
    vectors = {name[2:]: tensor for name, tensor in tensors.items() if name.startswith("v/")}
    sums = {name[2:]: tensor for name, tensor in tensors.items() if name.startswith("s/")}
    return Update(vectors, tensors["weight"], sums)


def size(tensors: Mapping[str, Tensor]) -> int:
    """How many bytes `encode` makes of these tensors, without making them."""
    heads = sum(3 + 8 * tensor.ndim + len(name.encode()) for name, tensor in tensors.items())
    return _HEADER.size + heads + sum(t.numel() * t.element_size() for t in tensors.values()) + CHECKSUM


def encode(frame: Frame) -> bytes:
    """The bytes of a message.

    Raises:
        FrameError: for a tensor of a kind that has no code, or a name over 255 bytes.
    """
    heads, buffers = [], []
    for name, tensor in frame.tensors.items():
        raw = name.encode()
        if tensor.dtype not in DTYPES or tensor.ndim > _MAX_DIMS or len(raw) > 255:
            raise FrameError(f"tensor {name!r} ({tensor.dtype}, {tensor.ndim} dimensions) cannot be sent.")
        heads.append(struct.pack("<BBB", len(raw), DTYPES.index(tensor.dtype), tensor.ndim))
        heads.append(struct.pack(f"<{tensor.ndim}Q", *tensor.shape) + raw)
        flat = tensor.detach().cpu().contiguous().reshape(-1)
        buffers.append(flat.view(torch.uint8).numpy().tobytes() if flat.numel() else b"")
    payload = b"".join(heads) + b"".join(buffers)
    kind = KINDS.index(frame.kind)
    header = _HEADER.pack(MAGIC, VERSION, kind, len(frame.tensors), frame.round, frame.attempt, frame.ask, len(payload))
    body = header + payload
    return body + hashlib.blake2b(body, digest_size=CHECKSUM).digest()


def decode(data: bytes | bytearray | memoryview, expected: Expected) -> Frame:
    """The message in these bytes, if it is exactly the one expected; its tensors are fresh copies.

    Raises:
        FrameError: naming what differs: size, magic, version, checksum, kind, round, attempt, ask, a tensor's
            name, dtype or shape.
    """
    view = memoryview(data)
    wanted = expected_size(expected)
    if len(view) != wanted:
        raise FrameError(f"a message of {wanted} bytes was expected, found {len(view)}.")
    body, checksum = view[:-CHECKSUM], bytes(view[-CHECKSUM:])
    magic, version, kind, count, round_, attempt, ask, length = _HEADER.unpack_from(body)
    if magic != MAGIC or version != VERSION:
        raise FrameError(f"a frame of version {VERSION} was expected, found magic {magic!r}, version {version}.")
    if hashlib.blake2b(body, digest_size=CHECKSUM).digest() != checksum:
        raise FrameError("the checksum does not match: the message was damaged on its way.")
    found = (KINDS[kind] if kind < len(KINDS) else f"kind {kind}", round_, attempt, ask, count, length)
    want = (
        expected.kind,
        expected.round,
        expected.attempt,
        expected.ask,
        len(expected.tensors),
        wanted - _HEADER.size - CHECKSUM,
    )
    for name, a, b in zip(("kind", "round", "attempt", "ask", "buffer count", "length"), want, found, strict=True):
        if a != b:
            raise FrameError(f"the message's {name} must be {a}, found {b}.")
    return Frame(expected.kind, round_, attempt, ask, _read_tensors(body[_HEADER.size :], expected))


def expected_size(expected: Expected) -> int:
    """How many bytes the expected message has."""
    meta = {name: torch.empty(shape, dtype=dtype, device="meta") for name, (dtype, shape) in expected.tensors.items()}
    return size(meta)


def _read_tensors(payload: memoryview, expected: Expected) -> dict[str, Tensor]:
    position = 0
    for name, (dtype, shape) in expected.tensors.items():
        raw = name.encode()
        head = struct.pack("<BBB", len(raw), DTYPES.index(dtype), len(shape)) + struct.pack(f"<{len(shape)}Q", *shape)
        if bytes(payload[position : position + len(head) + len(raw)]) != head + raw:
            raise FrameError(f"the message must hold {name!r} as {dtype} of shape {shape} here, and does not.")
        position += len(head) + len(raw)
    tensors: dict[str, Tensor] = {}
    for name, (dtype, shape) in expected.tensors.items():
        length = prod(shape) * dtype.itemsize
        chunk = bytearray(payload[position : position + length])
        tensors[name] = (torch.frombuffer(chunk, dtype=dtype) if length else torch.empty(0, dtype=dtype)).reshape(shape)
        position += length
    return tensors

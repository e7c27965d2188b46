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
from types import MappingProxyType

import torch
from torch import Tensor

from headway.core.errors import FrameError
from headway.core.update import Update
from headway.numerics.packing import pack, unpack

MAGIC = b"HWAY"
VERSION = 1
CHECKSUM = 16
KINDS = (
    "update",
    "message",
    "reply",
    "train",
    "evaluate",
    "measure",
    "exchange",
    "settle",
    "scores",
    "settled",
    "declined",
)
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
Spec = tuple[torch.dtype, tuple[int, ...]]
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
    """The message that a receiver can read: each tensor's dtype and shape, and what the message belongs to."""

    kind: str
    tensors: Mapping[str, Spec]
    round: int
    attempt: int = 0
    ask: int = 0


def of_update(update: Update, packed: Mapping[str, int] = MappingProxyType({})) -> dict[str, Tensor]:
    """An update's tensors under the names that they have on the wire.

    packed: the vectors whose integers take that many bits each (`Flow.packed`); they become bytes without gaps.
    """
    vectors = update.vectors.items()
    named = {f"v/{name}": pack(v, packed[name]) if name in packed else v for name, v in vectors}
    named |= {f"s/{name}": number for name, number in update.sums.items()}
    return named | {"weight": update.weight}


def to_update(
    tensors: Mapping[str, Tensor],
    packed: Mapping[str, int] = MappingProxyType({}),
    lengths: Mapping[str, int] = MappingProxyType({}),
) -> Update:
    """The update of tensors named by `of_update`; lengths: how many integers each packed vector has."""
    vectors = {name[2:]: tensor for name, tensor in tensors.items() if name.startswith("v/")}
    vectors |= {name: unpack(vectors[name], bits, lengths[name]) for name, bits in packed.items() if name in vectors}
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
    kind, count, round_, attempt, ask, length = _open(view)
    body = view[:-CHECKSUM]
    found = (kind, round_, attempt, ask, count, length)
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


def read(data: bytes | bytearray | memoryview, most: int) -> Frame:
    """The message in these bytes, whatever it holds; its tensors are fresh copies.

    The sizes in its heads are checked against the bytes that are there before any tensor is made.

    most: the largest number of bytes that a message may have.

    Raises:
        FrameError: for a message that is too long, damaged, of another version or kind, or whose sizes do not agree.
    """
    view = memoryview(data)
    if len(view) > most:
        raise FrameError(f"a message of at most {most} bytes was expected, found {len(view)}.")
    if len(view) < _HEADER.size + CHECKSUM:
        raise FrameError(f"a message has at least {_HEADER.size + CHECKSUM} bytes, found {len(view)}.")
    kind, count, round_, attempt, ask, length = _open(view)
    payload = view[_HEADER.size : -CHECKSUM]
    if kind not in KINDS or length != len(payload):
        raise FrameError(f"a {kind} message of {length} bytes was announced, found {len(payload)}.")
    specs, position = _heads(payload, count)
    if any(dimension > most for _, shape in specs.values() for dimension in shape):
        raise FrameError(f"a buffer of a {kind} message has a dimension above the {most} bytes that it may have.")
    announced = sum(prod(shape) * dtype.itemsize for dtype, shape in specs.values())
    if len(specs) != count or position + announced != len(payload):
        raise FrameError(f"the heads of a {kind} message announce {announced} bytes, found {len(payload) - position}.")
    return Frame(kind, round_, attempt, ask, _buffers(payload, position, specs))


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
    return _buffers(payload, position, expected.tensors)


def _open(view: memoryview) -> tuple[str, int, int, int, int, int]:
    """Kind, number of buffers, round, attempt, ask and payload length of a message that is whole."""
    body, checksum = view[:-CHECKSUM], bytes(view[-CHECKSUM:])
    magic, version, kind, count, round_, attempt, ask, length = _HEADER.unpack_from(body)
    if magic != MAGIC or version != VERSION:
        raise FrameError(f"a frame of version {VERSION} was expected, found magic {magic!r}, version {version}.")
    if hashlib.blake2b(body, digest_size=CHECKSUM).digest() != checksum:
        raise FrameError("the checksum does not match: the message was damaged on its way.")
    return KINDS[kind] if kind < len(KINDS) else f"kind {kind}", count, round_, attempt, ask, length


def _heads(payload: memoryview, count: int) -> tuple[dict[str, Spec], int]:
    """The dtype and shape of each buffer by name, and where the first buffer begins."""
    specs: dict[str, Spec] = {}
    position = 0
    try:
        for _ in range(count):
            length, code, dims = struct.unpack_from("<BBB", payload, position)
            position += 3
            if code >= len(DTYPES) or dims > _MAX_DIMS:
                raise FrameError(f"a buffer has the number type {code} and {dims} dimensions, which no message has.")
            shape = struct.unpack_from(f"<{dims}Q", payload, position)
            position += 8 * dims
            name = bytes(payload[position : position + length]).decode()
            position += length
            specs[name] = (DTYPES[code], shape)
    except (struct.error, UnicodeDecodeError) as error:
        raise FrameError(f"the heads of a message are cut short or damaged ({error}).") from error
    return specs, position


def _buffers(payload: memoryview, position: int, specs: Mapping[str, Spec]) -> dict[str, Tensor]:
    """The tensors that lie one after another from this place on."""
    tensors: dict[str, Tensor] = {}
    for name, (dtype, shape) in specs.items():
        length = prod(shape) * dtype.itemsize
        chunk = bytearray(payload[position : position + length])
        tensors[name] = (torch.frombuffer(chunk, dtype=dtype) if length else torch.empty(0, dtype=dtype)).reshape(shape)
        position += length
    return tensors

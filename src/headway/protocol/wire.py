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
from headway.numerics.packing import pack, packed_length, unpack

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
    "sum",
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
HEADER_SIZE = _HEADER.size


@dataclass(frozen=True, slots=True)
class Frame:
    """A decoded message: what it is, what it belongs to, its named tensors."""

    kind: str
    round: int
    attempt: int
    ask: int
    tensors: Mapping[str, Tensor]


@dataclass(frozen=True, slots=True)
class Contents:
    """The header of a message: its kind, the number of its buffers, what it belongs to, the length of what follows."""

    kind: str
    buffers: int
    round: int
    attempt: int
    ask: int
    length: int


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


def too_wide(update: Update, bits: Mapping[str, int]) -> str | None:
    """The name of a vector with integers of more bits than these, if there is one."""
    for name, width in bits.items():
        if name in update.vectors and bool((update.vectors[name] >> width).any()):  # negative ones too
            return name
    return None


def to_update(
    tensors: Mapping[str, Tensor],
    packed: Mapping[str, int] = MappingProxyType({}),
    lengths: Mapping[str, int] = MappingProxyType({}),
) -> Update:
    """The update of tensors named by `of_update`; lengths: how many integers each packed vector has.

    Raises:
        FrameError: if a packed vector has not the bytes of so many integers.
    """
    vectors = {name[2:]: tensor for name, tensor in tensors.items() if name.startswith("v/")}
    for name, bits in packed.items():
        if name in vectors:
            held, wanted = vectors[name], packed_length(lengths[name], bits)
            if held.dtype != torch.uint8 or tuple(held.shape) != (wanted,):
                raise FrameError(
                    f"{name!r} must be {wanted} bytes, {lengths[name]} integers of {bits} bits each, found "
                    f"{held.dtype} of shape {tuple(held.shape)}."
                )
            vectors[name] = unpack(held, bits, lengths[name])
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
    parts: list[bytes | memoryview] = [head_of(frame), *map(raw, frame.tensors.values())]
    body = b"".join(parts)
    return body + hashlib.blake2b(body, digest_size=CHECKSUM).digest()


def head_of(frame: Frame) -> bytes:
    """The bytes of a message before its buffers: the header, and the head of each buffer.

    Raises:
        FrameError: for a tensor of a kind that has no code, or a name over 255 bytes.
    """
    heads = []
    for name, tensor in frame.tensors.items():
        encoded = name.encode()
        if tensor.dtype not in DTYPES or tensor.ndim > _MAX_DIMS or len(encoded) > 255:
            raise FrameError(f"tensor {name!r} ({tensor.dtype}, {tensor.ndim} dimensions) cannot be sent.")
        heads.append(struct.pack("<BBB", len(encoded), DTYPES.index(tensor.dtype), tensor.ndim))
        heads.append(struct.pack(f"<{tensor.ndim}Q", *tensor.shape) + encoded)
    kind, length = KINDS.index(frame.kind), size(frame.tensors) - _HEADER.size - CHECKSUM
    header = _HEADER.pack(MAGIC, VERSION, kind, len(frame.tensors), frame.round, frame.attempt, frame.ask, length)
    return b"".join([header, *heads])


def raw(tensor: Tensor) -> memoryview:
    """The bytes of a tensor, without a copy where it lies in main memory in one piece."""
    flat = tensor.detach().cpu().contiguous().reshape(-1)
    return flat.view(torch.uint8).numpy().data if flat.numel() else memoryview(b"")


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
    held = _open(view)
    body = view[:-CHECKSUM]
    found = (held.kind, held.round, held.attempt, held.ask, held.buffers, held.length)
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
    return Frame(held.kind, held.round, held.attempt, held.ask, _read_tensors(body[_HEADER.size :], expected))


def read(data: bytes | bytearray | memoryview, most: int) -> Frame:
    """The message in these bytes, whatever it holds; its tensors are fresh copies.

    The sizes in its heads are checked against the bytes that are there before any tensor is made.

    most: the largest number of bytes that a message may have.

    Raises:
        FrameError: for a message that is too long, damaged, of another version or kind, or whose sizes do not agree.
    """
    view = memoryview(data)
    check_size(len(view), most)
    contents = _open(view)
    specs, position = specs_of(view, contents, most)
    tensors = _buffers(view, position, specs)
    return Frame(contents.kind, contents.round, contents.attempt, contents.ask, tensors)


def check_size(found: int, most: int) -> None:
    """Refuses a message that is too long or too short to be one.

    Raises:
        FrameError: naming both sizes.
    """
    if found > most:
        raise FrameError(f"a message of at most {most} bytes was expected, found {found}.")
    if found < _HEADER.size + CHECKSUM:
        raise FrameError(f"a message has at least {_HEADER.size + CHECKSUM} bytes, found {found}.")


def specs_of(view: memoryview, contents: Contents, most: int) -> tuple[dict[str, Spec], int]:
    """The dtype and shape of each buffer of a whole message by name, and the place of the first buffer in its bytes.

    Raises:
        FrameError: if the sizes in the heads do not agree with the bytes that are there.
    """
    payload, kind, count = view[_HEADER.size : -CHECKSUM], contents.kind, contents.buffers
    if kind not in KINDS or contents.length != len(payload):
        raise FrameError(f"a {kind} message of {contents.length} bytes was announced, found {len(payload)}.")
    specs, position = _heads(payload, count)
    if any(dimension > most for _, shape in specs.values() for dimension in shape):
        raise FrameError(f"a buffer of a {kind} message has a dimension above the {most} bytes that it may have.")
    announced = sum(prod(shape) * dtype.itemsize for dtype, shape in specs.values())
    if len(specs) != count or position + announced != len(payload):
        raise FrameError(f"the heads of a {kind} message announce {announced} bytes, found {len(payload) - position}.")
    return specs, _HEADER.size + position


def expected_size(expected: Expected) -> int:
    """How many bytes the expected message has."""
    meta = {name: torch.empty(shape, dtype=dtype, device="meta") for name, (dtype, shape) in expected.tensors.items()}
    return size(meta)


def _read_tensors(payload: memoryview, expected: Expected) -> dict[str, Tensor]:
    position = 0
    for name, (dtype, shape) in expected.tensors.items():
        encoded = name.encode()
        lengths = struct.pack("<BBB", len(encoded), DTYPES.index(dtype), len(shape))
        head = lengths + struct.pack(f"<{len(shape)}Q", *shape) + encoded
        if bytes(payload[position : position + len(head)]) != head:
            raise FrameError(f"the message must hold {name!r} as {dtype} of shape {shape} here, and does not.")
        position += len(head)
    return _buffers(payload, position, expected.tensors)


def contents_of(header: memoryview | bytes) -> Contents:
    """The header of a message.

    Raises:
        FrameError: for one of another format or version.
    """
    magic, version, kind, count, round_, attempt, ask, length = _HEADER.unpack_from(header)
    if magic != MAGIC or version != VERSION:
        raise FrameError(f"a frame of version {VERSION} was expected, found magic {magic!r}, version {version}.")
    name = KINDS[kind] if kind < len(KINDS) else f"kind {kind}"
    return Contents(name, count, round_, attempt, ask, length)


def check_sum(found: bytes, stated: bytes) -> None:
    """Compares the checksum of the bytes that are there with the one that they end with.

    Raises:
        FrameError: if they differ.
    """
    if found != stated:
        raise FrameError("the checksum does not match: the message was damaged on its way.")


def _open(view: memoryview) -> Contents:
    """The header of a message that is whole."""
    body, contents = view[:-CHECKSUM], contents_of(view)
    check_sum(hashlib.blake2b(body, digest_size=CHECKSUM).digest(), bytes(view[-CHECKSUM:]))
    return contents


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

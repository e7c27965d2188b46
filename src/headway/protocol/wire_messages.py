"""Requests and replies as bytes: each becomes one frame of `wire`, whose header holds round, attempt and ask."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import BinaryIO, Literal

import torch
from torch import Tensor

from headway.core.errors import FrameError
from headway.core.update import Tensors, Update
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
    SumReply,
    Train,
    UpdateReply,
)
from headway.protocol.total_frames import sum_from_tensors, sum_to_tensors
from headway.protocol.wire_files import MAPPED, WrittenFrame, read_frame, write_frame

NOT_PACKED: Mapping[str, int] = MappingProxyType({})
REQUESTS: Mapping[type[Request], str] = {
    Train: "train",
    Evaluate: "evaluate",
    Measure: "measure",
    Exchange: "exchange",
    Settle: "settle",
}
KINDS: Mapping[str, type[Request]] = {kind: request for request, kind in REQUESTS.items()}
FIGURES, COUNTS = frozenset({"examples", "steps", "train_loss"}), frozenset({"examples", "steps"})
MOST_COUNTED, LONGEST_NAME = 1 << 53, 200
DAMAGE = (KeyError, IndexError, ValueError, TypeError, OverflowError, RuntimeError)  # of a tensor of another kind
MESSAGE, PRIVATE, OWN, METRIC = "m/", "p/", "o/", "f/"  # before the names of tensors
UPDATES, SCORES = ("v/", "s/", METRIC, "weight"), (METRIC, f"{OWN}examples")
STATUSES: tuple[Literal["dropped", "rejected"], ...] = ("dropped", "rejected")


@dataclass(frozen=True, slots=True)
class Binding:
    """The exchange that a reply belongs to."""

    round: int
    attempt: int
    ask: int


def encode_request(request: Request, ask: int = 0) -> bytes:
    """The bytes of a request to one client; ask: the number of its ask."""
    return wire.encode(frame_of_request(request, ask))


def write_request(file: BinaryIO, request: Request, ask: int = 0) -> WrittenFrame:
    """Writes the bytes of a request to an open file, a piece at a time."""
    return write_frame(file, frame_of_request(request, ask))


def frame_of_request(request: Request, ask: int = 0) -> wire.Frame:
    """The frame of a request to one client; ask: the number of its ask."""
    named = _prefixed(MESSAGE, request.message.tensors()) | _prefixed(PRIVATE, request.private)
    match request:
        case Train(steps=int() as steps):
            named[f"{OWN}steps"] = torch.tensor(steps)
        case Exchange(name=name):
            named[f"{OWN}name"] = _text(name)
        case Settle(counted=counted):
            named[f"{OWN}counted"] = torch.tensor(int(counted))
    kind = REQUESTS[type(request)]
    return wire.Frame(kind, request.round, request.attempt, ask, named)


def decode_request(data: bytes, most: int) -> tuple[Request, Binding]:
    """The request in these bytes, and what the reply must be bound to; most: the largest number of bytes.

    Raises:
        FrameError: for bytes that are not a request.
    """
    return request_of(wire.read(data, most))


def read_request(path: Path, most: int, *, checked: bool = False) -> tuple[Request, Binding]:
    """The request in a file, with large tensors mapped; see `read_frame`.

    Raises:
        FrameError: for a file that holds no request.
    """
    return request_of(read_frame(path, most, checked=checked))


def request_of(frame: wire.Frame) -> tuple[Request, Binding]:
    """The request of a frame, and what the reply must be bound to.

    Raises:
        FrameError: for a frame of something else.
    """
    if frame.kind not in KINDS:
        raise FrameError(f"a request was expected, found a {frame.kind} message.")
    own, private = _of(OWN, frame.tensors), _of(PRIVATE, frame.tensors)
    try:
        message = Message.from_tensors(_of(MESSAGE, frame.tensors))
        common = message, frame.round, frame.attempt, private
        request: Request
        if frame.kind == "train":
            request = Train(*common, steps=int(own["steps"]) if "steps" in own else None)
        elif frame.kind == "exchange":
            request = Exchange(*common, name=_string(own["name"]))
        elif frame.kind == "settle":
            request = Settle(*common, counted=bool(own["counted"]))
        else:
            request = KINDS[frame.kind](*common)
    except DAMAGE as error:
        raise FrameError(f"a {frame.kind} request lacks a tensor or holds one of another kind ({error}).") from error
    return request, Binding(frame.round, frame.attempt, frame.ask)


def encode_reply(reply: Reply, binding: Binding, packed: Mapping[str, int] = NOT_PACKED) -> bytes:
    """The bytes of a reply to the request with this binding.

    packed: the vectors of an update whose integers take a number of bits, with that number (`Flow.packed`); of a sum,
    those that count modulo 2 to the power of it.
    """
    return wire.encode(frame_of_reply(reply, binding, packed))


def write_reply(file: BinaryIO, reply: Reply, binding: Binding, packed: Mapping[str, int] = NOT_PACKED) -> WrittenFrame:
    """Writes the bytes of a reply to an open file, a piece at a time; packed: as in `encode_reply`."""
    return write_frame(file, frame_of_reply(reply, binding, packed))


def frame_of_reply(reply: Reply, binding: Binding, packed: Mapping[str, int] = NOT_PACKED) -> wire.Frame:
    """The frame of a reply to the request with this binding; packed: as in `encode_reply`.

    An update whose integers do not fit in their bits is declined instead, with the reason that the guard would give.
    """
    kind, named = "reply", dict[str, Tensor]()
    if isinstance(reply, UpdateReply) and (wide := wire.too_wide(reply.update, packed)) is not None:
        reply = Declined("rejected", f"{wide!r} holds integers that do not fit in {packed[wide]} bits")
    match reply:
        case UpdateReply():
            kind, named = "update", wire.of_update(reply.update, packed) | _numbers(reply.figures)
        case Scores():
            kind, named = "scores", {f"{OWN}examples": torch.tensor(reply.examples)} | _numbers(reply.metrics)
        case ExchangeReply():
            named = _prefixed(OWN, reply.tensors)
        case Declined():
            status = torch.tensor(STATUSES.index(reply.status))
            kind, named = "declined", {f"{OWN}status": status, f"{OWN}reason": _text(reply.reason)}
        case SumReply():
            kind, named = "sum", sum_to_tensors(reply, packed)
        case Settled():
            kind = "settled"
    return wire.Frame(kind, binding.round, binding.attempt, binding.ask, named)


def decode_reply(
    data: bytes,
    binding: Binding,
    most: int,
    packed: Mapping[str, int] = NOT_PACKED,
    lengths: Mapping[str, int] = NOT_PACKED,
) -> Reply:
    """The reply in these bytes; most: the largest number of bytes that it may have.

    packed, lengths: of an update's vectors whose integers are packed, the bits of each integer; and how many numbers
    each vector has.  Of a sum, lengths are those of its own vectors.

    Raises:
        FrameError: for bytes that are not a reply, or the reply to another request.
    """
    return reply_of(wire.read(data, most), binding, packed, lengths)


def read_reply(
    path: Path,
    binding: Binding,
    most: int,
    packed: Mapping[str, int] = NOT_PACKED,
    lengths: Mapping[str, int] = NOT_PACKED,
    *,
    checked: bool = False,
    mapped: int = MAPPED,
) -> Reply:
    """The reply in a file, with large tensors mapped; see `decode_reply` and `read_frame`.

    Raises:
        FrameError: for a file that holds no reply, or the reply to another request.
    """
    return reply_of(read_frame(path, most, checked=checked, mapped=mapped), binding, packed, lengths)


def reply_of(
    frame: wire.Frame,
    binding: Binding,
    packed: Mapping[str, int] = NOT_PACKED,
    lengths: Mapping[str, int] = NOT_PACKED,
) -> Reply:
    """The reply of a frame; packed, lengths: as in `decode_reply`.

    Raises:
        FrameError: for a frame of something else, or of the reply to another request.
    """
    if (found := Binding(frame.round, frame.attempt, frame.ask)) != binding:
        raise FrameError(f"a reply to {binding} was expected, found one to {found}.")
    own = _of(OWN, frame.tensors)
    try:
        match frame.kind:
            case "update":
                _only(frame.tensors, UPDATES)
                update = wire.to_update(frame.tensors, packed, lengths)
                return UpdateReply(_single(update), _figures(frame.tensors))
            case "sum":
                return sum_from_tensors(frame.tensors, lengths, packed)
            case "scores":
                _only(frame.tensors, SCORES)
                return Scores(_floats(frame.tensors), _count(own["examples"]))
            case "reply":
                return ExchangeReply(own)
            case "declined":
                return Declined(STATUSES[_count(own["status"])], _string(own["reason"]))
            case "settled":
                return Settled()
    except DAMAGE as error:
        raise FrameError(f"a {frame.kind} reply lacks a tensor or holds one of another kind ({error}).") from error
    raise FrameError(f"a reply was expected, found a {frame.kind} message.")


def _prefixed(prefix: str, named: Tensors) -> dict[str, Tensor]:
    return {f"{prefix}{name}": tensor for name, tensor in named.items()}


def _of(prefix: str, named: Tensors) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in named.items() if name.startswith(prefix)}


def _numbers(figures: Mapping[str, float]) -> dict[str, Tensor]:
    return {f"{METRIC}{name}": torch.tensor(value, dtype=torch.float64) for name, value in figures.items()}


def _floats(named: Tensors) -> dict[str, float]:
    found = {name: float(number) for name, number in _of(METRIC, named).items()}
    if strange := [name for name in found if not name.isprintable() or not 0 < len(name) <= LONGEST_NAME]:
        raise ValueError(f"{strange[0]!r} is not the name of a metric")
    return found


def _only(named: Tensors, known: tuple[str, ...]) -> None:
    """Refuses a name that does not begin with one of these."""
    if strange := [name for name in named if not name.startswith(known)]:
        raise ValueError(f"a tensor {strange[0]!r} is unknown")


def _figures(named: Tensors) -> dict[str, float]:
    """The figures of a training, of which those that count something are whole numbers."""
    found = _floats(named)
    if unknown := found.keys() - FIGURES:
        raise ValueError(f"{min(unknown)!r} is no figure of a training")
    for name in COUNTS & found.keys():
        _count(torch.tensor(found[name], dtype=torch.float64))
    return found


def _count(number: Tensor) -> int:
    """A number of examples or steps."""
    value = float(number)
    if not 0 <= value <= MOST_COUNTED or value != int(value):
        raise ValueError(f"{value:g} is not a number of examples or steps")
    return int(value)


def _single(update: Update) -> Update:
    """The update of one client: its weight and its sums are single numbers."""
    for name, number in {"weight": update.weight, **update.sums}.items():
        if number.ndim:
            raise ValueError(f"{name!r} has the shape {tuple(number.shape)} and must be one number")
    return update


def _text(text: str) -> Tensor:
    return torch.tensor(list(text.encode()), dtype=torch.uint8)


def _string(raw: Tensor) -> str:
    return bytes(raw.tolist()).decode()

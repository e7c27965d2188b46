"""Requests and replies as bytes: each becomes one frame of `wire`, whose header holds round, attempt and ask."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

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
    Train,
    UpdateReply,
)

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
STATUSES: tuple[Literal["dropped", "rejected"], ...] = ("dropped", "rejected")


@dataclass(frozen=True, slots=True)
class Binding:
    """The exchange that a reply belongs to."""

    round: int
    attempt: int
    ask: int


def encode_request(request: Request, ask: int = 0) -> bytes:
    """The bytes of a request to one client; ask: the number of its ask."""
    named = _prefixed(MESSAGE, request.message.tensors()) | _prefixed(PRIVATE, request.private)
    match request:
        case Train(steps=int() as steps):
            named[f"{OWN}steps"] = torch.tensor(steps)
        case Exchange(name=name):
            named[f"{OWN}name"] = _text(name)
        case Settle(counted=counted):
            named[f"{OWN}counted"] = torch.tensor(int(counted))
    kind = REQUESTS[type(request)]
    return wire.encode(wire.Frame(kind, request.round, request.attempt, ask, named))


def decode_request(data: bytes, most: int) -> tuple[Request, Binding]:
    """The request in these bytes, and what the reply must be bound to; most: the largest number of bytes.

    Raises:
        FrameError: for bytes that are not a request.
    """
    frame = wire.read(data, most)
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


def encode_reply(reply: Reply, binding: Binding) -> bytes:
    """The bytes of a reply to the request with this binding."""
    kind, named = "reply", dict[str, Tensor]()
    match reply:
        case UpdateReply():
            kind, named = "update", wire.of_update(reply.update) | _numbers(reply.figures)
        case Scores():
            kind, named = "scores", {f"{OWN}examples": torch.tensor(reply.examples)} | _numbers(reply.metrics)
        case ExchangeReply():
            named = _prefixed(OWN, reply.tensors)
        case Declined():
            status = torch.tensor(STATUSES.index(reply.status))
            kind, named = "declined", {f"{OWN}status": status, f"{OWN}reason": _text(reply.reason)}
        case Settled():
            kind = "settled"
    return wire.encode(wire.Frame(kind, binding.round, binding.attempt, binding.ask, named))


def decode_reply(data: bytes, binding: Binding, most: int) -> Reply:
    """The reply in these bytes; most: the largest number of bytes that it may have.

    Raises:
        FrameError: for bytes that are not a reply, or the reply to another request.
    """
    frame = wire.read(data, most)
    if (found := Binding(frame.round, frame.attempt, frame.ask)) != binding:
        raise FrameError(f"a reply to {binding} was expected, found one to {found}.")
    own = _of(OWN, frame.tensors)
    try:
        match frame.kind:
            case "update":
                return UpdateReply(_single(wire.to_update(frame.tensors)), _figures(frame.tensors))
            case "scores":
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

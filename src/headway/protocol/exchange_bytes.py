"""The bytes of a protocol's exchanges, which no report on a client holds."""

from __future__ import annotations

from headway.protocol import wire
from headway.protocol.messages import Answer, Ask


def bytes_to(ask: Ask, client: str) -> int:
    """How many bytes a client receives in an exchange: the common message, and its private one where it has one."""
    private = ask.private.get(client)
    return wire.size(ask.message.tensors()) + (wire.size(private) if private else 0)


def exchange_bytes(ask: Ask, answer: Answer) -> tuple[int, int]:
    """The bytes of an exchange as frames count them: up, of the replies, and down, to each client that was asked."""
    common = wire.size(ask.message.tensors()) * len(ask.cohort)
    private = sum(wire.size(own) for client in ask.cohort if (own := ask.private.get(client)))
    return sum(map(wire.size, answer.replies.values())), common + private

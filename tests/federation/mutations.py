"""Messages that must be refused, made from a good one: each has one fault, drawn from all kinds of faults."""

from __future__ import annotations

import random
from dataclasses import replace

import torch

from headway.core.update import Update
from headway.protocol.messages import ExchangeReply, Scores, Settled, UpdateReply
from headway.protocol.wire_messages import Binding, encode_reply

BAD_WEIGHTS = (1e30, -1.0, float("nan"), float("inf"), -float("inf"), 1e300)
BAD_NUMBERS = (float("nan"), float("inf"), -float("inf"))


def update(size: int, weight: float, value: float = 0.5, **vectors: torch.Tensor) -> UpdateReply:
    figures = {"examples": 5.0, "steps": 1.0, "train_loss": 1.0}
    return UpdateReply(Update.of(torch.full((size,), value), weight, **vectors), figures)


def mutated(chance: random.Random, size: int, weight: float, binding: Binding) -> tuple[str, bytes]:
    """The kind of a fault, and a message with it."""
    data = b""
    kind = chance.choice(("bits", "cut", "longer", "noise", "value", "weight", "shape", "binding", "reply", "names"))
    if kind in ("bits", "cut", "longer", "noise"):
        data = encode_reply(update(size, weight), binding)
    match kind:
        case "bits":
            changed = bytearray(data)
            changed[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
            data = bytes(changed)
        case "cut":
            data = data[: chance.randrange(len(data))]
        case "longer":
            data += bytes(chance.randrange(1, 10 * len(data)))
        case "noise":
            data = chance.randbytes(chance.randrange(4 * len(data)))
        case "value":
            delta = torch.zeros(size)
            delta[chance.randrange(size)] = chance.choice(BAD_NUMBERS)
            data = encode_reply(UpdateReply(Update.of(delta, weight)), binding)
        case "weight":
            data = encode_reply(update(size, chance.choice(BAD_WEIGHTS)), binding)
        case "shape":
            shape = chance.choice(((size + 1,), (size - 1,), (size, 1), (1, size), (), (0,), (2, 2, 2)))
            data = encode_reply(UpdateReply(Update({"delta": torch.zeros(shape)}, torch.tensor(weight))), binding)
        case "binding":
            name = chance.choice(("round", "attempt", "ask"))
            other = replace(binding, **{name: getattr(binding, name) + chance.randrange(1, 1000)})
            data = encode_reply(update(size, weight), other)
        case "reply":
            others = (Scores({"accuracy": 1.0}, 5), Settled(), ExchangeReply({"a": torch.zeros(3)}))
            data = encode_reply(chance.choice(others), binding)
        case "names":
            vectors = chance.choice(({"other": torch.zeros(size)}, {"delta": torch.zeros(size), "x": torch.zeros(2)}))
            data = encode_reply(UpdateReply(Update(vectors, torch.tensor(weight))), binding)
    return kind, data

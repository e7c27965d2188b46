"""The tensors of several clients in one frame, for the way between a server and a relay."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from headway.core.errors import FrameError
from headway.core.update import Tensors
from headway.protocol.messages import Declined, ExchangeReply, Reply

REPLIED, REASON = "replied", "reason"  # which clients have replied; why another has not
LONGEST = 2000  # characters of a reason


def joined_by_client(held: Mapping[str, Tensors], clients: Sequence[str]) -> dict[str, Tensor]:
    """The tensors of clients, each under the client's place in a list that both sides have.

    >>> sorted(joined_by_client({"b": {"keys": torch.ones(2)}}, ("a", "b")))
    ['1/keys']
    """
    places = {client: place for place, client in enumerate(clients)}
    return {f"{places[client]}/{name}": tensor for client, own in held.items() for name, tensor in own.items()}


def split_by_client(named: Tensors, clients: Sequence[str]) -> dict[str, dict[str, Tensor]]:
    """What `joined_by_client` has joined, of those clients that have something.

    Raises:
        FrameError: for a tensor of no client.
    """
    found = dict[str, dict[str, Tensor]]()
    for path, tensor in named.items():
        place, _, name = path.partition("/")
        known = place.isascii() and place.isdecimal() and len(place) < 10 and int(place) < len(clients)
        if not known or not name or path != f"{int(place)}/{name}":
            raise FrameError(f"a tensor {path!r} is of none of the {len(clients)} clients.")
        found.setdefault(clients[int(place)], {})[name] = tensor
    return found


def relayed_reply(replies: Mapping[str, Tensors], missing: Mapping[str, str], clients: Sequence[str]) -> ExchangeReply:
    """A relay's reply to an exchange: the replies of its clients, unchanged, and why others are missing."""
    reasons = {client: {REASON: _text(why)} for client, why in missing.items() if client not in replies}
    marks = torch.tensor([client in replies for client in clients], dtype=torch.uint8)
    return ExchangeReply({REPLIED: marks, **joined_by_client({**replies, **reasons}, clients)})


def replies_of_relay(reply: Reply, clients: Sequence[str]) -> tuple[dict[str, dict[str, Tensor]], dict[str, str]]:
    """The replies of a relay's clients, and why the others are missing, which together are all of them.

    Raises:
        FrameError: for what is no such reply.
    """
    if isinstance(reply, Declined):
        return {}, dict.fromkeys(clients, reply.reason)
    if not isinstance(reply, ExchangeReply):
        raise FrameError(f"a relay's replies to an exchange were expected, found {type(reply).__name__}.")
    named = dict(reply.tensors)
    marks = named.pop(REPLIED, torch.empty(0))
    if marks.dtype != torch.uint8 or tuple(marks.shape) != (len(clients),):
        raise FrameError(f"a relay's replies must mark which of its {len(clients)} clients have replied.")
    held = split_by_client(named, clients)
    there = {client: bool(mark) for client, mark in zip(clients, marks.tolist(), strict=True)}
    replies = {client: held.get(client, {}) for client in clients if there[client]}
    missing = {client: _string(held.get(client, {}).get(REASON)) for client in clients if not there[client]}
    return replies, missing


def _text(text: str) -> Tensor:
    return torch.tensor(list(text[:LONGEST].encode()), dtype=torch.uint8)


def _string(raw: Tensor | None) -> str:
    if raw is None or raw.dtype != torch.uint8 or raw.ndim != 1 or len(raw) > 4 * LONGEST:
        return "its relay has no reply of it"
    return bytes(raw.tolist()).decode(errors="replace")

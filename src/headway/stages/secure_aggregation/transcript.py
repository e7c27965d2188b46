"""The public course of a secure sum: who takes part, and the digests that keys and signatures are bound to."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from headway.core.errors import ExchangeRefused
from headway.stages.secure_aggregation.key_agreement import digest, joined
from headway.stages.secure_aggregation.neighbour_graph import GraphPlan, circle_of, graph_plan, neighbours
from headway.stages.secure_aggregation.sum_rules import Rules

Members = frozenset[int]


@dataclass(frozen=True)
class Cohort:
    """The clients that were asked, sorted by name, and known by their places from here on."""

    names: tuple[str, ...]
    rules: Rules

    @cached_property
    def needed(self) -> int:
        """How many must remain to the end."""
        return self.rules.needed(len(self.names))

    def context(self, run: str, chain: str, round_: int, attempt: int) -> bytes:
        """The digest of the run, the chain, the round, the attempt and the cohort, to which every key is bound."""
        numbers = round_.to_bytes(8, "big") + attempt.to_bytes(8, "big")
        return digest("context", run.encode(), chain.encode(), numbers, *(name.encode() for name in self.names))

    def to_tensor(self) -> Tensor:
        """The names as bytes of JSON."""
        return to_tensor(json.dumps(self.names).encode())

    @classmethod
    def of(cls, tensor: Tensor, rules: Rules) -> Cohort:
        """The cohort of the names in a request.

        Raises:
            ExchangeRefused: for what is no list of distinct sorted names.
        """
        try:
            names = json.loads(to_bytes(tensor))
        except ValueError:
            names = None
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            raise ExchangeRefused("the cohort in the request is not a list of names.")
        if sorted(set(names)) != names:
            raise ExchangeRefused("the names of the cohort in the request are not distinct and sorted.")
        return cls(tuple(names), rules)

    def members(self, tensor: Tensor) -> Members:
        """The clients of a bitmap `[ceil(n / 8)]`.

        Raises:
            ExchangeRefused: for a bitmap of another length, or with a bit beyond the last client.
        """
        raw, size = to_bytes(tensor), len(self.names)
        if len(raw) != (size + 7) // 8:
            raise ExchangeRefused(
                f"a list of clients has {len(raw)} bytes, and one of {size} clients {(size + 7) // 8}."
            )
        places = np.flatnonzero(np.unpackbits(np.frombuffer(raw, dtype=np.uint8), bitorder="little")).tolist()
        if places and places[-1] >= size:
            raise ExchangeRefused(f"a list of clients names number {places[-1]} of {size}.")
        return frozenset(places)

    def bitmap(self, members: Iterable[int]) -> bytes:
        """The bits of some clients, the lowest first."""
        bits = np.zeros(len(self.names), dtype=np.uint8)
        bits[sorted(members)] = 1
        return np.packbits(bits, bitorder="little").tobytes()

    def plan(self, present: Members) -> GraphPlan:
        """The form of the graph among the clients that sent keys."""
        return graph_plan(len(present), self.needed, self.rules.corrupt)

    def graph(self, context: bytes, present: Members, some: Iterable[int] | None = None) -> dict[int, tuple[int, ...]]:
        """The neighbours of some or all of the clients that sent keys; the server does not choose them."""
        circle = circle_of(sorted(present), digest("graph", context, self.bitmap(present)))
        degree, places = self.plan(present).degree, {one: place for place, one in enumerate(circle)}
        return {one: neighbours(circle, places[one], degree) for one in (circle if some is None else some)}


@dataclass(frozen=True, slots=True)
class SumBinding:
    """All that a sum is of: the context, who sent keys and who shared secrets, and the digest of the model.

    A mask is derived from it, so those of clients with different ones do not cancel; and the clients sign it.
    """

    context: bytes
    present: bytes
    sharing: bytes
    model_hash: bytes

    @property
    def digest(self) -> bytes:
        """Its SHA-256 digest."""
        return digest("sum", self.context, self.present, self.sharing, self.model_hash)


def sharing_list(context: bytes) -> str:
    """The name, in a request to train, of the list of one bucket's clients that shared secrets.

    >>> sharing_list(bytes(32))
    'sharing-0000000000000000'
    """
    return f"sharing-{context[:8].hex()}"


def keys_text(context: bytes, name: str, keys: bytes) -> bytes:
    """What a client signs when it sends its public keys."""
    return joined(b"headway secure sum 1 keys", context, name.encode(), keys)


def survivors_text(binding: bytes, survivors: bytes) -> bytes:
    """What a client signs when it agrees to a list of survivors."""
    return joined(b"headway secure sum 1 survivors", binding, survivors)


def direction(one: int, other: int) -> bytes:
    """A sender and a receiver, or a pair."""
    return one.to_bytes(4, "big") + other.to_bytes(4, "big")


def share_message(context: bytes, sender: int, receiver: int) -> bytes:
    """What the sealed shares of a sender for a receiver are about."""
    return joined(b"shares", context, direction(sender, receiver))


def to_tensor(data: bytes, rows: int | None = None) -> Tensor:
    """Bytes as uint8 `[n]`, or `[rows, n / rows]`."""
    flat = torch.frombuffer(bytearray(data), dtype=torch.uint8) if data else torch.empty(0, dtype=torch.uint8)
    return flat if rows is None else flat.reshape(rows, -1 if rows else 0)


def to_bytes(tensor: Tensor) -> bytes:
    """The bytes of a tensor of uint8.

    Raises:
        ExchangeRefused: for another number type.
    """
    if tensor.dtype != torch.uint8:
        raise ExchangeRefused(f"bytes were expected, found {tensor.dtype}.")
    return tensor.detach().cpu().contiguous().numpy().tobytes()


def rows_of(tensor: Tensor, rows: int, width: int) -> Sequence[bytes]:
    """The rows of bytes `[rows, width]`.

    Raises:
        ExchangeRefused: for another shape.
    """
    if tuple(tensor.shape) != (rows, width) and not (rows == 0 and tensor.numel() == 0):
        raise ExchangeRefused(f"bytes of shape {(rows, width)} were expected, found {tuple(tensor.shape)}.")
    raw = to_bytes(tensor)
    return [raw[place * width : (place + 1) * width] for place in range(rows)]

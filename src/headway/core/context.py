"""The facts that a hook may read besides its arguments: a class for each point of a round.

Leading axes are clients: a vector is `[..., P]`, a number of each client `[...]`.  Contexts are read-only.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol, Self, final

import torch
from torch import Tensor

from headway.core.flow import Flow
from headway.core.layout import Layout
from headway.core.update import Tensors
from headway.numerics.keys import Key, Keys

NOTHING: Tensors = {}


@dataclass(frozen=True, slots=True)
class Context:
    """The facts that every hook may read; the subclasses add what is known at their point of the round.

    round: in which the client was asked, `[C, 1]` in the model's number type if lanes were asked in different ones; at
        the server, the present one.
    key: of this stage in this round, for this client; one per lane where the vectors are `[C, P]`.
    flow: the static facts that reach this stage.
    global_params: w_t, the model with which the client was asked, `[..., P]`; at the server, the present one.
    received: the stage's own broadcast.
    system: in deployment, a key of the operating system's randomness that is this stage's in this round alone; `None`
        in simulation.  Hooks read `private`.
    """

    round: int | Tensor
    key: Key | Keys
    layout: Layout
    flow: Flow
    global_params: Tensor
    received: Tensors = field(default_factory=dict)
    system: Key | Keys | None = field(default=None, repr=False)

    @property
    def private(self) -> Key | Keys:
        """The key for what nobody else may predict: noise, masks, stochastic rounding.  In deployment it comes from the
        operating system where the hook runs, and not from the run's seed; in simulation it is derived from `key`, so
        that runs repeat."""
        if self.system is not None:
            return self.system
        return self.key.derive("private") if isinstance(self.key, Key | Keys) else Keys.of(self.key).derive("private")

    def uniform(self, count: int) -> Tensor:
        """Uniform numbers in [0, 1), float64 `[..., count]`, each lane from its own key."""
        one, device = self.key, self.global_params.device
        if not isinstance(one, Key | Keys):  # a sequence of keys, where a hook is called by hand
            return torch.stack([key.uniform(count) for key in one]).to(device)
        return one.uniform(count).to(device)

    def sliced(self, start: int, stop: int) -> Self:
        """The context of coordinates `start..stop` alone, where a hook is called for some at a time."""
        received = slice_tensors(self.received, start, stop, self.layout.size)
        return replace(self, global_params=self.global_params[..., start:stop], received=received)

    def split(self) -> list[Self]:
        """The context of each tensor of the layout, where a hook is called for one at a time."""
        models, received = self.layout.slices(self.global_params), self.layout.split(self.received)
        parts = zip(models, received, strict=True)
        return [replace(self, global_params=model, received=named) for model, named in parts]


class ClientSigner(Protocol):
    """The identity of a client: an Ed25519 key of its own, and those by which it knows the others."""

    def sign(self, data: bytes) -> bytes:
        """The client's signature of data, 64 bytes."""

    def verify(self, name: str, data: bytes, signature: bytes) -> bool:
        """Whether the signature of data is that of the client of this name."""


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class ExchangeContext:
    """The facts that a protocol's client half may read when it answers a request, and when it masks an update.

    client: its own name.  key: of the protocol for this client, round and attempt.  private: the key of secrets, which
        nobody else knows: from the operating system in a deployment, derived in a simulation, whose runs repeat.
    signer: the client's identity.  run: the identifier of the run, the same for all its clients.
    round, attempt: of the request.  chain: the fingerprint of the chain, as the client itself has built it.
    model_hash: when it trains, the digest of all that it was asked with (`Message.digest`); empty before.
    flow: the facts after the last stage.
    """

    client: str
    key: Key
    private: Key
    signer: ClientSigner
    run: str
    round: int
    attempt: int
    chain: str
    flow: Flow
    model_hash: bytes = b""

    def at(self, label: str) -> ExchangeContext:
        """The facts as the protocol of this label sees them: with keys of its own."""
        own = self.key.derive(label, self.attempt)
        return replace(self, key=own, private=self.private.derive(label, self.round, self.attempt))


@final
@dataclass(frozen=True, slots=True)
class Exchanged:
    """The part of a client in the exchanges of a protocol, with which its update is sent.

    secret: what the protocol keeps at the client during a round.  context: the facts of its exchanges.
    """

    secret: Tensors = field(repr=False)
    context: ExchangeContext


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class StepContext(Context):
    """The facts that `step` may read, while the client trains.

    examples: how many training examples the client has, `[...]`.
    """

    examples: Tensor


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class CombineContext(Context):
    """The facts that `combine` may read, when the client's steps are made.

    steps: how many of the K steps of the Gram matrix were made, `[...]`; the others are padding.
    squared_movement: the squared length of w_K - w_t, in the number type of the Gram matrix, `[...]`.
    """

    examples: Tensor
    steps: Tensor
    squared_movement: Tensor


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class ClientContext(Context):
    """The facts that `send` may read, and `lift` where it runs at the client, when the client has trained.

    movement: sum of the client's steps before `combine`, w_K - w_t, `[..., P]`.
    steps: how many local steps the client made.
    effective_lr: the learning rate that each step's gradient finally received, summed over steps: K * eta for
        plain SGD; with momentum or a schedule, minus the movement that a constant gradient of 1 causes.
    free_effective_lr: the same without what pulls a client back to w_t.
    lr_sum: the learning rates of the steps, summed.
    measurements: by name, what the stages asked for in `connect` with `flow.measure`: numbers `[...]` in float64,
        vectors `[..., P]`.
    secret, exchange: of a `Protocol`, what it keeps at the client during a round, and the facts of its exchanges; empty
        and `None` for every other stage.
    lanes: of many clients `[C, ...]`, the same of each, before a `Protocol` sends for one after another.
    """

    examples: Tensor
    movement: Tensor
    steps: Tensor
    effective_lr: Tensor
    free_effective_lr: Tensor
    lr_sum: Tensor
    measurements: Mapping[str, Tensor] = field(default_factory=dict)
    secret: Tensors = field(default_factory=dict, repr=False)
    exchange: ExchangeContext | None = None
    lanes: Sequence[Exchanged] = ()

    def lane(self, index: int) -> ClientContext:
        """The context of one client out of many `[C, ...]`; of its part in the exchanges, see `lanes`."""

        def own(held: Tensor, axes: int = 0) -> Tensor:
            return held[index] if held.ndim > axes else held

        key, system = self.key, self.system
        return replace(
            self,
            round=int(self.round[index]) if isinstance(self.round, Tensor) else self.round,
            key=key[index] if isinstance(key, Keys) else key,
            system=system[index] if isinstance(system, Keys) else system,
            global_params=own(self.global_params, 1),
            examples=own(self.examples),
            movement=own(self.movement, 1),
            steps=own(self.steps),
            effective_lr=own(self.effective_lr),
            free_effective_lr=own(self.free_effective_lr),
            lr_sum=own(self.lr_sum),
            measurements={name: held[index] for name, held in self.measurements.items()},
        )


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class ServerContext(Context):
    """The facts that the server's hooks may read.

    population: how many clients there are.  counted: how many updates the aggregate is of.
    age, asked_params: how many rounds the model has moved on since the client was asked, `[...]`, and the model that
        it was asked with, `[..., P]`; 0 and the present model where no single update is meant.
    states: the state of each stage by its label, where noise depends on that of earlier rounds (`release`).
    buffers, asked_buffers: the averaged statistics of the model, if it has any, and the ones with which the client
        was asked.
    """

    population: int
    asked_params: Tensor
    age: Tensor = field(default_factory=lambda: torch.zeros((), dtype=torch.int64))
    counted: int = 0
    states: Mapping[str, Tensors] = field(default_factory=dict)
    buffers: Tensor | None = None
    asked_buffers: Tensor | None = None

    def sliced(self, start: int, stop: int) -> ServerContext:
        """The context of coordinates `start..stop` alone."""
        received = slice_tensors(self.received, start, stop, self.layout.size)
        here, asked = self.global_params[..., start:stop], self.asked_params[..., start:stop]
        return replace(self, global_params=here, asked_params=asked, received=received)

    def of_lanes(self, rows: slice) -> ServerContext:
        """The context of some of many clients."""
        size, asked, statistics = self.global_params.ndim + 1, self.asked_params, self.asked_buffers
        return replace(
            self,
            age=self.age[rows] if self.age.ndim else self.age,
            asked_params=asked[rows] if asked.ndim == size else asked,
            asked_buffers=statistics[rows] if statistics is not None and statistics.ndim == size else statistics,
        )


def slice_tensors(tensors: Tensors, start: int, stop: int, size: int) -> dict[str, Tensor]:
    """Coordinates `start..stop` of every vector `[..., size]`; scalars `[..., 1]` stay whole."""
    return {name: tensor[..., start:stop] if tensor.shape[-1] == size else tensor for name, tensor in tensors.items()}

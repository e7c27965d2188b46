"""Some of the coordinates, the same for all clients in a round."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache
from typing import ClassVar, final

import torch
from torch import Tensor

from headway.core.context import ClientContext, ServerContext
from headway.core.fields import between
from headway.core.flow import Flow, VectorSpec
from headway.core.stage import Place, Stage, stages
from headway.core.update import Tensors, Update
from headway.numerics.keys import Key

COORDINATES = Key.root(0).derive("RandomK")  # public: the same for all clients and the server


@final
@stages.register
@dataclass(frozen=True)
class RandomK(Stage):
    """A share of the delta's coordinates, drawn anew in each round and the same for all clients.

    Formula: `sent = (P / k) delta[S]` with `k = max(1, int(share P))` and S the coordinates of the round, k of P
    without replacement; `decode: delta[S] = sent`, and zero elsewhere.  Over rounds the mean is the delta.  S follows
    from the number of the round alone, so no index travels; as every client sends the same coordinates, updates add,
    and no coordinate of a sum is of one client.  The vectors beside the delta travel whole.
    A clip after it bounds what is sent, `P / k` times as long as the chosen part.  share = 1 is FedAvg exactly.
    Shapes: `[..., P]` to `[..., k]`.

    Raises:
        ConfigError: unless 0 < share <= 1.

    Reference: Konecny et al., arXiv 1610.05492, section 2 (random mask); Stich et al., arXiv 1809.07599, for the
    operator.
    Differs from the papers: all clients have the mask of the round, where theirs are of each client.

    >>> RandomK(share=0.25)
    RandomK(share=0.25)
    """

    place: ClassVar[Place] = Place.SPARSIFY
    share: float = between(0, 1, 0.1, without=0)

    def connect(self, flow: Flow) -> Flow:
        """Needs a delta of plain numbers, one of each parameter."""
        flow.require(self, real=True, whole_delta=True)
        spec = replace(flow.spec("delta"), length=self.share)
        return flow.recode(self, delta=spec).keep(self, "additive", "dense")

    def send(self, update: Update, memory: Tensors, ctx: ClientContext) -> tuple[Update, Tensors]:
        """The chosen coordinates, scaled so that their mean over rounds is the delta."""
        size = update.delta.shape[-1]
        chosen = self._chosen(update.delta, ctx.round, size)
        factor = size / chosen.shape[-1]
        return update.with_delta(update.delta.gather(-1, chosen) * factor), memory

    def decode(self, update: Update, ctx: ServerContext) -> Update:
        """The delta of the chosen coordinates."""
        size = ctx.layout.size
        whole = update.delta.new_zeros(*update.delta.shape[:-1], size)
        chosen = self._chosen(update.delta, ctx.round - ctx.age, size)
        return update.with_delta(whole.scatter(-1, chosen, update.delta))

    def _chosen(self, delta: Tensor, round: int | Tensor, size: int) -> Tensor:
        """The places of the coordinates of each client's round, int64 `[..., k]`."""
        rounds = torch.as_tensor(round).flatten().to(torch.int64).tolist()
        count = VectorSpec(self.share).count(size)
        rows = {one: coordinates(COORDINATES.derive(one), count, size) for one in rounds}
        chosen = rows[rounds[0]] if len(rows) == 1 else torch.stack([rows[one] for one in rounds])
        return chosen.to(delta.device).expand(*delta.shape[:-1], count)


@lru_cache(maxsize=4)
def coordinates(key: Key, count: int, size: int) -> Tensor:
    """So many different places of `0..size-1`, sorted; the tensor of an earlier call, which is not to be written to."""
    return key.permutation(size)[:count].sort().values

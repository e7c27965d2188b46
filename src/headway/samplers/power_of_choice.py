"""Power of choice: of some candidates, the ones with the highest loss."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from headway.core.errors import ConfigError
from headway.core.fields import at_least
from headway.core.flow import SamplerFacts
from headway.core.sampler import samplers
from headway.numerics.keys import Key
from headway.protocol.client_history import ClientHistory
from headway.samplers.drawing import FixedNumber, by_weight, first_of, required_history


@final
@samplers.register
@dataclass(frozen=True)
class PowerOfChoice(FixedNumber):
    """Candidates are drawn by size; the cohort is the ones with the highest training loss.

        A: d = `candidates` clients without replacement, P(next = i) proportional to n_i
        S: the `count` of A with the largest F_i(w),    F_i: mean loss over the training examples of i

    refresh: whether the candidates are asked for F_i(w_t) of the round's model (pow-d): the model goes down to d
    clients and a number comes back, which costs bytes and, under a clock, time; of who does not answer, nothing is
    known, and it is not in the cohort, which may then be smaller.  Otherwise (rpow-d) it is the mean loss over the
    local steps that each reported last, which is free; clients without a known loss come first.  Ties fall by an
    order that is drawn.

    Clients are drawn by size and by loss, so the paper takes their plain mean, `Mean(over="clients")`; the higher
    count / candidates, the less is it biased to high losses.  The server must see single clients' losses.

    Raises:
        ConfigError: unless 1 <= count <= candidates; when drawing, if fewer than count are available.
        ChainRefused: in an algorithm whose chain protects single clients' numbers.

    Reference: Cho et al., arXiv 2010.01243 (pow-d, and its variant rpow-d).

    >>> import torch
    >>> history = ClientHistory(("a", "b", "c"), torch.tensor([4, 4, 4]), {"sizes", "losses"})
    >>> choice = PowerOfChoice(count=1, candidates=3)
    >>> choice.measured(("a", "b", "c"), 0, Key.root(0), history)
    ('a', 'b', 'c')
    >>> history.fresh = {"a": 0.5, "c": 0.7}
    >>> choice.draw(("a", "b", "c"), 0, Key.root(0), history)
    ('c',)
    """

    candidates: int = at_least(1)
    refresh: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.candidates < self.count:
            raise ConfigError(
                f"PowerOfChoice.candidates must be at least its count, {self.count}, found {self.candidates}."
            )

    def measured(
        self, clients: Sequence[str], round: int, key: Key, history: ClientHistory | None = None
    ) -> tuple[str, ...]:
        """The candidates, if their losses are asked for."""
        if not self.refresh:
            return ()
        history = required_history(self, history)
        return history.named(self.among(history, clients, key).tolist())

    def among(self, history: ClientHistory, clients: Sequence[str], key: Key) -> Tensor:
        """The candidates; of fewer than d available ones, all."""
        places = history.places(clients)
        return places[by_weight(history.sizes[places], min(self.candidates, len(places)), key.derive("candidates"))]

    def choose(self, history: ClientHistory, places: Tensor, count: int, round: int, key: Key) -> list[int]:
        """The candidates with the highest loss."""
        if self.refresh:
            losses_of = [history.fresh.get(history.names[place]) for place in places.tolist()]
            places = places[torch.tensor([loss is not None for loss in losses_of], dtype=torch.bool)]
            losses = torch.tensor([loss for loss in losses_of if loss is not None], dtype=torch.float64)
        else:
            losses = history.column("loss", places).nan_to_num(nan=math.inf)
        drawn = first_of(count, -losses, key.derive("ties").bits(len(places)))
        chosen: list[int] = places[drawn].tolist()
        return chosen

    def facts(self, population: int | None) -> SamplerFacts:
        """The cohort has a fixed size; sizes and losses are read."""
        return SamplerFacts("power of choice", float(self.count), population, reads=frozenset({"sizes", "losses"}))

"""Feature skew of tables, and concept shift: the same inputs under other labels."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from math import inf
from typing import ClassVar

import torch
from torch import Tensor

from headway.core.errors import ConfigError, DataError
from headway.data.dataset.federated import FederatedData
from headway.data.shift.image_shifts import affine_draws
from headway.data.shift.shifting import Move, Shift, need_half_widths, need_range, need_table
from headway.numerics.keys import Key


@dataclass(frozen=True)
class Affine(Shift):
    """`affine`: each client measures feature f as (1 + g_f) x_f + b_f, with g_f and b_f of its own.

    x `[F]`, as the model sees it, so after any standardising; g_f ~ U(-gain, gain), b_f ~ U(-bias, bias), one draw
    per client and feature.  A feature that is only ever 0 or 1 (a category, a flag) stays as it is.
    Neutral: gain 0 and bias 0.

    Raises:
        ConfigError: a gain outside 0..1, or a negative bias.

    Reference: covariate shift by site, Kairouz et al., arXiv 1912.04977, section 3.1; instruments that are
    calibrated differently.

    >>> Affine(bias=0.5)
    Affine(gain=0.0, bias=0.5)
    """

    kind: ClassVar[str] = "affine"
    gain: float = 0.0
    bias: float = 0.0

    def check(self) -> None:
        """Half-widths of the two draws."""
        need_half_widths(self.kind, gain=self.gain, bias=self.bias)

    def moves(self, data: FederatedData, key: Key) -> Mapping[str, Move]:
        """Every client, unless both are 0 or no feature is measured."""
        need_table(self.kind, data)
        measured = ((data.store.inputs != 0) & (data.store.inputs != 1)).any(dim=0)
        count = int(measured.sum())
        if self.gain == self.bias == 0 or count == 0:
            return {}
        moves = {}
        for client in data.clients:
            gains, biases = affine_draws(key.derive(client), len(measured), self.gain, self.bias)
            summary = f"{count} features, times {_span(gains[measured])}, plus {_span(biases[measured])}"
            moves[client] = Move(summary, partial(_affine, measured, gains, biases))
        return moves


def _affine(measured: Tensor, gains: Tensor, biases: Tensor, rows: Tensor) -> Tensor:
    return torch.where(measured, rows * gains.to(rows.dtype) + biases.to(rows.dtype), rows)


def _span(values: Tensor) -> str:
    return f"{float(values.min()):.2f} to {float(values.max()):.2f}"


@dataclass(frozen=True)
class Labels(Shift):
    """`labels`: a share of the clients calls some classes by each other's names (concept shift).

    round(share n) clients are drawn; at each, y becomes p(y), where p is a random cycle through `classes` (all where
    none is named), so that each of them changes and the others stay; two classes are swapped.  `clusters` above 0
    makes so many groups of the drawn clients, with one p each; otherwise each client has its own.
    Training and test parts change alike.  Neutral: share 0.

    Raises:
        ConfigError: a share outside 0..1, negative clusters, a single class, or one named twice or negative.

    Reference: clusters of clients with permuted labels, Sattler et al., arXiv 1910.01991; concept shift,
    Kairouz et al., arXiv 1912.04977, section 3.1.

    >>> Labels(share=0.3, classes=(4, 9))
    Labels(share=0.3, classes=(4, 9), clusters=0)
    """

    kind: ClassVar[str] = "labels"
    share: float
    classes: tuple[int, ...] = ()
    clusters: int = 0

    def check(self) -> None:
        """A share of the clients, and classes that differ."""
        need_range(self.kind, "share", self.share, 0, 1)
        need_range(self.kind, "clusters", self.clusters, 0, inf)
        if len(self.classes) == 1 or len(set(self.classes)) < len(self.classes) or min(self.classes, default=0) < 0:
            raise ConfigError(
                f"classes of the shift {self.kind!r} is {list(self.classes)}, but two or more different classes are "
                "needed, or none for all."
            )

    def moves(self, data: FederatedData, key: Key) -> Mapping[str, Move]:
        """The clients that are drawn."""
        if data.classes is None:
            raise DataError(f"the shift {self.kind!r} needs classes, but {data.name!r} is regression; leave it out.")
        chosen = self.classes or tuple(range(data.classes))
        if max(chosen) >= data.classes or len(chosen) < 2:
            raise DataError(
                f"the shift {self.kind!r} permutes the classes {list(chosen)}, but {data.name!r} has the classes 0 to "
                f"{data.classes - 1}; name two or more of those."
            )
        count = int(self.share * len(data.clients) + 0.5)
        if self.share > 0 and count == 0:
            raise DataError(
                f"share {self.share} of {len(data.clients)} clients is less than half a client, so the shift "
                f"{self.kind!r} would change no client; give a larger share."
            )
        moves = {}
        for place, number in enumerate(key.derive("clients").permutation(len(data.clients))[:count].tolist()):
            client = data.clients[number]
            purpose = key.derive("cluster", place % self.clusters) if self.clusters else key.derive(client)
            names = _cycle(chosen, data.classes, purpose)
            moves[client] = Move(_words(chosen, names), partial(_renamed, names), on="targets")
        return moves


def _cycle(chosen: tuple[int, ...], classes: int, key: Key) -> Tensor:
    """The new name of each class, int64 `[classes]`: one cycle through the chosen ones, in random order."""
    names = torch.arange(classes)
    order = torch.tensor(chosen)[key.permutation(len(chosen))]
    names[order] = order.roll(-1)
    return names


def _renamed(names: Tensor, targets: Tensor) -> Tensor:
    return names[targets.long()].to(targets.dtype)


def _words(chosen: tuple[int, ...], names: Tensor) -> str:
    if len(chosen) == 2:
        return f"labels {min(chosen)} and {max(chosen)} swapped"
    if len(chosen) > 10:
        return f"{len(chosen)} labels permuted"
    start = min(chosen)
    path, at = [start], int(names[start])
    while at != start:
        path.append(at)
        at = int(names[at])
    return f"labels {' > '.join(map(str, [*path, start]))}"

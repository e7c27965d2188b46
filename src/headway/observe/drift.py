"""How far clients pull apart: the measures that Headway is named after.

With d_i the clients' deltas, p_i their share of the weight and u = sum p_i d_i their common direction:

    headway_i = <d_i, u> / ||u||                          along the course
    leeway_i  = ||d_i - headway_i u / ||u|| ||            across it
    cosine_i  = <d_i, u> / (||d_i|| ||u||)
    diversity = sum ||p_i d_i||^2 / ||u||^2               1/C where C equal clients agree
    dissimilarity = sqrt(sum p_i ||d_i||^2) / ||u||       1 where all agree
    alignment = mean over pairs of cos(d_i, d_j)

All follow from the Gram matrix of the deltas.  It is exact while the cohort's deltas fit a stated budget;
beyond it, it is estimated from a seeded sketch of each delta, and labelled so.

Reference: Yin et al., arXiv 1706.05699 (gradient diversity); Li et al., arXiv 1812.06127, definition 3
(B-dissimilarity); both of deltas here and not of gradients.  Charikar et al., ICALP 2002 (count sketch).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from headway.core.gram import gram_matrix
from headway.core.keys import Key

BUDGET = 64 * 2**20  # bytes of deltas that are kept to be exact
SKETCH = 4096  # numbers per client beyond it


@dataclass(frozen=True, slots=True)
class ClientDrift:
    """One client's delta: its length, its part along and across the common direction, the cosine to it."""

    norm: float
    headway: float
    leeway: float
    cosine: float


@dataclass(frozen=True, slots=True)
class Drift:
    """A round's drift.  estimated: from sketches, and not exact."""

    clients: Mapping[str, ClientDrift]
    diversity: float
    dissimilarity: float
    alignment: float
    estimated: bool

    def numbers(self) -> dict[str, float]:
        """The round's figures, by name; headway and leeway are means over clients."""
        count = max(len(self.clients), 1)
        return {
            "headway": sum(c.headway for c in self.clients.values()) / count,
            "leeway": sum(c.leeway for c in self.clients.values()) / count,
            "diversity": self.diversity,
            "dissimilarity": self.dissimilarity,
            "alignment": self.alignment,
        }


class DriftMeter:
    """Collects the deltas of one round.

    cohort, size: how many clients are asked, and P; they decide whether the deltas fit the budget.
    key: of the sketch; the same for all clients of a round.
    """

    def __init__(self, cohort: int, size: int, key: Key, budget: int = BUDGET) -> None:
        self.sketch = None if 4 * cohort * size <= budget else _Sketch(size, key)
        self.rows: dict[str, Tensor] = {}
        self.weights: dict[str, float] = {}

    def add(self, client: str, delta: Tensor, weight: float) -> None:
        """Takes one client's delta `[P]`."""
        self.rows[client] = delta.float() if self.sketch is None else self.sketch(delta)
        self.weights[client] = weight

    def drift(self) -> Drift | None:
        """The round's drift; `None` without clients, or where they all stood still."""
        clients = sorted(self.rows)
        weights = torch.tensor([self.weights[client] for client in clients], dtype=torch.float64)
        if not clients or not float(weights.sum()) > 0:
            return None
        gram = gram_matrix(torch.stack([self.rows[client] for client in clients]))
        return from_gram(clients, gram, weights / weights.sum(), self.sketch is not None)


def from_gram(clients: list[str], gram: Tensor, shares: Tensor, estimated: bool = False) -> Drift | None:
    """The drift of deltas with this Gram matrix `[C, C]` and these shares of the weight `[C]`.

    `None` where the common direction is zero, so that nothing lies along it.
    """
    squares = gram.diagonal()
    along = gram @ shares
    common = float(shares @ along)
    if common <= 0:
        return None
    headway = along / common**0.5
    leeway = (squares - headway**2).clamp_min(0).sqrt()
    norms = squares.sqrt()
    cosine = torch.where(norms > 0, headway / norms, 0.0).clamp(-1, 1)
    pairs = gram / (norms.unsqueeze(0) * norms.unsqueeze(1)).clamp_min(1e-300)
    count = len(clients)
    alignment = float(pairs.sum() - pairs.diagonal().sum()) / (count * (count - 1)) if count > 1 else 1.0
    table = torch.stack([norms, headway, leeway, cosine], dim=1).tolist()
    return Drift(
        {client: ClientDrift(*row) for client, row in zip(clients, table, strict=True)},
        diversity=float(shares**2 @ squares) / common,
        dissimilarity=(float(shares @ squares) / common) ** 0.5,
        alignment=alignment,
        estimated=estimated,
    )


class _Sketch:
    """A count sketch: each coordinate is added, with a random sign, to one of 4,096 numbers.

    Inner products of sketches are unbiased, with a relative error of about sqrt(2 / 4096).
    """

    def __init__(self, size: int, key: Key) -> None:
        bits = key.bits(size)
        self.bucket = bits % SKETCH
        self.sign = ((bits >> 40) % 2 * 2 - 1).double()

    def __call__(self, delta: Tensor) -> Tensor:
        return torch.zeros(SKETCH, dtype=torch.float64).index_add_(0, self.bucket, delta.double() * self.sign)

"""The drift of clients' updates: the measures that Headway is named after.

With d_i the clients' deltas, p_i their share of the weight and u = sum p_i d_i their common direction:

    headway_i = <d_i, u> / ||u||                          along the course
    leeway_i  = ||d_i - headway_i u / ||u|| ||            across it
    cosine_i  = <d_i, u> / (||d_i|| ||u||)
    diversity = sum ||p_i d_i||^2 / ||u||^2               1/C where C equal clients agree
    dissimilarity = sqrt(sum p_i ||d_i||^2) / ||u||       1 where all agree
    agreement_i = mean over j != i of cos(d_i, d_j)       independent of lengths and weights
    alignment = mean over pairs of cos(d_i, d_j)

All follow from the Gram matrix of the deltas.  It is exact while the cohort's deltas fit a stated budget;
beyond it, it is estimated from a seeded sketch of each delta, and labelled so.

Within one client, with s_l its tau local steps as they were made (before any stage combines them):

    path_efficiency = ||sum_l s_l|| / sum_l ||s_l||                  1 for a straight path, 0 for one that returns
    step_variance = sum_l ||s_l - mean s||^2 = sum_l ||s_l||^2 - ||sum_l s_l||^2 / tau
    relative_step_variance = step_variance / sum_l ||s_l||^2         0 where all steps are equal

The accumulated step variance has no single standard definition; this one is ours.

Reference: Yin et al., arXiv 1706.05699 (gradient diversity); Li et al., arXiv 1812.06127, definition 3
(B-dissimilarity); both of deltas here and not of gradients.  Charikar et al., ICALP 2002 (count sketch).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from headway.numerics.gram import gram_matrix
from headway.numerics.keys import Key
from headway.observe.client_clusters import ClientClusters, find_clusters
from headway.protocol.messages import Ask

BUDGET = 64 * 2**20  # bytes of deltas that are kept to be exact
SKETCH = 4096  # numbers per client beyond it
RESOLVED = 1e-6  # of the steps' squared lengths: the resolution of their float32 norms


@dataclass(frozen=True, slots=True)
class ClientDrift:
    """One client's delta: its length, its part along and across the common direction, the cosine to it, and the
    mean cosine to the other clients."""

    norm: float
    headway: float
    leeway: float
    cosine: float
    agreement: float

    def numbers(self) -> dict[str, float]:
        """The figures by name; the length is the report's own."""
        return {
            "headway": self.headway,
            "leeway": self.leeway,
            "cosine": self.cosine,
            "agreement": self.agreement,
        }


@dataclass(frozen=True, slots=True)
class Drift:
    """A round's drift.  estimated: from sketches, and not exact.  clusters: the groups that it falls apart into."""

    clients: Mapping[str, ClientDrift]
    diversity: float
    dissimilarity: float
    alignment: float
    estimated: bool
    clusters: ClientClusters | None = None

    def numbers(self) -> dict[str, float]:
        """The round's figures, by name; headway and leeway are means over clients."""
        count = max(len(self.clients), 1)
        return {
            "headway": sum(c.headway for c in self.clients.values()) / count,
            "leeway": sum(c.leeway for c in self.clients.values()) / count,
            "diversity": self.diversity,
            "dissimilarity": self.dissimilarity,
            "alignment": self.alignment,
            **({} if self.clusters is None else self.clusters.numbers()),
        }

    def numbers_of(self, client: str) -> dict[str, float]:
        """One client's figures by name, with the number of its cluster, if it has one."""
        own = self.clients[client].numbers()
        return (
            own
            if self.clusters is None or client not in self.clusters.of
            else {**own, "cluster": self.clusters.of[client]}
        )


class DriftMeter:
    """Collects the deltas and paths of one round.

    cohort, size: how many clients are asked, and P; they decide whether the deltas fit the budget.
    key: of the sketch; the same for all clients of a round.  kept: whether the deltas go on to the standings of the
    clients, for which sketches of all rounds have one key.
    """

    def __init__(self, cohort: int, size: int, key: Key, budget: int = BUDGET, kept: bool = False) -> None:
        self.kept = kept
        self.sketch = None if 4 * cohort * size <= budget else _Sketch(size, key)
        self.width, self.number = (size, torch.float32) if self.sketch is None else (SKETCH, torch.float64)
        self.rows: dict[str, Tensor] = {}
        self.weights: dict[str, float] = {}
        self.paths: dict[str, dict[str, float]] = {}

    def add(self, client: str, delta: Tensor, weight: float) -> None:
        """Takes one client's delta `[P]`."""
        self.rows[client] = delta.float() if self.sketch is None else self.sketch(delta)
        self.weights[client] = weight

    def add_path(self, client: str, squares: Tensor, movement: Tensor) -> None:
        """Takes the squared lengths of one client's steps `[tau]`, and their sum `[P]`."""
        self.paths[client] = within_client(squares, movement)

    def add_lanes(self, clients: Sequence[str], deltas: Tensor, weights: Tensor) -> None:
        """Takes the deltas of many clients `[C, P]`."""
        rows = deltas.float() if self.sketch is None else self.sketch(deltas)
        self.rows |= dict(zip(clients, rows, strict=True))
        self.weights |= dict(zip(clients, weights.tolist(), strict=True))

    def add_paths(self, clients: Sequence[str], squares: Tensor, counts: Tensor, movements: Tensor) -> None:
        """Takes the squared lengths of many clients' steps `[C, K]`, of which the first `counts` were made."""
        self.paths |= dict(zip(clients, within_clients(squares, counts, movements), strict=True))

    def clear(self) -> None:
        """Forgets what was collected."""
        self.rows, self.weights, self.paths = {}, {}, {}

    @classmethod
    def of(cls, ask: Ask, cohort: int, size: int, key: Key, kept: bool) -> DriftMeter:
        """The meter of a round; key: of the run."""
        return cls(cohort, size, key.derive("standings") if kept else key.derive("drift", ask.round), kept=kept)

    def figures(self) -> tuple[dict[str, float], dict[str, dict[str, float]]]:
        """The round's figures and each client's, by name; those of paths are plain means over clients."""
        drift = self.drift()
        known = [path for _, path in sorted(self.paths.items()) if path]
        cohort = {name: sum(path[name] for path in known) / len(known) for name in (known[0] if known else ())}
        if drift is None:
            return cohort, self.paths
        return {**drift.numbers(), **cohort}, {
            client: {**drift.numbers_of(client), **self.paths.get(client, {})} for client in drift.clients
        }

    def drift(self) -> Drift | None:
        """The round's drift; `None` without clients, or where they all stood still."""
        clients = sorted(self.rows)
        weights = torch.tensor([self.weights[client] for client in clients], dtype=torch.float64)
        if not clients or not float(weights.sum()) > 0:
            return None
        gram = gram_matrix(torch.stack([self.rows[client] for client in clients])).cpu()
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
    agreement = (pairs.sum(1) - pairs.diagonal()) / (count - 1) if count > 1 else torch.ones_like(norms)
    table = torch.stack([norms, headway, leeway, cosine, agreement], dim=1).tolist()
    return Drift(
        {client: ClientDrift(*row) for client, row in zip(clients, table, strict=True)},
        diversity=float(shares**2 @ squares) / common,
        dissimilarity=(float(shares @ squares) / common) ** 0.5,
        alignment=float(agreement.mean()),
        estimated=estimated,
        clusters=find_clusters(clients, gram),
    )


def within_client(squares: Tensor, movement: Tensor) -> dict[str, float]:
    """The figures of one client's path, from the squared lengths of its steps `[tau]` and their sum `[P]`.

    Empty where it never moved.  A variance below a millionth of the sum of squares is rounding, and 0.

    >>> within_client(torch.tensor([4.0, 4.0]), torch.tensor([0.0, 4.0]))
    {'path_efficiency': 1.0, 'step_variance': 0.0, 'relative_step_variance': 0.0}
    """
    return within_clients(squares.unsqueeze(0), torch.tensor([len(squares)]), movement.unsqueeze(0))[0]


def within_clients(squares: Tensor, counts: Tensor, movements: Tensor) -> list[dict[str, float]]:
    """`within_client` of many: squares `[C, K]`, zero where a client made fewer steps than K, and sums `[C, P]`."""
    squares = squares.double()
    energy, length = squares.sum(1), squares.clamp_min(0).sqrt().sum(1)
    moved = torch.linalg.vector_norm(movements, dim=1, dtype=torch.float64).cpu()
    variance = energy - moved**2 / counts.clamp_min(1)
    variance = torch.where(variance > RESOLVED * energy, variance, 0.0)
    table = torch.stack([(moved / length).clamp_max(1.0), variance, variance / energy], dim=1).tolist()
    names = ("path_efficiency", "step_variance", "relative_step_variance")
    went = (energy > 0).tolist()
    return [dict(zip(names, row, strict=True)) if far else {} for row, far in zip(table, went, strict=True)]


class _Sketch:
    """A count sketch: each coordinate is added, with a random sign, to one of 4,096 numbers.

    Inner products of sketches are unbiased, with a relative error of about sqrt(2 / 4096).
    """

    def __init__(self, size: int, key: Key) -> None:
        bits = key.bits(size)
        self.bucket = bits % SKETCH
        self.sign = ((bits >> 40) % 2 * 2 - 1).double()

    def __call__(self, delta: Tensor) -> Tensor:
        self.bucket, self.sign = self.bucket.to(delta.device), self.sign.to(delta.device)
        sketch = delta.new_zeros(*delta.shape[:-1], SKETCH, dtype=torch.float64)
        return sketch.index_add_(-1, self.bucket, delta.double() * self.sign)

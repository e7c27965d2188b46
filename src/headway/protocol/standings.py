"""The standing of each client with the server: a score from the history of its updates, and its quarantine.

With d_i the delta of client i among n >= 3 that counted in a round (all numbers float64, from one Gram matrix):

    f_i = min(1, median ||d|| / ||d_i||)                  shortens what is longer than usual
    c = 1/n sum_i f_i d_i                                 the robust centre of the round
    m <- 0.97 m + 0.03 c                                  the direction of the rounds before, from m = 0
    length_i = min(1, 3 / z(||d_i||))                     1 up to 3 deviations above the median
    distance_i = min(1, 3 / z(||d_i - c_{-i}||))          c_{-i}: the centre of the others
    direction_i = clip(cos(d_i, m) / median cos(d, m), 0, 1)
    s_i = length_i direction_i distance_i

    z(x) = (x_i - median x) / max(1.4826 MAD(x), 0.1 median x)

`direction` is 1 for all where the cohort shares none: in the first round, and where the median cosine is not above its
own error, 1.4826 MAD / sqrt(n).  A shorter update than usual is not counted against its client, one of length 0 has the
direction 0.  An update whose length is not below 1e150 has s_i = 0 and no part in any of the others' numbers.

The product of bounded terms is our own; medians with MAD (Huber, Robust Statistics, 1981) and weights `min(1, k / z)`
(his psi function over z) are the usual ones.  No minority of updates moves a median without bound, and none moves the
centre by more than its share times the median length: neither a huge update nor one that overflows hides another.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from headway.numerics.distances import weighted_sum
from headway.numerics.gram import gram_matrix
from headway.protocol.reports import Reports
from headway.protocol.reputation import Reputation

CENTRE = "standings/centre"  # the name of its tensor in a checkpoint
LASTING = 0.97  # the share of the common direction that stays in each round
DEVIATIONS = 3.0
NORMAL = 1.4826  # median absolute deviations of a normal distribution in its standard deviation
LEAST_SPREAD = 0.1  # of the median
FEWEST = 3  # updates that can be compared
LONGEST = 1e150  # whose square is a finite number


@dataclass(frozen=True, slots=True)
class Standing:
    """One client's standing.

    score: see `Reputation`.  against: how many rounds count against it.  until: the first round, counted from 0, in
    which it may be drawn again after a quarantine; 0 if it was in none since it was last counted.
    """

    score: float = 1.0
    against: int = 0
    until: int = 0


@dataclass(frozen=True)
class Standings:
    """The standings of all clients that have answered; `after` gives those after one more round.

    centre: the common direction m of the rounds before, or of their sketches; `None` before the first.

    >>> standings = Standings(Reputation(quarantine_below=0.5, patience=1, memory=0.0))
    >>> reports = Reports("abcd", ["rejected", "counted", "counted", "counted"])
    >>> after = standings.after(0, reports, dict.fromkeys("bcd", torch.ones(2)))
    >>> after.clients["a"].score, after.clients["b"].score, after.excluded(1)
    (0.0, 1.0, ('a',))
    """

    policy: Reputation
    clients: Mapping[str, Standing] = field(default_factory=dict)
    centre: Tensor | None = None

    def after(self, round_: int, reports: Reports, deltas: Mapping[str, Tensor]) -> Standings:
        """The standings after a round, counted from 0, with these reports and the deltas `[P]` that counted."""
        counted = sorted(set(reports.with_status("counted").clients) & set(deltas))
        fits = dict.fromkeys(reports.with_status("rejected").clients, 0.0)
        centre = self.centre
        if len(counted) >= FEWEST:
            numbers, centre = compared(torch.stack([deltas[client] for client in counted]), centre)
            fits |= dict(zip(counted, numbers.tolist(), strict=True))
        clients = {**self.clients, **{client: self._moved(client, fit) for client, fit in sorted(fits.items())}}
        return replace(self, clients=self._admitted(clients, round_ + 1), centre=centre)

    def _moved(self, client: str, fit: float) -> Standing:
        """A client's standing after a round in which its update had this s_i."""
        policy, old = self.policy, self.clients.get(client, Standing())
        limit = 0.0 if policy.quarantine_below is None else policy.quarantine_below
        before = max(old.score, limit) if old.until else old.score  # of the first round after a quarantine
        score = policy.memory * before + (1 - policy.memory) * fit
        return Standing(score, old.against + 1 if score < limit else max(old.against - 1, 0))

    def _admitted(self, clients: dict[str, Standing], next_: int) -> dict[str, Standing]:
        """These standings with those in quarantine, from the next round on, that have come to it: the worst first, as
        many as may be there at once."""
        policy = self.policy
        room = int(policy.most * len(clients)) - sum(each.until > next_ for each in clients.values())
        due = sorted(
            (each.score, client)
            for client, each in clients.items()
            if each.against >= policy.patience and each.until <= next_
        )
        inside = {
            client: Standing(score, policy.patience - 1, next_ + policy.rounds) for score, client in due[: max(room, 0)]
        }
        return {**clients, **inside}

    def excluded(self, round_: int) -> tuple[str, ...]:
        """The clients in quarantine in a round, counted from 0, the worst first."""
        inside = [client for client, each in self.clients.items() if each.until > round_]
        return tuple(sorted(inside, key=lambda client: (self.clients[client].score, client)))

    def drawable(
        self, available: Sequence[str], round_: int, enough: Callable[[Sequence[str]], bool]
    ) -> tuple[Sequence[str], tuple[str, ...]]:
        """The clients that may be drawn in a round, in the order given; and those among them that are in quarantine,
        without whom the round could not be filled.

        enough: whether a cohort can be drawn from so few.
        """
        here = set(available)
        out, released = [client for client in self.excluded(round_) if client in here], list[str]()
        while out and not enough(_without(available, out)):
            released.append(out.pop())
        return _without(available, out) if out else available, tuple(sorted(released))

    def scores_of(self, clients: Iterable[str]) -> dict[str, float]:
        """The scores of these clients, as far as they have one."""
        return {client: self.clients[client].score for client in clients if client in self.clients}

    def until(self, round_: int) -> dict[str, int]:
        """Of each client in quarantine in a round, counted from 0, the last round of it, counted from 1."""
        return {client: self.clients[client].until for client in sorted(self.excluded(round_))}

    def remarks(self, before: Standings, round_: int) -> list[str]:
        """Sentences on the clients whose quarantine began after a round, counted from 0, or ends with it."""
        begun = [
            f"{client} ({self.clients[client].score:.2f})"
            for client in sorted(self.excluded(round_ + 1))
            if before.clients.get(client, Standing()).until != self.clients[client].until
        ]
        ended = [client for client, each in sorted(self.clients.items()) if each.until == round_ + 1]
        policy, sentences = self.policy, list[str]()
        if begun:
            sentences.append(
                f"in quarantine from the next round on, for {policy.rounds} rounds: {', '.join(begun)}, whose "
                f"reputation is below {policy.quarantine_below:g}."
            )
        if ended:
            sentences.append(f"on probation after {policy.rounds} rounds of quarantine: {', '.join(ended)}.")
        return sentences


class StandingsRecord:
    """The standings of a run at the server, between two rounds."""

    def __init__(self, policy: Reputation) -> None:
        self.now = Standings(policy)

    def to_state(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """Plain values, which JSON holds to the bit, and tensors under their names in a checkpoint."""
        values = {client: [each.score, each.against, each.until] for client, each in self.now.clients.items()}
        return values, {} if self.now.centre is None else {CENTRE: self.now.centre}

    def from_state(self, values: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
        """Goes on from what `to_state` gave; other tensors may be among these."""
        clients = {client: Standing(*each) for client, each in values.items()}
        self.now = replace(self.now, clients=clients, centre=tensors.get(CENTRE))


def compared(rows: Tensor, centre: Tensor | None) -> tuple[Tensor, Tensor]:
    """s_i of each delta `[C, P]`, float64 `[C]`, and the common direction after the round, float64 `[P]`.

    centre: the direction before it.

    >>> rows = torch.tensor([[1.0, 0.1], [1.0, -0.1], [1.0, 0.0], [-1.0, 0.0], [3e38, 0.0]])
    >>> compared(rows, torch.tensor([1.0, 0.0]).double())[0].round(decimals=3)
    tensor([1., 1., 1., 0., 0.], dtype=torch.float64)
    """
    rows, fits = rows.cpu().double(), torch.zeros(len(rows), dtype=torch.float64)
    before = rows.new_zeros(rows.shape[1]) if centre is None else centre
    lengths = torch.linalg.vector_norm(rows, dim=1)
    usable = (lengths < LONGEST).nonzero().flatten()  # not for one that is NaN
    if len(usable) < FEWEST:
        return fits, before
    rows, lengths = rows[usable], lengths[usable]
    shares = _ratio(lengths.median(), lengths).clamp_max(1) / len(rows)
    cosines = rows @ before / (lengths * torch.linalg.vector_norm(before)).clamp_min(1e-300)
    fits[usable] = _weight(lengths) * _direction(cosines) * _weight(_distances(gram_matrix(rows), shares))
    return fits, LASTING * before + (1 - LASTING) * weighted_sum(rows, shares)


def _weight(numbers: Tensor) -> Tensor:
    """`min(1, 3 / z)`, z being how many deviations a number lies above the median."""
    middle = numbers.median()
    spread = torch.maximum(NORMAL * (numbers - middle).abs().median(), LEAST_SPREAD * middle)
    return _ratio(DEVIATIONS * spread, numbers - middle).clamp(0, 1)


def _direction(cosines: Tensor) -> Tensor:
    """The share of the median cosine that each has, at most 1; 1 where the median is no more than an error of it."""
    middle = cosines.median()
    error = NORMAL * (cosines - middle).abs().median() / len(cosines) ** 0.5
    return (cosines / middle).clamp(0, 1) if float(middle) > float(error) else torch.ones_like(cosines)


def _distances(gram: Tensor, shares: Tensor) -> Tensor:
    """`||d_i - c_{-i}||`, c_{-i} being the mean of the other shortened rows, from the inner products `[C, C]`."""
    count, squares = len(gram), gram.diagonal()
    scale = count / max(count - 1, 1)
    whole = gram @ shares
    # <d_i, c_{-i}> and ||c_{-i}||^2, where c_{-i} = scale (c - share_i d_i)
    along = scale * (whole - shares * squares)
    length = scale**2 * (shares @ whole - 2 * shares * whole + shares**2 * squares)
    return (squares - 2 * along + length).clamp_min(0).sqrt()


def _ratio(above: Tensor, below: Tensor) -> Tensor:
    """A quotient, infinite where the divisor is not above 0."""
    return torch.where(below > 0, above / below.clamp_min(1e-300), torch.inf)


def _without(clients: Sequence[str], out: Iterable[str]) -> Sequence[str]:
    gone = set(out)
    return [client for client in clients if client not in gone]

"""Which clients share a mask: all pairs of a small cohort, a random regular graph of a large one.

A client's neighbours hold the shares of its secrets.  Its degree and the threshold of shares follow from how many
clients may collude with the server and how many may drop out, by the tails of the hypergeometric distribution.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

from headway.numerics.binomial import log_choose
from headway.numerics.keys import Key
from headway.numerics.secure_random import SecureStream

COMPLETE = 64  # clients up to which every pair shares a mask
PRIVACY, COMPLETION = 40, 20  # bits: 2^-40 that a single update can be seen, 2^-20 that the sum cannot be unmasked


@dataclass(frozen=True, slots=True)
class GraphPlan:
    """The form of the graph of a cohort.

    degree: how many neighbours each client has.  threshold: how many shares give a secret, of a client's neighbours'
    and its own.
    """

    degree: int
    threshold: int


@lru_cache(maxsize=256)
def plan_graph(clients: int, needed: int, corrupt: float) -> GraphPlan | None:
    """The sparsest graph that is safe; `None` if the complete one is needed too.

    clients: n.  needed: how many remain to the end at least.  corrupt: the share of clients that may collude with the
    server.

    With c = floor(corrupt n) colluding clients and d = n - needed that drop out, k neighbours and the threshold t:
    `n P(H(n-1, c, k) >= t) <= 2^-41` (no secret from colluding neighbours), `n P(H(n-1, needed, k) < t) <= 2^-20` (each
    secret that is needed is found), and `n^2 / 2 C(n-k, c+d-k) / C(n, c+d) <= 2^-41`: the others stay connected, since
    a circle falls apart only where k/2 neighbours in a row are missing at two places.

    Reference: Bell et al., arXiv/eprint 2020/704, section 3.3 and Theorem 3.10.
    Differs from the paper: exact tails instead of their bounds.

    >>> plan_graph(1000, 700, 0.1)
    GraphPlan(degree=88, threshold=36)
    """
    colluding, missing = math.floor(corrupt * clients), clients - needed
    for degree in range(2, clients - 1, 2):
        if _disconnected(clients, colluding + missing, degree) > 2.0 ** -(PRIVACY + 1):
            continue
        threshold = _largest_threshold(clients, needed, degree)
        if threshold > 0 and clients * tail(clients - 1, colluding, degree, threshold) <= 2.0 ** -(PRIVACY + 1):
            return GraphPlan(degree, threshold)
    return None


def graph_plan(clients: int, needed: int, corrupt: float) -> GraphPlan:
    """The graph of a cohort of which `needed` clients remain at least: complete up to 64 clients, or where no sparser
    one is safe; its threshold is then `needed`."""
    sparse = plan_graph(clients, needed, corrupt) if clients > COMPLETE else None
    return sparse or GraphPlan(clients - 1, needed)


def circle_of(members: Sequence[int], seed: bytes) -> list[int]:
    """The members in an order by 128 random bits each, which the seed of 32 bytes draws (AES-256-CTR)."""
    stream = SecureStream(Key(seed)).bytes(16 * len(members)).tobytes()
    drawn = {member: stream[16 * place : 16 * place + 16] for place, member in enumerate(members)}
    return sorted(members, key=lambda member: (drawn[member], member))


def neighbours(circle: Sequence[int], place: int, degree: int) -> tuple[int, ...]:
    """The neighbours, sorted, of the member at a place of a circle: those up to half the degree away.

    A cohort of at most `degree + 1` is complete.

    >>> neighbours([4, 2, 0, 1, 3], 0, 2), neighbours([4, 2, 0, 1, 3], 0, 4)
    ((2, 3), (0, 1, 2, 3))
    """
    if degree >= len(circle) - 1:
        return tuple(sorted(other for other in circle if other != circle[place]))
    sides = (place + step * side for step in range(1, degree // 2 + 1) for side in (1, -1))
    return tuple(sorted(circle[side % len(circle)] for side in sides))


def tail(population: int, marked: int, drawn: int, least: int) -> float:
    """`P(H >= least)`: at least so many marked ones among `drawn` of a population, without replacement."""
    most = min(marked, drawn)
    return math.fsum(_probability(population, marked, drawn, count) for count in range(max(least, 0), most + 1))


def _probability(population: int, marked: int, drawn: int, count: int) -> float:
    if count < 0 or count > min(marked, drawn) or drawn - count > population - marked:
        return 0.0
    logs = log_choose(marked, count) + log_choose(population - marked, drawn - count) - log_choose(population, drawn)
    return math.exp(logs)


def _largest_threshold(clients: int, needed: int, degree: int) -> int:
    """The largest t with `n P(H(n-1, needed, k) < t) <= 2^-20`."""
    below, limit = 0.0, 2.0**-COMPLETION / clients
    for threshold in range(degree + 1):
        below += _probability(clients - 1, min(needed, clients - 1), degree, threshold)
        if below > limit:
            return threshold
    return degree


def _disconnected(clients: int, missing: int, degree: int) -> float:
    """A bound of the probability that two runs of k/2 neighbours in the circle are missing."""
    if missing < degree:
        return 0.0
    return math.exp(
        2 * math.log(clients)
        - math.log(2)
        + log_choose(clients - degree, missing - degree)
        - log_choose(clients, missing)
    )

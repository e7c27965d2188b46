"""Slow references of the robust rules, from the papers' definitions, over Python floats."""

from __future__ import annotations

from itertools import combinations
from math import sqrt
from statistics import median

Rows = list[list[float]]


def apart(a, b):
    return sqrt(sum((x - y) ** 2 for x, y in zip(a, b, strict=True)))


def mean(rows):
    return [sum(column) / len(rows) for column in zip(*rows, strict=True)]


def coordinate_median(rows: Rows, f: int):
    return [median(column) for column in zip(*rows, strict=True)]


def trimmed_mean(rows: Rows, f: int):
    return [sum(sorted(column)[f : len(rows) - f]) / (len(rows) - 2 * f) for column in zip(*rows, strict=True)]


def around_median(rows: Rows, kept: int):
    result = []
    for column in zip(*rows, strict=True):
        middle = median(column)
        result.append(sum(sorted(column, key=lambda x, m=middle: (abs(x - m), x))[:kept]) / kept)
    return result


def mean_around_median(rows: Rows, f: int):
    return around_median(rows, len(rows) - f)


def scores(rows: Rows, f: int):
    """Of each row its score, and for rows of equal scores that of one more neighbour."""
    result, kept = [], max(len(rows) - f - 2, 1)
    for i, row in enumerate(rows):
        squares = sorted(sum((x - y) ** 2 for x, y in zip(row, r, strict=True)) for j, r in enumerate(rows) if j != i)
        result.append((sum(squares[:kept]), sum(squares[: kept + 1])))
    return result


def krum(rows: Rows, f: int):
    return rows[min(range(len(rows)), key=scores(rows, f).__getitem__)]


def multi_krum(rows: Rows, f: int):
    order = sorted(range(len(rows)), key=scores(rows, f).__getitem__)
    return mean([rows[i] for i in order[: len(rows) - f]])


def bulyan(rows: Rows, f: int):
    left, picked = list(rows), []
    while len(picked) < len(rows) - 2 * f:
        picked.append(left.pop(min(range(len(left)), key=scores(left, f).__getitem__)))
    return around_median(picked, len(picked) - 2 * f)


def geometric_median(rows: Rows, f: int):
    point = mean(rows)
    for _ in range(20_000):
        weights = [1 / max(apart(row, point), 1e-14) for row in rows]
        point = [sum(w * x for w, x in zip(weights, c, strict=True)) / sum(weights) for c in zip(*rows, strict=True)]
    return point


def minimum_diameter(rows: Rows, f: int):
    def diameter(places):
        return max((apart(rows[i], rows[j]) for i, j in combinations(places, 2)), default=0.0)

    return mean([rows[i] for i in min(combinations(range(len(rows)), len(rows) - f), key=diameter)])


def centred_clipping(rows: Rows, tau: float, iterations: int, centre):
    for _ in range(iterations):
        moves = []
        for row in rows:
            away = [x - c for x, c in zip(row, centre, strict=True)]
            share = min(1.0, tau / max(apart(row, centre), 1e-300))
            moves.append([share * x for x in away])
        centre = [c + m for c, m in zip(centre, mean(moves), strict=True)]
    return centre


def nearest_mixing(rows: Rows, f: int):
    mixed = []
    for row in rows:
        near = sorted(range(len(rows)), key=lambda j, r=row: apart(r, rows[j]))[: len(rows) - f]
        mixed.append(mean([rows[j] for j in near]))
    return mixed


def norm_bound(rows: Rows, norm: float):
    zero = [0.0] * len(rows[0])
    return mean([[x * min(1.0, norm / max(apart(row, zero), 1e-300)) for x in row] for row in rows])


def adaptive_clipping(rows: Rows, f: int):
    zero = [0.0] * len(rows[0])
    lengths = sorted((apart(row, zero) for row in rows), reverse=True)
    limit = lengths[int(2 * f * (len(rows) - f) / len(rows))]
    return [[x * min(1.0, limit / apart(row, zero)) for x in row] for row in rows]


def fl_trust(rows: Rows, root: int):
    def dot(a, b):
        return sum(x * y for x, y in zip(a, b, strict=True))

    base = rows[root]
    total, trusts = [0.0] * len(base), 0.0
    for i, row in enumerate(rows):
        if i == root:
            continue
        trust = max(0.0, dot(row, base) / sqrt(dot(row, row) * dot(base, base)))
        trusts += trust
        total = [t + trust * x * sqrt(dot(base, base) / dot(row, row)) for t, x in zip(total, row, strict=True)]
    return [t / trusts for t in total] if trusts else total


def majority_vote(
    vectors: dict[str, list[float]], replicas: int, tolerance: float
) -> dict[str, tuple[list[float] | None, list[str] | None]]:
    """Of each group the vote and its liars; None for both without a majority."""
    groups: dict[str, list[str]] = {}
    for name in sorted(vectors):
        groups.setdefault(name.rpartition(".")[0], []).append(name)
    found: dict[str, tuple[list[float] | None, list[str] | None]] = {}
    for group, names in groups.items():
        best: list[str] = []
        vote = None
        for name in names:
            with_it = [other for other in names if _near(vectors[name], vectors[other], tolerance)]
            if len(with_it) > len(best):
                best, vote = with_it, vectors[name]
        won = len(best) > replicas / 2
        found[group] = (vote, [name for name in names if name not in best]) if won else (None, None)
    return found


def _near(one: list[float], other: list[float], tolerance: float) -> bool:
    apart = sqrt(sum((a - b) ** 2 for a, b in zip(one, other, strict=True)))
    longest = max(sqrt(sum(a * a for a in one)), sqrt(sum(b * b for b in other)))
    return apart <= tolerance * longest


def zeno(now: float, losses: dict[str, float], squares: dict[str, float], drop: int, margin: float, rho: float) -> set:
    """The clients whose updates are left after the worst are taken out one at a time."""
    left = sorted(losses)
    for _ in range(min(drop, len(left))):
        worst = left[0]
        for client in left[1:]:
            if now - losses[client] - rho * squares[client] <= now - losses[worst] - rho * squares[worst]:
                worst = client
        left.remove(worst)
    return {client for client in left if losses[client] - now <= margin}

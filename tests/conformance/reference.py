"""Slow references, written from the papers' equations over Python floats.  Nothing of Headway is used here.

A problem is `(A, b, n)`: f(w) = 1/2 (w - b)^T A (w - b) over n examples, as lists of floats.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import sqrt

Vector = list[float]
Problem = tuple[list[Vector], Vector, int]
Reaggregate = Callable[[list[Vector]], Vector]


def gradient(problem: Problem, w: Vector) -> Vector:
    A, b, _ = problem
    return [sum(A[r][c] * (w[c] - b[c]) for c in range(len(w))) for r in range(len(w))]


def plus(a: Vector, b: Vector, times: float = 1.0) -> Vector:
    return [x + times * y for x, y in zip(a, b, strict=True)]


def norm(a: Vector) -> float:
    return sqrt(sum(x * x for x in a))


def summed(vectors: Sequence[Vector]) -> Vector:
    total = [0.0] * len(vectors[0])
    for vector in vectors:
        total = plus(total, vector)
    return total


def local_steps(
    problem: Problem,
    start: Vector,
    count: int,
    lr: float,
    momentum: float = 0.0,
    change: Callable[[Vector, Vector], Vector] = lambda grad, w: grad,
    steer: Callable[[Vector], Vector] = lambda v: v,
) -> list[Vector]:
    """The displacements of heavy-ball descent: v <- momentum v + g; w <- w - lr v."""
    w, v, displacements = list(start), [0.0] * len(start), []
    for _ in range(count):
        v = plus(change(gradient(problem, w), w), v, momentum)
        step = [-lr * x for x in steer(v)]
        w = plus(w, step)
        displacements.append(step)
    return displacements


def greedy_indices(steps: Sequence[Vector], select: float) -> list[int]:
    """arXiv 2601.03584: take the step that keeps the running sum shortest; ties to the lowest index."""
    running, chosen = [0.0] * len(steps[0]), []
    for _ in range(max(1, int(len(steps) * select))):
        best = None
        for index in range(len(steps)):
            if index in chosen:
                continue
            length = sum((r + s) ** 2 for r, s in zip(running, steps[index], strict=True))
            if best is None or length < best[0]:
                best = (length, index)
        chosen.append(best[1])
        running = plus(running, steps[best[1]])
    return chosen


def ecgr(select: float, beta: float) -> Reaggregate:
    """c = selected + beta * unselected, rescaled to the length of the total."""

    def final(steps: list[Vector]) -> Vector:
        chosen = greedy_indices(steps, select)
        total = summed(steps)
        c = summed([[x * (1.0 if i in chosen else beta) for x in step] for i, step in enumerate(steps)])
        if norm(total) == 0.0:
            return [0.0] * len(total)
        return total if norm(c) == 0.0 else [x * norm(total) / norm(c) for x in c]

    return final


def server_momentum(lr: float, b: float) -> Callable[[Vector, Vector], Vector]:
    """FedAvgM: v <- b v + Delta; x <- x + lr v."""
    v: Vector = []

    def update(x: Vector, delta: Vector) -> Vector:
        v[:] = [b * old + d for old, d in zip(v or [0.0] * len(x), delta, strict=True)]
        return plus(x, v, lr)

    return update


def server_adam(lr: float, b1: float, b2: float, tau: float, corrected: bool) -> Callable[[Vector, Vector], Vector]:
    """FedAdam, arXiv 2003.00295, Algorithm 2; `corrected` is Adam as Kingma and Ba have it, v starting at 0."""
    m: Vector = []
    v: Vector = []
    rounds = [0]

    def update(x: Vector, delta: Vector) -> Vector:
        if not m:
            m[:], v[:] = [0.0] * len(x), [0.0 if corrected else tau * tau] * len(x)
        rounds[0] += 1
        moved = []
        for j, d in enumerate(delta):
            m[j] = b1 * m[j] + (1 - b1) * d
            v[j] = b2 * v[j] + (1 - b2) * d * d
            scale_m = 1 - b1 ** rounds[0] if corrected else 1.0
            scale_v = 1 - b2 ** rounds[0] if corrected else 1.0
            moved.append(x[j] + lr * (m[j] / scale_m) / (sqrt(v[j] / scale_v) + tau))
        return moved

    return update


def fedavg(
    problems: Sequence[Problem],
    start: Vector,
    cohorts: Sequence[Sequence[int]],
    count: int,
    lr: float,
    *,
    momentum: float = 0.0,
    mu: float = 0.0,
    reaggregate: Reaggregate = summed,
    server: Callable[[Vector, Vector], Vector] = plus,
) -> Vector:
    """FedAvg, and FedProx with mu > 0: clients weighted by their numbers of examples."""
    x = list(start)
    for cohort in cohorts:
        examples = sum(problems[i][2] for i in cohort)
        delta = [0.0] * len(x)
        for i in cohort:
            anchor = list(x)
            steps = local_steps(
                problems[i], x, count, lr, momentum, lambda g, w, anchor=anchor: plus(g, plus(w, anchor, -1.0), mu)
            )
            delta = plus(delta, reaggregate(steps), problems[i][2] / examples)
        x = server(x, delta)
    return x


def scaffold(
    problems: Sequence[Problem],
    start: Vector,
    cohorts: Sequence[Sequence[int]],
    count: int,
    lr: float,
    *,
    option: str,
    correct: str = "gradient",
    momentum: float = 0.0,
    reaggregate: Reaggregate = summed,
    server: Callable[[Vector, Vector], Vector] = plus,
) -> Vector:
    """arXiv 1910.06378, Algorithm 1: uniform mean of the models, c over all N clients.

    With momentum, option II divides by the learning rate that each gradient received until the last step:
    the gradient of step k counts lr (1 + momentum + ... + momentum^(K-1-k)).  With correct="step" the
    correction is added to the velocity as it is used, and the divisor is K lr.
    """
    x, c = list(start), [0.0] * len(start)
    own = [[0.0] * len(start) for _ in problems]
    received = sum(lr * momentum**j for k in range(count) for j in range(count - k))
    received = count * lr if correct == "step" else received
    for cohort in cohorts:
        delta, change = [0.0] * len(x), [0.0] * len(x)
        for i in cohort:

            def corrected(g: Vector, w: Vector | None = None, c: Vector = c, c_i: Vector = own[i]) -> Vector:
                return plus(plus(g, c_i, -1.0), c)

            rule = {"steer": corrected} if correct == "step" else {"change": corrected}
            steps = local_steps(problems[i], x, count, lr, momentum, **rule)
            if option == "I":
                new = gradient(problems[i], x)
            else:
                new = plus(plus(own[i], c, -1.0), summed(steps), -1.0 / received)
            delta = plus(delta, reaggregate(steps), 1.0 / len(cohort))
            change = plus(change, plus(new, own[i], -1.0), 1.0 / len(problems))
            own[i] = new
        x, c = server(x, delta), plus(c, change)
    return x


def server_second_moment(
    lr: float, b1: float, tau: float, moment: Callable[[float, float], float]
) -> Callable[[Vector, Vector], Vector]:
    """FedAdagrad and FedYogi, arXiv 2003.00295, Algorithm 2: they differ in v, given by `moment(v, d)`."""
    m: Vector = []
    v: Vector = []

    def update(x: Vector, delta: Vector) -> Vector:
        if not m:
            m[:], v[:] = [0.0] * len(x), [tau * tau] * len(x)
        for j, d in enumerate(delta):
            m[j] = b1 * m[j] + (1 - b1) * d
            v[j] = moment(v[j], d)
        return [x[j] + lr * m[j] / (sqrt(v[j]) + tau) for j in range(len(x))]

    return update


def nova_length(count: int, lr: float, momentum: float, mu: float) -> float:
    """arXiv 2007.07481: the L1 norm of how the gradients are accumulated; with both, of which the paper has no formula,
    how far a gradient of 1 moves a model that starts at 0, over the learning rate."""
    if mu and momentum:
        moved = velocity = 0.0
        for _ in range(count):
            velocity = momentum * velocity + 1 - mu * moved
            moved += lr * velocity
        return moved / lr
    if mu:
        a = 0.0
        for _ in range(count):
            a = a * (1 - lr * mu) + 1
        return a
    if momentum:
        return (count - momentum * (1 - momentum**count) / (1 - momentum)) / (1 - momentum)
    return float(count)


def fednova(
    problems: Sequence[Problem],
    start: Vector,
    cohorts: Sequence[Sequence[int]],
    counts: Sequence[int],
    lr: float,
    *,
    momentum: float = 0.0,
    mu: float = 0.0,
    reaggregate: Reaggregate = summed,
    server: Callable[[Vector, Vector], Vector] = plus,
) -> Vector:
    """arXiv 2007.07481: x <- x - tau_eff sum p_i d_i; with a proximal term tau_eff takes the a_i without it."""
    x = list(start)
    for cohort in cohorts:
        examples = sum(problems[i][2] for i in cohort)
        mean, effective = [0.0] * len(x), 0.0
        for i in cohort:
            p, anchor = problems[i][2] / examples, list(x)
            steps = local_steps(
                problems[i], x, counts[i], lr, momentum, lambda g, w, anchor=anchor: plus(g, plus(w, anchor, -1.0), mu)
            )
            a = nova_length(counts[i], lr, momentum, mu)
            mean = plus(mean, reaggregate(steps), p / a)
            effective += p * nova_length(counts[i], lr, momentum, 0.0)
        x = server(x, [effective * d for d in mean])
    return x


def feddyn(
    problems: Sequence[Problem],
    start: Vector,
    cohorts: Sequence[Sequence[int]],
    count: int,
    lr: float,
    *,
    alpha: float,
    momentum: float = 0.0,
    reaggregate: Reaggregate = summed,
    server: Callable[[Vector, Vector], Vector] = plus,
) -> Vector:
    """arXiv 2111.04263, Algorithm 1, with gradient steps on the bent objective."""
    x, h = list(start), [0.0] * len(start)
    bent = [[0.0] * len(start) for _ in problems]
    for cohort in cohorts:
        total = [0.0] * len(x)
        for i in cohort:
            anchor, own = list(x), bent[i]
            steps = local_steps(
                problems[i],
                x,
                count,
                lr,
                momentum,
                lambda g, w, anchor=anchor, own=own: plus(plus(g, own, -1.0), plus(w, anchor, -1.0), alpha),
            )
            moved = reaggregate(steps)
            bent[i] = plus(own, moved, -alpha)
            total = plus(total, moved)
        h = plus(h, total, -alpha / len(problems))
        x = server(x, plus([t / len(cohort) for t in total], h, -1.0 / alpha))
    return x


def qfedavg(
    problems: Sequence[Problem],
    start: Vector,
    cohorts: Sequence[Sequence[int]],
    count: int,
    lr: float,
    *,
    q: float,
    momentum: float = 0.0,
    reaggregate: Reaggregate = summed,
    server: Callable[[Vector, Vector], Vector] = plus,
) -> Vector:
    """arXiv 1905.10497, Algorithm 2, with L = 1 / lr."""
    x = list(start)
    for cohort in cohorts:
        top, bottom = [0.0] * len(x), 0.0
        for i in cohort:
            A, b, _ = problems[i]
            gap = plus(x, b, -1.0)
            loss = 0.5 * sum(gap[r] * A[r][c] * gap[c] for r in range(len(x)) for c in range(len(x))) + 1e-10
            grad = [-d / lr for d in reaggregate(local_steps(problems[i], x, count, lr, momentum))]
            top = plus(top, grad, loss**q)
            bottom += q * loss ** (q - 1) * norm(grad) ** 2 + loss**q / lr
        x = server(x, [-t / bottom for t in top])
    return x

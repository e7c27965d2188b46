"""Alarms from the drift of the last rounds: clients that pull against or far beyond the others, and clusters.

    against   a client's agreement, its mean cosine to the others, was below -0.15 in each of its last 3 rounds, while
              the others agreed with each other
    above     a client's update was far longer than the cohort's median in each of its last 3 rounds
    clusters     the cohort fell apart into the same groups in each of the last 3 rounds in which they met

One round alone raises nothing: noise changes its direction, and the influence of a client's data stays.
"""

from __future__ import annotations

import statistics
from collections import Counter, deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from headway.data.dataset.labels import LabelCounts
from headway.observe.observer import Observer, TrainedRound
from headway.observe.round_report import Alarm, RoundReport

ROUNDS = 3  # in a row that a client was in
HORIZON = 30  # rounds that are looked back at
AGAINST = -0.15  # agreement below which a client pulls against the others, and not merely across
OTHERS_AGREE = 0.5  # mean cosine among the others from which they have a common direction
FEWEST = 5  # clients from which a median is meaningful
DEVIATIONS = 6.0  # median absolute deviations, scaled to a normal's standard deviation ...
TIMES = 4.0  # ... and times the median, above which a norm is far above the cohort
EVERY = 10  # rounds between two lines about one kind of alarm

Labels = Mapping[str, Sequence[int]]


@dataclass(frozen=True, slots=True)
class Figures:
    """The drift of one round: each client's figures ("norm", "agreement", "cluster") and the cohort's, by name."""

    round: int
    clients: Mapping[str, Mapping[str, float]]
    cohort: Mapping[str, float]

    @classmethod
    def of(cls, report: RoundReport) -> Figures:
        """The drift in a report; of the clients, only those that were counted and measured."""
        measured = report.clients.with_status("counted").with_metric("agreement")
        clients = {each.client: {**each.metrics, "norm": each.norm} for each in measured if each.norm is not None}
        return cls(report.round, clients, report.drift)


class AlarmWatch(Observer):
    """Keeps the drift of the last rounds, and raises alarms from it.

    labels: how many examples of each label a client has, where that is known.
    """

    def __init__(self, labels: Labels | None = None) -> None:
        self.labels: Labels = labels or {}
        self.history: deque[Figures] = deque(maxlen=HORIZON)

    def on_trained(self, trained: TrainedRound) -> Sequence[Alarm]:
        """The alarms after this round."""
        return self.alarms_after(Figures.of(trained.report))

    def alarms_after(self, figures: Figures) -> tuple[Alarm, ...]:
        """The alarms after one more round."""
        if figures.clients:
            self.history.append(figures)
        return alarms(self.history, self.labels) if figures.clients else ()

    def restart(self, rounds: Iterable[Figures]) -> None:
        """Starts again from earlier rounds, oldest first."""
        self.history.clear()
        self.history.extend(figures for figures in rounds if figures.clients)


def alarms(history: Sequence[Figures], labels: Labels | None = None) -> tuple[Alarm, ...]:
    """The alarms after the last of these rounds; a pure function of them.

    history: oldest first, of which the last 30 rounds count.
    """
    if not history:
        return ()
    recent = [figures for figures in history if figures.round > history[-1].round - HORIZON][::-1]
    raised = (_against(recent, labels or {}), _above(recent, labels or {}), _clusters(recent, labels or {}))
    return tuple(alarm for alarm in raised if alarm is not None)


def _against(recent: Sequence[Figures], labels: Labels) -> Alarm | None:
    """Clients that pull against the others.

    Where the others do not agree among themselves there is nothing to pull against: with A the alignment of C
    clients and m_i one's agreement, that of the others is `(C A - 2 m_i) / (C - 2)`.
    """

    def agreement(figures: Figures, client: str) -> float:
        own, count = figures.clients[client]["agreement"], len(figures.clients)
        others = (count * figures.cohort["alignment"] - 2 * own) / (count - 2) if count > 2 else 0.0
        return own if others >= OTHERS_AGREE else 0.0

    means = _persistent(recent, agreement, lambda value: value < AGAINST)
    if not means:
        return None
    names = _list(_named(client, f"{mean:.2f}", _labels([client], labels)) for client, mean in means.items())
    pulls = "pulls" if len(means) == 1 else "pull"
    return Alarm(
        "against",
        tuple(means),
        f"{names} {pulls} against the other clients: mean cosine to them, in its last {ROUNDS} rounds.",
        {f"agreement of {client}": value for client, value in means.items()},
    )


def _above(recent: Sequence[Figures], labels: Labels) -> Alarm | None:
    """Clients whose updates are far longer than the cohort's."""
    limits = {id(figures): _limit([each["norm"] for each in figures.clients.values()]) for figures in recent}

    def times(figures: Figures, client: str) -> float:
        median, limit = limits[id(figures)]
        norm = figures.clients[client]["norm"]
        return norm / median if norm > limit else 0.0

    means = _persistent(recent, times, lambda value: value > 0)
    if not means:
        return None
    names = _list(
        _named(client, f"{mean:.3g} times the median", _labels([client], labels)) for client, mean in means.items()
    )
    return Alarm(
        "above",
        tuple(means),
        f"the updates of {names} are far longer than the cohort's, {ROUNDS} rounds in a row.",
        {f"times the median of {client}": value for client, value in means.items()},
    )


def _limit(norms: Sequence[float]) -> tuple[float, float]:
    """The median of a cohort's norms, and what is far above it.

    `max(median + 6 * 1.4826 * MAD, 4 median)`, MAD being the median absolute deviation; infinite for few clients.
    """
    median = statistics.median(norms)
    if len(norms) < FEWEST or median <= 0:
        return 1.0, float("inf")
    spread = 1.4826 * statistics.median(abs(norm - median) for norm in norms)
    return median, max(median + DEVIATIONS * spread, TIMES * median)


def _clusters(recent: Sequence[Figures], labels: Labels) -> Alarm | None:
    """The clusters of the last round, if they are those of the rounds before."""
    numbers = recent[0].cohort
    rounds = [_cluster_of(figures) for figures in recent[:ROUNDS]]
    if len(rounds) < ROUNDS or not all(_same_clusters(rounds[0], earlier) for earlier in rounds[1:]):
        return None
    count = int(max(rounds[0].values()))
    clusters = tuple(tuple(sorted(c for c, cluster in rounds[0].items() if cluster == n)) for n in range(1, count + 1))
    groups = " and ".join(_named(_list(cluster, most=6), _labels(cluster, labels)) for cluster in clusters)
    within, between = numbers["within_clusters"], numbers["between_clusters"]
    return Alarm(
        "clusters",
        tuple(sorted(rounds[0])),
        f"the cohort pulls in {count} directions: {groups}; mean cosine {within:.2f} within a cluster and "
        f"{between:.2f} between clusters, {ROUNDS} rounds in a row.",
        {name: numbers[name] for name in ("clusters", "separation", "within_clusters", "between_clusters")},
        clusters,
    )


def _cluster_of(figures: Figures) -> dict[str, float]:
    return {client: own["cluster"] for client, own in figures.clients.items() if "cluster" in own}


def _same_clusters(now: Mapping[str, float], earlier: Mapping[str, float]) -> bool:
    """Whether nine in ten clients that were in clusters both times stood with the same others."""
    met = Counter((now[client], earlier[client]) for client in now.keys() & earlier.keys())
    homes: dict[float, tuple[int, float]] = {}
    for (cluster, old), count in met.items():
        homes[cluster] = max(homes.get(cluster, (0, 0.0)), (count, -old))
    distinct = {old for _, old in homes.values()}
    kept = sum(count for count, _ in homes.values())
    return len(homes) >= 2 and len(distinct) == len(homes) and kept >= 0.9 * met.total()


def _persistent(
    recent: Sequence[Figures], value: Callable[[Figures, str], float], holds: Callable[[float], bool]
) -> dict[str, float]:
    """The mean value of each client of the last round for which a condition held in each of its last rounds."""
    means = {}
    for client in sorted(recent[0].clients):
        if not holds(value(recent[0], client)):
            continue
        values = [value(figures, client) for figures in recent if client in figures.clients][:ROUNDS]
        if len(values) == ROUNDS and all(map(holds, values)):
            means[client] = statistics.fmean(values)
    return means


def common_labels(clients: Iterable[str], labels: Labels) -> tuple[int, ...]:
    """The labels that these clients mostly have and the others do not, or none.

    The fewest labels that make up three quarters of the clients' examples, if they make up at most half of that
    share of the other clients' examples.

    >>> common_labels(["a"], {"a": (9, 0, 1), "b": (1, 6, 8)})
    (0,)
    >>> common_labels(["a"], {"a": (5, 5), "b": (4, 6)})
    ()
    """
    named = set(clients)
    own = _sum(labels[c] for c in named if c in labels)
    everyone = labels.total() if isinstance(labels, LabelCounts) else _sum(labels.values())
    others = [total - mine for total, mine in zip(everyone, own or [0] * len(everyone), strict=True)]
    if not sum(own) or not sum(others):
        return ()
    ranked = sorted(range(len(own)), key=lambda label: (-own[label], label))
    most: list[int] = []
    while sum(own[label] for label in most) < 0.75 * sum(own):
        most.append(ranked[len(most)])
    share = sum(own[label] for label in most) / sum(own)
    return tuple(sorted(most)) if sum(others[label] for label in most) / sum(others) <= share / 2 else ()


def _sum(counts: Iterable[Sequence[int]]) -> list[int]:
    return [sum(column) for column in zip(*counts, strict=True)]


def _labels(clients: Iterable[str], labels: Labels) -> str:
    """The labels that clients have in common, as text."""
    most = common_labels(clients, labels)
    return f"mostly label{'s' * (len(most) > 1)} {', '.join(map(str, most))}" if most else ""


def _named(names: str, *about: str) -> str:
    """Names, with remarks on them in brackets."""
    known = ", ".join(filter(None, about))
    return f"{names} ({known})" if known else names


def _list(things: Iterable[str], most: int = 4) -> str:
    """The first few names, and the number of the others."""
    names = list(things)
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


class Lines:
    """The lines about alarms on a screen: at most one for a kind every 10 rounds, and one at the end."""

    def __init__(self) -> None:
        self._last_shown: dict[str, int] = {}
        self._rounds: Counter[str] = Counter()
        self._clients: dict[str, set[str]] = {}

    def of(self, round_: int, raised: Iterable[Alarm]) -> list[str]:
        """The lines of a round."""
        lines = []
        for alarm in raised:
            self._rounds[alarm.kind] += 1
            self._clients.setdefault(alarm.kind, set()).update(alarm.clients)
            if round_ - self._last_shown.get(alarm.kind, -EVERY) >= EVERY:
                self._last_shown[alarm.kind] = round_
                lines.append(alarm.text)
        return lines

    def summary(self) -> str | None:
        """All alarms in one line; `None` where there were none."""
        phrases = {
            "against": "pulled against the others",
            "above": "sent updates far longer than the cohort's",
            "clusters": "formed separate clusters",
        }
        parts = [
            f"{_list(sorted(self._clients[kind]))} {phrases[kind]} (noted in {count} round{'s' * (count > 1)})"
            for kind, count in sorted(self._rounds.items())
        ]
        return f"Alarms: {'; '.join(parts)}." if parts else None

"""The skew of clients in numbers: sizes, labels, targets and features, and the values that chance would give."""

from __future__ import annotations

from dataclasses import dataclass
from math import pi, sqrt

import torch
from torch import Tensor

from headway.core.errors import DataError
from headway.data.dataset.federated import FederatedData
from headway.data.skew.distance import feature_numbers, mean_distance


@dataclass(frozen=True)
class LabelSkew:
    """Training sizes in the order of the clients, and two plain means over clients.

    `entropy` is that of a client's label distribution, in nats: log(classes) when all are equally frequent,
    0 when a client holds one class.  `distance` is the total variation between a client's label distribution
    and the pooled one: 0 when they are equal, near 1 when they are disjoint.
    """

    sizes: tuple[int, ...]
    entropy: float
    distance: float


def label_skew(data: FederatedData) -> LabelSkew:
    """H_i = -sum_k p_ik log p_ik and TV_i = 1/2 sum_k |p_ik - p_k|, averaged over clients i.

    Raises:
        DataError: the data have no classes.

    >>> toy = {"a": ([[0.0], [1.0]], [0, 0]), "b": ([[2.0], [3.0]], [1, 1])}
    >>> label_skew(FederatedData.from_clients(toy))
    LabelSkew(sizes=(2, 2), entropy=0.0, distance=0.5)
    """
    if data.classes is None:
        raise DataError(f"{data.name!r} is regression, but label skew needs classes.")
    entropy, distance, _ = _labels(data)
    return LabelSkew(tuple(data.train_sizes.tolist()), float(entropy.mean()), float(distance.mean()))


@dataclass(frozen=True)
class ClientSkew:
    """The difference of one client's training part from all training parts together.

    `labels` counts its classes; `entropy` is that of their mix, in nats, and `effective_classes` its exponential;
    `label_distance` is the total variation to the pooled mix.  For regression, `target_distance` is
    |mean_i - mean| / std.  `feature_distance` is a standardised mean difference within classes and
    `feature_spread` the client's standard deviation over the pooled one; see `headway.data.skew.distance`.
    Each `..._chance` is about the value that a random allocation would give a client of this size.
    What does not apply is None.
    """

    client: str
    train: int
    test: int
    labels: tuple[int, ...] | None = None
    shifts: tuple[str, ...] = ()
    entropy: float | None = None
    effective_classes: float | None = None
    label_distance: float | None = None
    label_chance: float | None = None
    target_mean: float | None = None
    target_std: float | None = None
    target_distance: float | None = None
    target_chance: float | None = None
    feature_distance: float | None = None
    feature_chance: float | None = None
    feature_spread: float | None = None


@dataclass(frozen=True)
class Spread:
    """One number over clients: its plain mean, its mean weighted by training sizes, its largest, and by chance."""

    mean: float
    weighted: float
    largest: float
    chance: float


@dataclass(frozen=True)
class Skew:
    """All clients, and their skew together.

    `size_variation` is the standard deviation of the training sizes over their mean, `size_gini` is
    sum_ij |n_i - n_j| / (2 n sum_i n_i).  The spread of features is that of root mean squares.  With several labels per
    example (`multi_label`) `targets` compares how frequent each label is.
    """

    name: str
    classes: int | None
    clients: tuple[ClientSkew, ...]
    size_variation: float
    size_gini: float
    labels: Spread | None = None
    targets: Spread | None = None
    features: Spread | None = None
    multi_label: bool = False

    @property
    def shifted(self) -> tuple[str, ...]:
        """The clients whose examples were shifted."""
        return tuple(each.client for each in self.clients if each.shifts)

    def sentence(self) -> str:
        """The skew in plain words."""
        sizes = [each.train for each in self.clients]
        if len(sizes) == 1:
            return f"1 client with {sizes[0]} training examples, so there is no other client to compare with."
        even = max(sizes) - min(sizes) <= max(1, 0.05 * max(sizes))
        phrases = [f"{min(sizes)} to {max(sizes)} training examples each" if not even else "about equally large"]
        features = "features" if self.classes is None else "features within a class"
        targets = "frequencies of labels" if self.multi_label else "targets"
        for what, found in (("label mixes", self.labels), (targets, self.targets), (features, self.features)):
            if found is not None:
                phrases.append(_alike(what, found))
        spreads = [each.feature_spread for each in self.clients if each.feature_spread is not None]
        if spreads and max(spreads) > 1.4 * min(spreads):
            phrases.append(f"they vary {min(spreads):.2g} to {max(spreads):.2g} times as much as all clients' do")
        if self.shifted:
            count = "all" if len(self.shifted) == len(sizes) else str(len(self.shifted))
            phrases.append(f"{count} of them shifted")
        return f"{len(sizes)} clients, {'; '.join(phrases)}."


def _alike(what: str, found: Spread) -> str:
    """One clause: alike, as far as chance lets them be, or by how much they are not."""
    if found.weighted <= 1.5 * found.chance or found.weighted < 0.01:
        return f"{what} as alike as chance would make them" if found.weighted >= 0.01 else f"{what} alike"
    if what == "label mixes":
        degree = "slightly unlike" if found.weighted < 0.1 else "unlike" if found.weighted < 0.3 else "very unlike"
        share, chance = f"{100 * found.weighted:.0f} %", f"{100 * found.chance:.0f} %"
        return (
            f"{what} {degree}: {share} of the examples would need another class to even them out (by chance {chance})"
        )
    times = f"{found.weighted / found.chance:.1f} times as far apart as by chance" if found.chance > 0 else "unlike"
    return f"{what} {times} (mean difference {found.weighted:.2f} standard deviations)"


def skew_of(data: FederatedData) -> Skew:
    """The skew of the clients' training parts.

    TV_i = 1/2 sum_k |p_ik - p_k|, H_i = -sum_k p_ik log p_ik, and by chance
    E TV_i = 1/2 sum_k sqrt(2/pi p_k (1 - p_k) (N - n_i) / (n_i (N - 1))), from the normal approximation.

    >>> toy = {"a": ([[0.0], [1.0]], [0, 0]), "b": ([[2.0], [3.0]], [1, 1])}
    >>> found = skew_of(FederatedData.from_clients(toy))
    >>> found.clients[0].label_distance, found.clients[0].effective_classes, found.size_gini
    (0.5, 1.0, 0.0)
    """
    sizes = data.train_sizes.double()
    columns, overall = _columns(data), {}
    for part, square in (("label", False), ("target", False), ("feature", True)):
        if f"{part}_distance" in columns:
            distance, chance = columns[f"{part}_distance"], columns[f"{part}_chance"]
            overall[f"{part}s"] = _spread(distance, chance, sizes, square)
    found = tuple(
        ClientSkew(
            each.client,
            each.train,
            each.test,
            each.labels,
            tuple(data.shifts.get(each.client, ())),
            **{name: float(values[place]) for name, values in columns.items()},
        )
        for place, each in enumerate(data.summary())
    )
    return Skew(
        name=data.name,
        classes=data.classes,
        clients=found,
        size_variation=float(sizes.std(correction=0) / sizes.mean()),
        size_gini=float((sizes[:, None] - sizes).abs().sum() / (2 * len(sizes) * sizes.sum())),
        multi_label=data.multi_label,
        **overall,
    )


def _columns(data: FederatedData) -> dict[str, Tensor]:
    """The numbers that apply, by the names of `ClientSkew`'s fields, float64 `[clients]` each."""
    columns: dict[str, Tensor] = {}
    if data.classes is not None:
        entropy, distance, chance = _labels(data)
        columns |= {"entropy": entropy, "effective_classes": entropy.exp()}
        columns |= {"label_distance": distance, "label_chance": chance}
    else:
        targets = mean_distance(data)
        columns |= {"target_mean": targets.means, "target_std": targets.deviations}
        columns |= {"target_distance": targets.distance, "target_chance": targets.chance}
    features = feature_numbers(data)
    if features is not None:
        columns |= {"feature_distance": features.distance, "feature_chance": features.chance}
        columns["feature_spread"] = features.spread
    return columns


def _labels(data: FederatedData) -> tuple[Tensor, Tensor, Tensor]:
    """Entropy, total variation to the pooled mix, and what chance gives, float64 `[clients]` each."""
    counts = torch.tensor([each.labels for each in data.summary()], dtype=torch.float64)
    shares = counts / counts.sum(dim=1, keepdim=True)
    pooled = counts.sum(dim=0) / counts.sum()
    entropy = torch.special.entr(shares).sum(dim=1)
    distance = 0.5 * (shares - pooled).abs().sum(dim=1)
    held, total = counts.sum(dim=1), counts.sum()
    left = (total - held) / (held * (total - 1).clamp(min=1))
    chance = 0.5 * sqrt(2 / pi) * left.sqrt() * (pooled * (1 - pooled)).sqrt().sum()
    return entropy, distance, chance


def _spread(values: Tensor, chance: Tensor, sizes: Tensor, square: bool = False) -> Spread:
    """The means over clients; of squares, and then their roots, where asked for."""
    weights = sizes / sizes.sum()
    power = 2 if square else 1
    means = [((v**power) * w).sum() ** (1 / power) for v, w in ((values, 1 / len(values)), (values, weights))]
    by_chance = ((chance**power) * weights).sum() ** (1 / power)
    return Spread(float(means[0]), float(means[1]), float(values.max()), float(by_chance))

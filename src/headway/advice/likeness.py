"""The likeness of clients' data, each figure with the one that chance alone would give.

Small clients differ by chance.  So label figures are compared with those of the same labels divided at random to
clients of the same sizes, and the shift of features is an estimate from which the part of chance is taken out.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from headway.data import FederatedData
from headway.numerics.keys import Key

DEALS = 20  # random deals that the labels are compared with
MOST_ROWS = 20_000  # examples that features are compared on
MOST_COLUMNS = 1_000  # features that are compared


@dataclass(frozen=True)
class LabelMix:
    """The difference of labels between clients.

    distance: total variation between a client's label mix and the pooled one, the mean over clients.
    by_chance: the same of labels divided at random.  most: the distance where each client holds one class.
    missing, missing_by_chance: the share of pairs of client and class without an example.
    entropy: of a client's label mix, the mean in nats.
    """

    distance: float
    by_chance: float
    most: float
    missing: float
    missing_by_chance: float
    entropy: float

    @property
    def beyond_chance(self) -> float:
        """The distance beyond chance, as a share of the most there can be: 0 alike, 1 one class per client."""
        return max(0.0, self.distance - self.by_chance) / max(self.most - self.by_chance, 1e-12)


@dataclass(frozen=True)
class ShiftEffect:
    """Cohen's f of clients on features: the spread of the clients' means over the spread within a client.

    typical: the median over features; infinite where most of them are the same in a client and differ between clients.
    largest: the features with the largest f.  fixed: how many features have an infinite f.
    given_class: whether clients were compared class by class, so that label skew does not count again.
    """

    typical: float
    largest: tuple[tuple[str, float], ...]
    given_class: bool
    fixed: int = 0


@dataclass(frozen=True)
class Likeness:
    """The figures of how alike clients' data are."""

    sizes: tuple[int, ...]
    tests: tuple[int, ...]
    central: int
    labels: LabelMix | None
    shift: ShiftEffect | None
    target_shift: float | None

    @property
    def spread(self) -> float:
        """The coefficient of variation of training sizes: standard deviation over mean."""
        return statistics.pstdev(self.sizes) / statistics.fmean(self.sizes)


def likeness(data: FederatedData, key: Key) -> Likeness:
    """Measures the training parts of all clients.

    >>> toy = {"a": ([[0.0], [1.0]] * 9, [0] * 18), "b": ([[0.0], [1.0]] * 9, [1] * 18)}
    >>> found = likeness(FederatedData.from_clients(toy), Key.root(0))
    >>> found.labels.distance, found.labels.most, found.spread
    (0.5, 0.5, 0.0)
    """
    owners = torch.cat([torch.full((len(index),), i) for i, index in enumerate(data.train.values())])
    rows = torch.cat(list(data.train.values()))
    targets = data.store.targets[rows].flatten(1).double() if data.store.targets.ndim > 1 else data.store.targets[rows]
    labelled = data.classes is not None and targets.ndim == 1
    labels = _label_mix(targets, owners, data, key) if labelled else None
    chosen = key.derive("rows").permutation(len(rows))[:MOST_ROWS]
    inputs = data.store.inputs[rows[chosen]]
    shift = None
    if inputs.is_floating_point() and len(data.train) > 1:
        groups = targets[chosen] if labelled else torch.zeros(len(chosen), dtype=torch.int64)
        shift = _shift(inputs.flatten(1), owners[chosen], groups, data.features, labelled)
    target_shift = None
    if data.classes is None and len(data.train) > 1:
        square = _f_squared(targets.double().reshape(len(rows), -1), owners, torch.zeros_like(owners))
        target_shift = float(square.mean().clamp_min(0).sqrt())
    return Likeness(
        tuple(data.train_sizes.tolist()),
        tuple(data.test_sizes.tolist()),
        0 if data.central is None else len(data.central),
        labels,
        shift,
        target_shift,
    )


def _label_mix(labels: Tensor, owners: Tensor, data: FederatedData, key: Key) -> LabelMix:
    assert data.classes is not None
    counts = _counts(labels, owners, len(data.train), data.classes)
    pooled = counts.sum(0) / counts.sum()
    distance, missing = _distance(counts, pooled)
    by_chance = [
        _distance(_counts(labels[order], owners, len(data.train), data.classes), pooled)
        for order in (key.derive("deal", i).permutation(len(labels)) for i in range(DEALS))
    ]
    shares = counts / counts.sum(1, keepdim=True)
    return LabelMix(
        distance,
        statistics.fmean(distance for distance, _ in by_chance),
        float((pooled * (1 - pooled)).sum()),
        missing,
        statistics.fmean(missing for _, missing in by_chance),
        float(torch.special.entr(shares).sum(1).mean()),
    )


def _counts(labels: Tensor, owners: Tensor, clients: int, classes: int) -> Tensor:
    """The count of each class at each client, float64 `[clients, classes]`."""
    return torch.bincount(owners * classes + labels, minlength=clients * classes).view(clients, classes).double()


def _distance(counts: Tensor, pooled: Tensor) -> tuple[float, float]:
    """The mean total variation, and the share of pairs without an example."""
    shares = counts / counts.sum(1, keepdim=True)
    present = pooled > 0
    return float(0.5 * (shares - pooled).abs().sum(1).mean()), float((counts[:, present] == 0).double().mean())


def _shift(
    inputs: Tensor, owners: Tensor, groups: Tensor, names: Sequence[str], given_class: bool
) -> ShiftEffect | None:
    columns = torch.arange(0, inputs.shape[1], max(1, -(-inputs.shape[1] // MOST_COLUMNS)))
    squares = _f_squared(inputs[:, columns].double(), owners, groups)
    known = ~torch.isnan(squares)
    if not bool(known.any()):
        return None
    columns, squares = columns[known], squares[known]
    top = squares.topk(min(3, len(squares)))
    largest = tuple(
        (names[int(columns[at])] if names else f"input {int(columns[at])}", float(value.clamp_min(0).sqrt()))
        for at, value in zip(top.indices, top.values, strict=True)
    )
    fixed = int(torch.isinf(squares).sum())
    return ShiftEffect(float(squares.median().clamp_min(0).sqrt()), largest, given_class, fixed)


def _f_squared(values: Tensor, owners: Tensor, groups: Tensor) -> Tensor:
    """Cohen's f^2 of owners within groups for every column, without the part of chance.

        f^2 = (sum_cells n (mean_cell - mean_group)^2 - (cells - groups) s^2) / (N s^2)

    s^2 is the variance within a cell, which is one owner's part of one group.  Infinite where cells differ and nothing
    varies within one; NaN where nothing varies at all, or every cell has one example, so that s^2 is not known.
    """
    cells, cell_of = torch.unique(torch.stack([groups, owners]), dim=1, return_inverse=True)
    _, group_of = torch.unique(groups, return_inverse=True)
    in_cell, in_group = _means(values, cell_of), _means(values, group_of)
    count, width = len(values), cells.shape[1]
    across = ((in_cell[cell_of] - in_group[group_of]) ** 2).sum(0)
    within = ((values - in_cell[cell_of]) ** 2).sum(0) / max(count - width, 1)
    least = 1e-12 * values.abs().amax(0).clamp_min(1e-12) ** 2  # below it a variance is rounding
    squares: Tensor = (across - (width - len(in_group)) * within) / (count * within)
    apart = torch.where((across / count > least) & torch.tensor(count > width), torch.inf, torch.nan)
    return torch.where(within > least, squares, apart)


def _means(values: Tensor, index: Tensor) -> Tensor:
    """The mean of the rows of each index `[groups, columns]`."""
    sums = torch.zeros(int(index.max()) + 1, values.shape[1], dtype=values.dtype).index_add_(0, index, values)
    means: Tensor = sums / torch.bincount(index).unsqueeze(1)
    return means

"""A line on what is predicted: the classes with their numbers of examples, or the range of the values."""

from __future__ import annotations

import torch

from headway.data.dataset.class_names import listed_names
from headway.data.dataset.client_data import ClientData
from headway.data.dataset.client_index import ClientIndex
from headway.data.dataset.federated import FederatedData
from headway.data.dataset.labels import LabelCounts

_ROWS = 1 << 16  # targets that are read together


def target_line(known: ClientData) -> tuple[str, str]:
    """A summary of the targets: a heading, and a line with the classes, labels of an example, or range of values.

    >>> target_line(FederatedData.from_clients({"a": ([[0.0], [1.0]], [0.5, 2.5])}))
    ('targets', 'values from 0.5 to 2.5, mean 1.5')
    """
    if (data := known.held) is None:
        names = known.class_names or tuple(map(str, range(known.classes or 0)))
        return ("classes", f"{len(names)}: {listed_names(list(names))}") if names else ("targets", "values")
    if data.classes is not None:
        return "classes", class_line(data)
    low, high, sums, count = _range(data)
    if data.multi_label:
        listed = listed_names([f"{label} ({number:.0f})" for label, number in enumerate(sums)])
        return "labels", f"{len(sums)} per example, each 0 or 1, by training examples that have it: {listed}"
    each = f", {len(sums)} per example" if len(sums) > 1 else ""
    return "targets", f"values from {low:.4g} to {high:.4g}{each}, mean {sum(sums) / (count * len(sums)):.4g}"


def class_line(data: FederatedData) -> str:
    """The classes of the data in one line, each with its number of training examples; empty for regression.

    >>> class_line(FederatedData.from_clients({"a": ([[0.0], [1.0]], [0, 1]), "b": ([[2.0]], [1])}))
    '2: 0 (1), 1 (2)'
    """
    if data.classes is None:
        return ""
    counts = LabelCounts(data).total()
    names = data.class_names or tuple(map(str, range(data.classes)))
    if len(names) != len(counts):
        return str(data.classes)
    line = f"{len(names)}: {listed_names([f'{name} ({count})' for name, count in zip(names, counts, strict=True)])}"
    if data.store.targets.ndim > 1:
        line += f", at {data.store.targets[0].numel()} places of an example"
    tested = _tested(data)
    never = [name for name, count in zip(names, counts, strict=True) if not count]
    missed = [name for name, train, test in zip(names, counts, tested, strict=True) if train and not test]
    line += f"; no training example of {listed_names(never)}" if never else ""
    return line + (f"; no test example of {listed_names(missed)}" if missed and any(tested) else "")


def _tested(data: FederatedData) -> list[int]:
    """The number of test examples of each class, at clients and in the central test set."""
    assert data.classes is not None
    counted = torch.zeros(data.classes, dtype=torch.int64)
    for index in ClientIndex.of(data.test).blocks():
        counted += torch.bincount(data.store.targets[index].flatten(), minlength=data.classes)
    if data.central is not None:
        counted += torch.bincount(data.central.targets.flatten(), minlength=data.classes)
    counts: list[int] = counted.tolist()
    return counts


def _range(data: FederatedData) -> tuple[float, float, list[float], int]:
    """The lowest and the highest target, the sum of each target `[L]`, and the count, of all training examples."""
    width = data.store.targets[0].numel()
    low, high, sums, count = float("inf"), float("-inf"), torch.zeros(width, dtype=torch.float64), 0
    for index in ClientIndex.of(data.train).blocks():
        for rows in index.split(_ROWS):
            block = data.store.targets[rows].double().reshape(len(rows), width)
            low, high = min(low, float(block.min())), max(high, float(block.max()))
            sums += block.sum(0)
            count += len(rows)
    return low, high, sums.tolist(), count

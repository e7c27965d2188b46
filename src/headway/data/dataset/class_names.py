"""Class labels as sources write them (any whole numbers, floats, text, booleans), renumbered from 0 and named."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from headway.core.errors import DataError
from headway.data.dataset.client_index import ClientIndex
from headway.data.dataset.labels import LabelCounts

if TYPE_CHECKING:
    from headway.data.dataset.federated import FederatedData

MOST_NAMED = 12  # classes that one line names
_ROWS = 1 << 16  # targets that are looked at together


@dataclass(frozen=True, eq=False)
class MappedLabels:
    """Class numbers `0..C-1`, one tensor int64 for each array of labels, the name of each class, and a note.

    `note` says how labels were renumbered; it is empty where label k is class k.
    """

    codes: tuple[Tensor, ...]
    names: tuple[str, ...]
    note: str = ""


def map_labels(arrays: Sequence[Any], what: str) -> MappedLabels:
    """Labels of one or several arrays (training and test part), mapped together to their places in sorted order.

    The labels are numbers, booleans or texts, of one kind in all arrays, in any shape.

    Raises:
        DataError: a label that is no number (NaN), an infinite one, or numbers beside text.

    >>> mapped = map_labels([np.array([7, 3, 50_000])], "y")
    >>> mapped.codes[0].tolist(), mapped.names
    ([1, 0, 2], ('3', '7', '50000'))
    >>> mapped.note
    'y: the labels 3, 7, 50000 are the classes 0 to 2'
    >>> map_labels([np.array([0.0, 1.0]), np.array([2.0])], "y").note
    'y: the labels 0, 1, 2 are stored as floats and read as classes'
    """
    values = [np.asarray(array) for array in arrays]
    if len({"U" if each.dtype.kind in "UO" else "n" for each in values}) > 1:
        raise DataError(f"{what} are text in one part and numbers in the other; write them alike.")
    numeric = all(each.dtype.kind in "biuf" for each in values)
    if numeric and not all(np.isfinite(each).all() for each in values):
        raise DataError(f"{what} hold NaN or infinity, but each example needs a class; fill in or drop those examples.")
    flat = [each.ravel() if numeric else each.astype(str).ravel() for each in values]
    distinct, inverse = np.unique(np.concatenate(flat), return_inverse=True)
    cuts = np.cumsum([each.size for each in values])[:-1]
    codes = tuple(
        torch.from_numpy(part.reshape(each.shape).astype(np.int64))
        for part, each in zip(np.split(inverse.ravel(), cuts), values, strict=True)
    )
    names = tuple(label_name(value) for value in distinct.tolist())
    note = ""
    shown = _listed(names)
    if not numeric or list(distinct) != list(range(len(distinct))):
        note = f"{what}: the labels {shown} are the classes 0 to {len(names) - 1}"
    elif any(each.dtype.kind == "f" for each in values):
        note = f"{what}: the labels {shown} are stored as floats and read as classes"
    return MappedLabels(codes, names, note)


def label_name(value: Any) -> str:
    """A label as a text: whole numbers without a decimal point.

    >>> label_name(3.0), label_name(0.5), label_name(1234567), label_name("cat"), label_name(True)
    ('3', '0.5', '1234567', 'cat', 'True')
    """
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return str(value)


def target_line(data: FederatedData) -> tuple[str, str]:
    """What is predicted: a heading, and a line with the classes, the labels of an example, or the range of values.

    >>> from headway.data import FederatedData
    >>> target_line(FederatedData.from_clients({"a": ([[0.0], [1.0]], [0.5, 2.5])}))
    ('targets', 'values from 0.5 to 2.5, mean 1.5')
    """
    if data.classes is not None:
        return "classes", class_line(data)
    low, high, sums, count = _range(data)
    if data.multi_label:
        listed = _listed([f"{label} ({number:.0f})" for label, number in enumerate(sums)])
        return "labels", f"{len(sums)} per example, each 0 or 1, by training examples that have it: {listed}"
    each = f", {len(sums)} per example" if len(sums) > 1 else ""
    return "targets", f"values from {low:.4g} to {high:.4g}{each}, mean {sum(sums) / (count * len(sums)):.4g}"


def class_line(data: FederatedData) -> str:
    """The classes of the data in one line, each with its number of training examples; empty for regression.

    >>> from headway.data import FederatedData
    >>> class_line(FederatedData.from_clients({"a": ([[0.0], [1.0]], [0, 1]), "b": ([[2.0]], [1])}))
    '2: 0 (1), 1 (2)'
    """
    if data.classes is None:
        return ""
    counts = LabelCounts(data).total()
    names = data.class_names or tuple(map(str, range(data.classes)))
    if len(names) != len(counts):
        return str(data.classes)
    line = f"{len(names)}: {_listed([f'{name} ({count})' for name, count in zip(names, counts, strict=True)])}"
    if data.store.targets.ndim > 1:
        line += f", at {data.store.targets[0].numel()} places of an example"
    tested = _tested(data)
    never = [name for name, count in zip(names, counts, strict=True) if not count]
    missed = [name for name, train, test in zip(names, counts, tested, strict=True) if train and not test]
    line += f"; no training example of {_listed(never)}" if never else ""
    return line + (f"; no test example of {_listed(missed)}" if missed and any(tested) else "")


def _tested(data: FederatedData) -> list[int]:
    """How many test examples each class has, at clients and in the central test set."""
    assert data.classes is not None
    found = torch.zeros(data.classes, dtype=torch.int64)
    for index in ClientIndex.of(data.test).blocks():
        found += torch.bincount(data.store.targets[index].flatten(), minlength=data.classes)
    if data.central is not None:
        found += torch.bincount(data.central.targets.flatten(), minlength=data.classes)
    counts: list[int] = found.tolist()
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


def _listed(names: Sequence[str]) -> str:
    """The names with commas, the middle ones left out where there are many."""
    if len(names) <= MOST_NAMED:
        return ", ".join(names)
    return f"{', '.join(names[: MOST_NAMED - 1])}, ..., {names[-1]}"

"""Class labels as sources write them (any whole numbers, floats, text, booleans), renumbered from 0 and named."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from headway.core.errors import DataError

MOST_NAMED = 12  # classes that one line names


@dataclass(frozen=True, eq=False)
class MappedLabels:
    """Class numbers `0..C-1`, one tensor int64 for each array of labels, the name of each class, and a note.

    `note` describes how labels were renumbered; it is empty where label k is class k.
    """

    codes: tuple[Tensor, ...]
    names: tuple[str, ...]
    note: str = ""


def map_labels(arrays: Sequence[Any], what: str) -> MappedLabels:
    """Labels of one or several arrays (training and test part), mapped together to their places in sorted order.

    The labels are numbers, booleans or texts, of one kind in all arrays, in any shape.

    Raises:
        DataError: a label that is no number (NaN), an infinite one, or numbers together with text.

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
    shown = listed_names(names)
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


def listed_names(names: Sequence[str]) -> str:
    """The names with commas, the middle ones left out where there are many."""
    if len(names) <= MOST_NAMED:
        return ", ".join(names)
    return f"{', '.join(names[: MOST_NAMED - 1])}, ..., {names[-1]}"

"""Targets as users give them, read as class numbers with their names, several labels per example, or values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from headway.core.errors import ConfigError, DataError, nearest
from headway.data.dataset.blocks import blocks_of
from headway.data.dataset.class_names import map_labels
from headway.data.dataset.inputs import as_tensor, as_text

TargetKind = Literal["classification", "multi-label", "regression"]
TARGET_KINDS: tuple[TargetKind, ...] = ("classification", "multi-label", "regression")

_FEW = 20  # distinct whole numbers that look like classes
_SPARSE = 2  # classes are renumbered where the largest label is beyond so many times their count
_COUNTED = 1 << 20  # labels below this are counted in a vector
_NAMED = 5  # classes that a note names


@dataclass(frozen=True, eq=False)
class Targets:
    """Targets `[N, ...]` as they are used, and how they were understood.

    classes: how many, or None for values and for several labels per example.  names: of the classes, where they are
    not their own numbers.  notes: one line for each conversion.
    """

    values: Tensor
    classes: int | None
    names: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def as_targets(values: Any, what: str) -> Tensor:
    """Targets `[N, ...]`: whole numbers become int64, floats stay floats; a trailing axis of one is dropped.

    Raises:
        DataError: not numbers, or no axis that counts the examples.

    >>> as_targets([[0], [2]], "y")
    tensor([0, 2])
    """
    targets = as_tensor(values, what)
    if targets.ndim == 0:
        raise DataError(f"{what} is a single number, but an axis that counts the examples is needed.")
    whole = not targets.is_floating_point()
    while (targets.ndim == 2 or (whole and targets.ndim > 2)) and targets.shape[-1] == 1:
        targets = targets.squeeze(-1)
    return targets.long() if whole else targets


def read_targets(
    parts: Mapping[str, Any], task: TargetKind | None = None, option: str = "task"
) -> tuple[list[Tensor], Targets]:
    """The targets of several parts that share their classes, such as training and test, by what to call each.

    Text becomes classes by sorted name, booleans the classes False and True, and the rest is `understood`.  The second
    value is that of all parts together.

    Raises:
        ConfigError: an unknown task.
        DataError: targets that cannot be used like this, or parts of different kinds or shapes.

    >>> parts, found = read_targets({"y_train": np.array(["dog", "cat"]), "y_test": np.array(["dog"])})
    >>> parts[0].tolist(), parts[1].tolist(), found.names
    ([1, 0], [1], ('cat', 'dog'))
    """
    arrays: dict[str, Any] = {w: v if isinstance(v, Tensor) else as_text(v) for w, v in parts.items()}
    kinds = {what: _kind(values) for what, values in arrays.items()}
    if len(set(kinds.values())) > 1 and {"text", "truth"} & set(kinds.values()):
        raise DataError(f"the targets are of different kinds: {', '.join(f'{w} is {k}' for w, k in kinds.items())}.")
    names: tuple[str, ...] = ()
    if "text" in kinds.values():
        if task not in (None, "classification"):
            raise DataError(f"{next(iter(parts))} is text, but {task} needs numbers; leave {option} out.")
        mapped = map_labels([_column(values) for values in arrays.values()], next(iter(parts)))
        names, arrays = mapped.names, dict(zip(arrays, mapped.codes, strict=True))
        if any(not name.strip() for name in names):
            raise DataError(f"{next(iter(parts))} has empty texts; fill them in, or drop those examples.")
    tensors = [as_targets(values, what) for what, values in arrays.items()]
    what = next(iter(parts))
    for name, each in zip(parts, tensors, strict=True):
        if each.shape[1:] != tensors[0].shape[1:] or each.dtype != tensors[0].dtype:
            raise DataError(
                f"{name} holds targets of shape {list(each.shape[1:])} and {each.dtype}, but {what} of "
                f"{list(tensors[0].shape[1:])} and {tensors[0].dtype}; make them alike."
            )
    found = understood(torch.cat(tensors), what, task, option, truth=set(kinds.values()) == {"truth"})
    if names:
        found = Targets(found.values, len(names), names, found.notes)
    return list(found.values.split([len(each) for each in tensors])), found


def understood(
    targets: Tensor,
    what: str,
    task: TargetKind | None = None,
    option: str = "task",
    *,
    truth: bool = False,
) -> Targets:
    """Targets `[N, ...]` of `as_targets`, as what they are or as the task that is given.

    classification: labels that are sparse whole numbers (such as 3, 7, 100) are numbered from 0 in their order, one
    hot rows `[N, K]` become their place, and whole floats become whole numbers.  multi-label: zeros and ones `[N, L]`.
    regression: floats.  Without a task whole numbers are classes, zeros and ones `[N, L]` that are whole numbers are
    several labels, one-hot rows are classes, and other floats are values.

    Raises:
        ConfigError: an unknown task.
        DataError: targets that do not fit the task, or too many distinct whole numbers to be classes.

    >>> found = understood(torch.tensor([7, 3, 50_000]), "y")
    >>> found.values.tolist(), found.classes, found.names
    ([1, 0, 2], 3, ('3', '7', '50000'))
    >>> understood(torch.eye(3), "y").values.tolist()
    [0, 1, 2]
    """
    if task is not None and task not in TARGET_KINDS:
        known = ", ".join(map(repr, TARGET_KINDS))
        raise ConfigError(f"{option} is {task!r}{nearest(str(task), TARGET_KINDS)}, but one of {known} is needed.")
    if task == "regression":
        whole = not targets.is_floating_point()
        return Targets(targets.float() if whole else targets, None)
    binary = targets.ndim == 2 and targets.shape[1] > 1 and is_binary(targets)
    if task == "multi-label":
        if not binary:
            raise DataError(f"{what} must hold zeros and ones [N, labels] for several labels per example.")
        return Targets(targets, None)
    if binary and _one_hot(targets):
        line = f'{what} is one-hot, and is read as {targets.shape[1]} classes ({option} = "multi-label" keeps it)'
        return Targets(targets.argmax(1), targets.shape[1], notes=(line,))
    if targets.is_floating_point():
        if task != "classification":
            return Targets(targets, None, notes=_like_classes(targets, what, option))
        if not bool((targets == targets.round()).all()):
            raise DataError(f"{what} holds numbers that are not whole, but classes are; leave {option} out.")
        targets = targets.long()
    if binary and task is None:
        return Targets(targets, None)
    return _classes(targets, what, task, option, ("False", "True") if truth else ())


def class_count(targets: Tensor, what: str) -> int | None:
    """The number of classes of whole-number targets (largest + 1); None for floats, and for several labels per example.

    Raises:
        DataError: a negative label.

    >>> class_count(torch.tensor([0, 3]), "y"), class_count(torch.tensor([0.5]), "y")
    (4, None)
    """
    if targets.is_floating_point() or targets.numel() == 0:
        return None
    if targets.ndim == 2 and targets.shape[1] > 1 and is_binary(targets):
        return None
    if int(targets.min()) < 0:
        raise DataError(
            f"{what} holds the label {int(targets.min())}, but classes are numbered from 0. Where it marks examples "
            "without a label, leave these out; of -1 and 1, make 0 and 1."
        )
    return int(targets.max()) + 1


def noted(targets: Tensor, what: str) -> tuple[str, ...]:
    """Notes on targets that are kept as Python code gave them, where they look like something else.

    >>> noted(torch.tensor([3, 900, 3, 900]), "y")
    ('y: 2 of the classes 0 to 900 occur (3, 900); number them from 0 unless the model has an output for each',)
    """
    if targets.ndim == 2 and targets.shape[1] > 1 and is_binary(targets):
        one_hot = _one_hot(targets)
        return (f"{what} is one-hot; give the class numbers (argmax over axis 1) for classes",) if one_hot else ()
    if targets.is_floating_point():
        return _like_classes(targets, what, None)
    count = int(targets.max()) + 1 if len(targets) else 0
    present = _present(targets, count) if targets.ndim == 1 and count else []
    if count <= _SPARSE * len(present) or not present:
        return ()
    return (
        f"{what}: {len(present)} of the classes 0 to {count - 1} occur ({_listed(present)}); number them from 0 unless "
        "the model has an output for each",
    )


def is_binary(targets: Tensor) -> bool:
    """Whether every value is 0 or 1."""
    return all(bool(((block == 0) | (block == 1)).all()) for _, block in blocks_of(targets))


def _classes(targets: Tensor, what: str, task: TargetKind | None, option: str, names: tuple[str, ...]) -> Targets:
    count = class_count(targets, what) if task is None or targets.ndim != 2 else int(targets.max()) + 1
    if count is None or targets.ndim != 1:
        return Targets(targets, count)
    present = _present(targets, count)
    if names:
        return Targets(targets, 2, names)
    if task is None and len(present) > max(_FEW, len(targets) // 2):
        raise DataError(
            f"{what} holds {len(present):,} distinct whole numbers for {len(targets):,} examples, too many to be "
            f'classes: set {option} = "regression", or "classification" if they are.'
        )
    if count <= _SPARSE * len(present):
        return Targets(targets, count)
    mapped = map_labels([targets.numpy()], what)
    return Targets(mapped.codes[0], len(present), mapped.names, (mapped.note,))


def _present(targets: Tensor, count: int) -> list[int]:
    """The distinct labels, sorted."""
    counted = count <= _COUNTED
    found = torch.bincount(targets, minlength=count).nonzero()[:, 0] if counted else targets.unique()
    present: list[int] = found.tolist()
    return present


def _like_classes(targets: Tensor, what: str, option: str | None) -> tuple[str, ...]:
    """A note on floats that look like classes."""
    if targets.ndim != 1 or not len(targets) or not bool((targets == targets.round()).all()):
        return ()
    distinct = targets[: 1 << 20].unique()
    if not 1 < len(distinct) <= min(_FEW, len(targets) // 2):
        return ()
    listed = _listed([f"{value:g}" for value in distinct.tolist()])
    way = f'{option} = "classification" makes them classes' if option else "give whole numbers if they are classes"
    return (f"{what} holds {len(distinct)} whole numbers as floats ({listed}), read as values to predict; {way}",)


def _listed(values: Sequence[Any]) -> str:
    few = [str(value) for value in values[:_NAMED]]
    return ", ".join(few) + (f" ... {values[-1]}" if len(values) > _NAMED else "")


def _one_hot(targets: Tensor) -> bool:
    """Whether each row has a single 1, and each column one in some row: so that several labels are not meant."""
    once = all(bool((block.sum(1) == 1).all()) for _, block in blocks_of(targets))
    return once and len(targets) >= targets.shape[1] and bool((targets.sum(0) > 0).all())


def _kind(values: Any) -> str:
    if isinstance(values, Tensor):
        return "truth" if values.dtype == torch.bool else "numbers"
    return {"U": "text", "b": "truth"}.get(values.dtype.kind, "numbers")


def _column(values: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """One text per example."""
    flat = values.squeeze(-1) if values.ndim == 2 and values.shape[1] == 1 else values
    if flat.ndim != 1:
        raise DataError(f"the targets are text of shape {list(values.shape)}, but one text per example is needed.")
    return flat

"""Checks of data before anything is trained on them, block by block."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from headway.core.errors import DataError
from headway.core.replicas import grouped
from headway.data.dataset.blocks import blocks_of
from headway.data.dataset.client_index import ClientIndex
from headway.data.dataset.examples import Examples, HeldExamples


def check_alike(part: Examples, first: Examples, who: str) -> None:
    """Refuses a part that cannot be stored with the first one.

    Raises:
        DataError: its shapes or number types are others.
    """
    for what, mine, other in (
        ("inputs", part.inputs, first.inputs),
        ("targets", part.targets, first.targets),
    ):
        if mine.shape[1:] != other.shape[1:] or mine.dtype != other.dtype:
            raise DataError(
                f"{who} has {what} of shape {list(mine.shape[1:])} and {mine.dtype}, but the first client's "
                f"are {list(other.shape[1:])} and {other.dtype}; make them alike."
            )


def check_indices(data: HeldExamples) -> None:
    """Refuses empty training parts, indices that are out of range, and an example that is held twice.

    Raises:
        DataError: naming the client and the example.
    """
    count, marked = len(data.store), 0
    held = torch.zeros(count, dtype=torch.bool)
    for what, parts in _both(data):
        if what == "training" and not bool(parts.sizes.all()):
            client = parts.names[int(parts.sizes.argmin())]
            raise DataError(f"client {client!r} has no training example; give it one or leave it out.")
        for index in parts.blocks():
            if len(index) and (int(index.min()) < 0 or int(index.max()) >= count):
                _out_of_range(what, parts, count)
            held[index] = True
            marked += len(index)
    if marked > int(held.sum()) and not _by_replicas(data, int(held.sum())):
        _twice(data)


def _out_of_range(what: str, parts: ClientIndex, count: int) -> None:
    for client, index in parts.items():
        wrong = index[(index < 0) | (index >= count)]
        if len(wrong):
            low = int(wrong.min())
            raise DataError(
                f"client {client!r} names the {what} example {low if low < 0 else int(wrong.max())}, "
                f"but the store holds the examples 0 to {count - 1}."
            )


def _by_replicas(data: HeldExamples, held: int) -> bool:
    """Whether only replicas, the clients of one group, hold the same of these examples: each of a group all of them."""
    marked = 0
    for _, parts in _both(data):
        index = dict(parts.items())
        for members in grouped(index).values():
            first = index[members[0]]
            if any(not torch.equal(first, index[client]) for client in members[1:]):
                return False
            marked += len(first)
    return marked == held


def _twice(data: HeldExamples) -> None:
    holders = torch.zeros(len(data.store), dtype=torch.int64)
    for _, parts in _both(data):
        for index in parts.blocks():
            holders += torch.bincount(index, minlength=len(holders))
    twice = int(holders.argmax())
    owners = [client for _, parts in _both(data) for client, index in parts.items() if twice in index]
    raise DataError(
        f"example {twice} is held more than once (by {', '.join(map(repr, owners))}); an example belongs "
        "to one client, and to its training or its test part."
    )


def check_values(data: HeldExamples) -> None:
    """Refuses values that are not finite and labels that are not classes, naming who holds them.

    Raises:
        DataError: counting them.
    """
    for part in (data.store, data.central):
        if part is None:
            continue
        for what, tensor in (("inputs", part.inputs), ("targets", part.targets)):
            count, first = _not_finite(tensor)
            if count:
                raise DataError(
                    f"{count} {what} are NaN or infinite, the first at {holder(data, part, first)}; "
                    "impute them, or drop those examples."
                )
        if data.classes is None:
            continue
        if part.targets.is_floating_point():
            raise DataError(f"{data.name!r} has {data.classes} classes, but its targets are not whole numbers.")
        for start, block in blocks_of(part.targets):
            wrong = _rows_with((block < 0) | (block >= data.classes))
            if bool(wrong.any()):
                raise DataError(
                    f"the label of {holder(data, part, start + int(wrong.int().argmax()))} is outside 0 to "
                    f"{data.classes - 1}; number the classes from 0."
                )


def _not_finite(tensor: Tensor) -> tuple[int, int]:
    """The number of values that are not finite, and the first row with one."""
    count, first = 0, -1
    if not tensor.is_floating_point():
        return count, first
    for start, block in blocks_of(tensor):
        bad = ~torch.isfinite(block)
        wrong = int(bad.sum())
        if wrong and not count:
            first = start + int(_rows_with(bad).int().argmax())
        count += wrong
    return count, first


def _rows_with(marks: Tensor) -> Tensor:
    """The rows of marks `[N, ...]` that have one, bool `[N]`."""
    return marks.unsqueeze(-1).flatten(1).any(1)


def holder(data: HeldExamples, part: Examples, row: int) -> str:
    """Words for a row of the store or of the central test set."""
    if part is data.central:
        return f"example {row} of the central test set"
    owner = next(
        (client for _, parts in _both(data) for client, index in parts.items() if bool((index == row).any())), None
    )
    return f"example {row}" + (f" of client {owner!r}" if owner is not None else " (held by no client)")


def _both(data: HeldExamples) -> Iterator[tuple[str, ClientIndex]]:
    yield "training", ClientIndex.of(data.train)
    yield "test", ClientIndex.of(data.test)

"""Names of clients and of groups of examples, as columns and arrays hold them."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from decimal import Context, Decimal
from typing import Any

import numpy as np
import torch
from torch import Tensor

from headway.core.errors import DataError
from headway.data.dataset.inputs import as_text

NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?", re.ASCII | re.IGNORECASE)
_GROUPS_SHOWN = 5


def client_ids(count: int) -> tuple[str, ...]:
    """`count` ids, zero-padded so that sorted order is numeric order.

    >>> client_ids(11)[:2], client_ids(11)[-1]
    (('client-00', 'client-01'), 'client-10')
    """
    width = len(str(max(count - 1, 0)))
    return tuple(f"client-{number:0{width}d}" for number in range(count))


def owner_ids(values: Any, what: str) -> tuple[str, ...]:
    """The client id of each example: numbers become zero-padded ids, and text is kept as it is written.

    Raises:
        DataError: not one whole number >= 0 or one non-empty text per example.

    >>> owner_ids([7, 11], "client")
    ('client-07', 'client-11')
    >>> owner_ids(["north", "South"], "client")
    ('north', 'South')
    """
    array = as_text(values)
    if array.ndim != 1 or array.dtype.kind not in "iuU":
        raise DataError(
            f"{what} must hold one whole number or one text per example, found {array.dtype.name} "
            f"{list(array.shape)}; convert it, with .astype(int) or .astype(str)."
        )
    if array.dtype.kind == "U":
        names = tuple(str(name) for name in array)
        if empty := sum(not name.strip() for name in names):
            raise DataError(f"{what} is empty in {empty} of {len(names)} rows; fill in or drop them.")
        return names
    if array.size and int(array.min()) < 0:
        raise DataError(f"{what} holds {int(array.min())}, but client numbers start at 0.")
    width = len(str(int(array.max()))) if array.size else 1
    return tuple(f"client-{int(number):0{width}d}" for number in array)


def group_codes(values: Any, what: str, count: int) -> Tensor:
    """A number for each example that those of one group share, int64 `[N]`, of any numbers or texts.

    Raises:
        DataError: not one per example.

    >>> group_codes(np.array(["p2", "p1", "p2"]), "patient", 3).tolist()
    [1, 0, 1]
    """
    array = as_text(values)
    if array.ndim != 1 or len(array) != count or array.dtype.kind not in "biufU":
        raise DataError(
            f"{what} must hold one number or text per example to group them, {count} in all, found {array.dtype.name} "
            f"{list(array.shape)}."
        )
    return torch.from_numpy(np.unique(array, return_inverse=True)[1].astype(np.int64).reshape(-1))


def client_notes(owners: Sequence[str]) -> list[str]:
    """Client ids that differ only in case, spaces or zeros: they stay different clients, which may not be meant."""
    groups = near_equal(owners)
    if not groups:
        return []
    shown = "; ".join(", ".join(map(repr, group)) for group in groups[:_GROUPS_SHOWN])
    more = f" and {len(groups) - _GROUPS_SHOWN} more groups" if len(groups) > _GROUPS_SHOWN else ""
    return [f"client ids that differ only in case, spaces or zeros are clients of their own: {shown}{more}"]


def near_equal(ids: Sequence[str]) -> list[tuple[str, ...]]:
    """Groups of ids that differ only in case, spaces or the way a number is written.

    >>> near_equal(["North", "north ", "007", "7.0", "8", "1e3", "1000"])
    [('007', '7.0'), ('1000', '1e3'), ('North', 'north ')]
    """
    groups: dict[str, list[str]] = {}
    for name in sorted(set(ids)):
        plain = " ".join(unicodedata.normalize("NFKC", name).split()).casefold()
        groups.setdefault(_number(plain) if NUMBER.fullmatch(plain) else plain, []).append(name)
    return [tuple(group) for group in groups.values() if len(group) > 1]


def _number(plain: str) -> str:
    """A number in one form, exactly: `7.0` is `7`, but no two long ids are one."""
    number = Decimal(plain)
    digits = number.as_tuple().digits
    return str(number.normalize(Context(prec=max(len(digits), 1))))

"""Columns that are no description of a row: counters of rows, and features that give the target away."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from headway.data.sources.table_fields import Field

FEWEST_ROWS = 10  # in which consecutive numbers are taken for a counter
FEWEST_OF_CLIENT = 20  # the same, for a counter that starts again at each client
MANY_ROWS = 50  # from which distinct whole numbers that fill half of their range are one, too
COUNTERS = ("", "index", "level_0", "row", "row id", "row_id", "rownames", *(f"unnamed: {place}" for place in range(4)))
BINS, LOOKED_AT = 20, 20_000
DECIDES, UNDECIDED = 0.99, 0.9

Owners = Sequence[str] | None
_NUMBERED = re.compile(r"(.*\D)(\d{1,15})", re.ASCII | re.DOTALL)


def counts_rows(each: Field, owners: Owners = None) -> bool:
    """Whether a column holds the numbers of the rows, in whatever order, also after some rows were left out.

    That is: whole numbers without a gap, no two alike, perhaps behind a text that is always the same, that follow one
    another without a hole (in 10 rows or more), fill half of their range or grow by equal steps from row to row (in 50
    or more), or have such a name; or that do so within each client, of 20 rows or more, from one start.

    >>> counts_rows(Field("", np.arange(12.0)[::-1])), counts_rows(Field("age", np.arange(12.0) % 7))
    (True, False)
    """
    numbers = _whole_numbers(each)
    if numbers is None:
        return False
    if _consecutive(numbers) or (each.name.strip().lower() in COUNTERS and len(np.unique(numbers)) == len(numbers)):
        return True
    if owners is None:
        return False
    names, groups = np.unique(np.asarray(owners, dtype=object).astype(str), return_inverse=True)
    parts = [numbers[groups == number] for number in range(len(names))] if len(names) <= len(groups) / 20 else []
    whole = [len(p) >= FEWEST_OF_CLIENT and np.ptp(p) == len(p) - 1 and len(np.unique(p)) == len(p) for p in parts]
    return len(parts) > 1 and all(whole) and len({float(p.min()) for p in parts}) == 1


def _whole_numbers(each: Field) -> NDArray[np.float64] | None:
    """The whole numbers of a column, or those behind a text that all values begin with; None where it has others."""
    if each.gaps:
        return None
    if each.numbers is not None:
        return each.numbers if each.kind == "integer" else None
    if len(each.texts) < FEWEST_ROWS or len(set(each.texts)) < len(each.texts):
        return None
    found = [_NUMBERED.fullmatch(text or "") for text in each.texts]
    matched = [match for match in found if match is not None]
    if len(matched) < len(found) or len({match[1] for match in matched}) > 1:
        return None
    return np.array([float(match[2]) for match in matched])


def _consecutive(numbers: NDArray[np.float64]) -> bool:
    if len(numbers) < FEWEST_ROWS or len(np.unique(numbers)) < len(numbers):
        return False
    spread, steps = np.ptp(numbers) + 1, np.diff(numbers)
    many = len(numbers) >= MANY_ROWS
    return bool(spread == len(numbers) or (many and (spread <= 2 * len(numbers) or (steps == steps[0]).all())))


def deciding(fields: Sequence[Field], targets: NDArray[np.generic], classes: int | None) -> list[str]:
    """Columns that alone nearly decide the target: of 20 bins, the commonest class or the mean is right for 99 %
    (of numbers, or a line is).

    For classes that is the share of rows, where the commonest class has at most 90 %; for numbers the share of the
    variance.  At most 20,000 rows are looked at.
    """
    step = max(1, len(targets) // LOOKED_AT)
    goal = np.asarray(targets)[::step]
    if len(goal) < 5 * BINS:
        return []
    if classes is None:
        goal = goal.astype(np.float64)
        total = float(goal.var())
        if total == 0:
            return []
    elif np.bincount(goal).max() > UNDECIDED * len(goal):
        return []
    found = []
    for each in fields:
        bins = _bins(each, step)
        sizes = np.bincount(bins)
        if len(sizes) > BINS + 1:
            continue
        if classes is None:
            means = np.bincount(bins, weights=goal) / np.maximum(sizes, 1)
            share = max(1 - float(((goal - means[bins]) ** 2).mean()) / total, _line(each, goal, step))
        else:
            table = np.zeros((len(sizes), classes), dtype=np.int64)
            np.add.at(table, (bins, goal), 1)
            share = table.max(1).sum() / len(goal)
        if share >= DECIDES:
            found.append(each.name)
    return found


def _line(each: Field, goal: NDArray[np.float64], step: int) -> float:
    """The share of the variance that a line through a column of numbers explains."""
    if each.numbers is None or each.categorical:
        return 0.0
    values = each.numbers[::step]
    seen = ~np.isnan(values)
    if seen.sum() < len(values) / 2 or np.ptp(values[seen]) == 0 or np.ptp(goal[seen]) == 0:
        return 0.0
    return float(np.corrcoef(values[seen], goal[seen])[0, 1] ** 2)


def _bins(each: Field, step: int) -> NDArray[np.int64]:
    """A bin for each row that is looked at: gaps have their own, equal values the same."""
    if each.numbers is None or each.categorical:
        return each.codes(each.distinct())[::step] + 1
    values = each.numbers[::step]
    seen = values[~np.isnan(values)]
    if not len(seen):
        return np.zeros(len(values), dtype=np.int64)
    edges = np.unique(np.quantile(seen, np.linspace(0, 1, BINS + 1)[1:-1], method="lower"))
    return np.where(np.isnan(values), 0, np.searchsorted(edges, np.nan_to_num(values), side="left") + 1)


def unscaled(features: Mapping[str, Field]) -> list[str]:
    """Columns of numbers with values of a thousand and more."""
    return [
        name
        for name, each in features.items()
        if each.numbers is not None and not each.categorical and np.nanmax(np.abs(each.numbers), initial=0) >= 1000
    ]

"""One column of a table as read: numbers, text or categories, with what could not be read as such."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from headway.data.dataset.owners import NUMBER

Kind = Literal["integer", "number", "text", "category"]
Decimal = Literal[".", ","]

GAPS = ("", "na", "n/a", "nan", "null", "none", "?")
MOST_FAULTS = 0.05  # the share of cells up to which those that are no numbers are mistakes in a column of numbers
FEW_FAULTS = 3
_COMMA = re.compile(r"[+-]?\d+,\d+", re.ASCII)
_THOUSANDS = re.compile(r"[+-]?[1-9]\d{0,2}(,\d{3})+", re.ASCII)
_WITH_COMMA = re.compile(r"[+-]?(\d{1,3}(\.\d{3})+|\d+)?(,\d*)?(e[+-]?\d+)?", re.ASCII | re.IGNORECASE)
_DATE = re.compile(r"(\d{4}[-/.]\d{1,2}[-/.]\d{1,2}|\d{1,2}[-/.]\d{1,2}[-/.]\d{2,4})([ T]\d{1,2}:\d{2}.*)?", re.ASCII)


@dataclass(frozen=True, eq=False)
class Field:
    """One column as read: `numbers` (float64 `[N]`, NaN at gaps), or `texts` (None at gaps) if it is text.

    `categorical` numbers are names and not quantities; `gap_words` counts the texts that were read as gaps, and
    `not_number` names the first cell of a column of text that keeps it from being numbers.  `problem` is the reason why
    a column cannot be used; with `faulty` it is a single cell that can be mended.
    """

    name: str
    numbers: NDArray[np.float64] | None
    texts: tuple[str | None, ...] = ()
    categorical: bool = False
    gap_words: Mapping[str, int] = field(default_factory=dict)
    not_number: str = ""
    problem: str = ""
    faulty: bool = False

    @property
    def kind(self) -> Kind:
        """`integer` (whole numbers), `number`, `category` (numbers that are names) or `text`."""
        if self.numbers is None:
            return "text"
        if self.categorical:
            return "category"
        seen = self.numbers[~np.isnan(self.numbers)]
        return "integer" if np.isfinite(seen).all() and (seen == np.floor(seen)).all() else "number"

    @property
    def rows(self) -> int:
        """The number of values, gaps included."""
        return len(self.texts) if self.numbers is None else len(self.numbers)

    @property
    def gaps(self) -> int:
        """The number of missing values."""
        return self.texts.count(None) if self.numbers is None else int(np.isnan(self.numbers).sum())

    @property
    def dates(self) -> bool:
        """Whether every value of a column of text is a date."""
        seen = [text for text in self.texts if text is not None]
        return bool(seen) and all(_DATE.fullmatch(text) for text in seen)

    def distinct(self) -> list[Any]:
        """The distinct observed values, sorted: numbers as numbers, text as text."""
        if self.numbers is None:
            return sorted({text for text in self.texts if text is not None})
        return [float(value) for value in np.unique(self.numbers[~np.isnan(self.numbers)])]

    def codes(self, categories: Sequence[Any]) -> NDArray[np.int64]:
        """The place of each value in `categories`, -1 at gaps; int64 `[N]`."""
        place = {category: number for number, category in enumerate(categories)}
        values = self.texts if self.numbers is None else self.numbers.tolist()
        return np.array([place.get(value, -1) for value in values], dtype=np.int64)


def as_written(name: str, cells: Iterable[str]) -> Field:
    """A column of names, exactly as written: only a blank cell is a gap."""
    return Field(name, None, tuple(cell if cell.strip() else None for cell in cells))


def parse_field(
    name: str, cells: Sequence[str], lines: Sequence[int], words: Collection[str], decimal: Decimal, as_text: bool
) -> Field:
    """A numeric field if every cell that is no gap is a number, else a text field.

    Where a few cells alone are no numbers (at most one in 20, or three), the column has a problem that names them.
    An infinite number is one as well.
    """
    if not as_text and (plain := _plain_numbers(cells, words, decimal)) is not None:
        return Field(name, plain)
    texts = tuple(None if (cell := raw.strip()).lower() in words else cell for raw in cells)
    found = dict(Counter(raw.strip() for raw, text in zip(cells, texts, strict=True) if text is None))
    if as_text:
        return Field(name, None, texts, categorical=True, gap_words=found)
    values = [np.nan if text is None else to_number(text, decimal) for text in texts]
    wrong = [place for place, value in enumerate(values) if value is None]
    if not wrong:
        numbers = np.array(values, dtype=np.float64)
        endless = np.flatnonzero(np.isinf(numbers))
        problem = f"{_cells(cells, lines, endless)} infinite" if len(endless) else ""
        return Field(name, numbers, gap_words=found, problem=problem, faulty=bool(problem))
    right = len(cells) - sum(found.values()) - len(wrong)
    what = _cells(cells, lines, wrong)
    if right > 2 * len(wrong) and len(wrong) <= max(FEW_FAULTS, MOST_FAULTS * (right + len(wrong))):
        problem = f"{what} no number, while the other {right} are numbers"
        return Field(name, None, texts, gap_words=found, problem=problem, faulty=True)
    return Field(name, None, texts, gap_words=found, not_number=what if right else "")


def _plain_numbers(cells: Sequence[str], words: Collection[str], decimal: Decimal) -> NDArray[np.float64] | None:
    """The numbers of a column that holds nothing else, in the quickest way; None where it may hold more."""
    if decimal == "," or any(NUMBER.fullmatch(word) for word in words):
        return None
    try:
        numbers = np.array([float(cell) for cell in cells], dtype=np.float64)
    except ValueError:
        return None
    plain = np.isfinite(numbers).all() and all(cell.isascii() and "_" not in cell for cell in cells)
    return numbers if plain else None


def to_number(text: str, decimal: Decimal) -> float | None:
    """The number that a cell writes, None if it is none: `20_24`, `nan` and digits of other scripts are none.

    With a decimal comma, points between groups of three digits separate thousands.

    >>> to_number("1.5", "."), to_number("1.234,5", ","), to_number("20_24", "."), to_number("-1e3", ".")
    (1.5, 1234.5, None, -1000.0)
    """
    if text.lower().lstrip("+-") in ("inf", "infinity"):
        return float(text)
    if decimal == ",":
        if not _WITH_COMMA.fullmatch(text):
            return None
        text = text.replace(".", "").replace(",", ".")
    return float(text) if NUMBER.fullmatch(text) else None


def decimal_comma(cells: Sequence[str], words: Collection[str]) -> tuple[bool, str]:
    """Whether a column holds numbers with a decimal comma, and a cell that may mean thousands if all of them may."""
    if not any("," in cell for cell in cells):
        return False, ""
    seen = [text for raw in cells if (text := raw.strip()).lower() not in words]
    commas = [text for text in seen if "," in text]
    if not commas or not all(_COMMA.fullmatch(text) or (NUMBER.fullmatch(text) and "." not in text) for text in seen):
        return False, ""
    return True, commas[0] if all(_THOUSANDS.fullmatch(text) for text in commas) else ""


def _cells(cells: Sequence[str], lines: Sequence[int], places: Sequence[int] | NDArray[np.int64]) -> str:
    """Words for the first of some cells, and a verb for all."""
    first = places[0]
    more = len(places) - 1
    return f"{cells[first].strip()!r} in line {lines[first]}" + (f" and {more} more are" if more else " is")

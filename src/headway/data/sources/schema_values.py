"""The values of a column under a schema: each cell matched with one of them, or refused with its place in the file."""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal

import numpy as np
from numpy.typing import NDArray

from headway.core.errors import DataError, nearest
from headway.data.dataset.owners import NUMBER

SHOWN, MOST_SHOWN = 5, 20  # cells and values that one sentence names


@dataclass(frozen=True)
class ValueRule:
    """The values of a column of the schema, other spellings of them, and what becomes of all else.

    name: of the column in the schema.  other: the value of what is none; with `unknown_is_gap` it is a gap.
    """

    name: str
    values: tuple[str, ...]
    aliases: Mapping[str, str]
    other: str | None = None
    unknown_is_gap: bool = False

    def codes(
        self, texts: Sequence[str | None], at: Callable[[int], str], where: str
    ) -> tuple[NDArray[np.int64], list[str]]:
        """The place of each cell among the values, int64 `[N]` with -1 at gaps, and notes on other matches.

        A cell that is written otherwise than a value and is the same number is that value: `1.0` is `1`.  Letters with
        marks may be one character or two.

        at: words for the place of a row in the file.  where: the column, at the beginning of a sentence.

        Raises:
            DataError: cells that are none of the values, where no rule says what they are.
        """
        places = {value: place for place, value in enumerate(self.values)}
        for written, read_as in self.aliases.items():
            if read_as not in places:
                raise DataError(
                    f"{where}: {written!r} is to be read as {read_as!r}, which the schema does not have"
                    f"{nearest(read_as, self.values)}."
                )
        spellings = {unicodedata.normalize("NFC", value): value for value in self.values}
        by_number = _by_number(self.values)
        counts = Counter(text for text in texts if text is not None)
        found: dict[str | None, int] = {None: -1}
        unknown, equal, notes = [], [], []
        for text in counts:
            known = unicodedata.normalize("NFC", text)
            if (value := self.aliases.get(text) or spellings.get(known)) is not None:
                found[text] = places[value]
            elif NUMBER.fullmatch(text) and Decimal(text) in by_number:
                found[text] = by_number[Decimal(text)]
                equal.append(f"{text!r} as {self.values[found[text]]!r}")
            else:
                unknown.append(text)
        if equal:
            notes.append(f"{self.name!r}: numbers that are the same, read {', '.join(equal[:SHOWN])}")
        if unknown:
            if self.other is None and not self.unknown_is_gap:
                raise DataError(
                    self._refusal(unknown, counts, [at(texts.index(text)) for text in unknown[:SHOWN]], where)
                )
            place = -1 if self.other is None else places[self.other]
            found |= dict.fromkeys(unknown, place)
            count, read_as = sum(counts[text] for text in unknown), "a gap" if self.other is None else repr(self.other)
            notes.append(f"{self.name!r}: {count} rows hold none of the schema's values, read as {read_as}")
        return np.array([found[text] for text in texts], dtype=np.int64), notes

    def _refusal(self, unknown: Sequence[str], counts: Mapping[str, int], places: Sequence[str], where: str) -> str:
        """The sentence about cells that are none of the values."""
        shown = [
            f"{text!r} in {place}{f' and {counts[text] - 1} more' if counts[text] > 1 else ''}"
            for text, place in zip(unknown[:SHOWN], places, strict=True)
        ]
        more = f", and {len(unknown) - SHOWN} other values" if len(unknown) > SHOWN else ""
        needed = ", ".join(map(repr, self.values[:MOST_SHOWN])) + (", ..." if len(self.values) > MOST_SHOWN else "")
        return (
            f"{where} holds {', '.join(shown)}{more}, but the schema of the federation needs one of {needed}. Correct "
            f"the file, add the value or an alias for it to the schema at the server, or map it for this client alone "
            f"in its own file, under [data.values.{self.name!r}]."
        )


def _by_number(values: Sequence[str]) -> dict[Decimal, int]:
    """The place of each value that is a number, where no other is the same number (as `01` and `1` are)."""
    numbers = Counter(Decimal(value) for value in values if NUMBER.fullmatch(value))
    return {
        Decimal(value): place
        for place, value in enumerate(values)
        if NUMBER.fullmatch(value) and numbers[Decimal(value)] == 1
    }

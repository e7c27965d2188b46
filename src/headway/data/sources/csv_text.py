"""A text table as people and offices write it: encoding, separator, titles above the header, blank lines."""

from __future__ import annotations

import csv
import io
import itertools
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from headway.core.errors import ConfigError, DataError
from headway.data.dataset.owners import NUMBER

SEPARATORS = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "vertical bars"}
_SAMPLE = 1 << 16  # characters by which the separator is guessed
_LOOKED_AT = 200  # rows that say how many cells a row has
_BOMS = {b"\xff\xfe": "utf-16", b"\xfe\xff": "utf-16"}
_CONTROL = re.compile(r"[\x01-\x08\x0e-\x1a\x1c-\x1f]")


@dataclass(frozen=True)
class TextTable:
    """The header, the rows below it with the line in the file where each starts, and what was guessed, in words."""

    header: tuple[str, ...]
    rows: list[list[str]]
    lines: list[int]
    separator: str
    notes: tuple[str, ...]


def read_text_table(path: Path, separator: str | None = None, encoding: str | None = None) -> TextTable:
    """The cells of a text table, exactly as written; what is not given is guessed, and the guess is a note.

    Without an encoding the file is read as UTF-8, UTF-16 where it starts with that mark, or else Windows-1252.
    Without a separator it is the comma, unless the rows only come out equally long by a semicolon, a tab or a
    vertical bar.  Blank lines are left out, and lines of a single cell above the header are a title.

    Raises:
        ConfigError: an unknown encoding, or a separator that is not one character.
        DataError: the bytes are not text, the file is empty, or rows and header differ in length.
    """
    text, notes = _decoded(path, encoding)
    if separator is None:
        separator, mark = _separator(text)
        if separator != "," and not mark:
            notes.append(f"the cells are separated by {SEPARATORS[separator]} (else: data.separator)")
    elif len(separator) != 1 or separator in '\r\n"':
        raise ConfigError(f"data.separator is {separator!r}, but one character is needed, such as ';' or a tab, '\\t'.")
    rows, lines, empty = _records(text, separator, path)
    if not rows:
        raise DataError(f"{path} is empty; a header line and rows are needed.")
    if rows[0] and rows[0][0].lower().startswith("sep=") and len("".join(rows[0])) <= len("sep="):
        rows, lines = rows[1:], lines[1:]
    first = _header_row(rows)
    if first:
        shown = "; ".join(repr(" ".join(filter(None, row))) for row in rows[:first])
        notes.append(f"{first} line{'s' * (first > 1)} above the header left out: {shown}")
    header, rows, lines = tuple(name.strip() for name in rows[first]), rows[first + 1 :], lines[first + 1 :]
    if empty:
        notes.append(f"{empty} row{'s' * (empty > 1)} with nothing but separators left out")
    _check_header(header, path)
    for row, line in zip(rows, lines, strict=True):
        if len(row) != len(header):
            raise DataError(
                f"{path}, line {line}, has {len(row)} values, but the header names {len(header)}; quote values that "
                f"hold a {_singular(separator)}, or give the separator as data.separator."
            )
    return TextTable(header, rows, lines, separator, tuple(notes))


def _decoded(path: Path, encoding: str | None) -> tuple[str, list[str]]:
    """The text of the file with line ends as csv takes them, and what was guessed."""
    raw, notes = path.read_bytes(), []
    if raw[:4] == b"PK\x03\x04":
        raise DataError(f"{path} is a zip or Excel file, whatever its name; save the table as CSV.")
    used = encoding or _BOMS.get(raw[:2], "utf-8-sig")
    try:
        text = raw.decode(used)
    except LookupError as error:
        raise ConfigError(f"data.encoding is {encoding!r}, which is no known encoding, such as 'cp1252'.") from error
    except UnicodeDecodeError as error:
        line = raw[: error.start].count(b"\n") + 1
        what = f"line {line} holds bytes that are not {used.removesuffix('-sig').upper()}"
        if encoding is not None:
            raise DataError(f"{path} is not a readable CSV file: {what}; try another data.encoding.") from error
        try:
            text = raw.decode("cp1252")
        except UnicodeDecodeError:
            text = "\x01"
        if _CONTROL.search(text):
            raise DataError(
                f"{path} is not a readable CSV file in UTF-8: {what}. Name its encoding, such as "
                "data.encoding = 'cp1252' (Windows-1252) or 'utf-16'."
            ) from error
        notes.append(f"{what}: read as Windows-1252 (else: data.encoding)")
    if "\0" in text:
        line = len(re.findall("\r\n|\r|\n", text[: text.index("\0")])) + 1
        raise DataError(
            f"{path}, line {line}, holds NUL bytes, so the file is damaged or in another encoding, such as "
            "data.encoding = 'utf-16'; write it anew as UTF-8."
        )
    if "\n" not in text:
        text = text.replace("\r", "\n")
    return text, notes


def _separator(text: str) -> tuple[str, bool]:
    """The separator that makes the first rows equally long, and whether a first line `sep=` names it."""
    if named := re.match(r"\s*\"?sep=(.)\"?\s*?(\r|\n|$)", text, re.IGNORECASE):
        return named[1], True
    sample = text[:_SAMPLE]
    if len(text) > _SAMPLE and "\n" in sample:
        sample = sample[: sample.rindex("\n")]
    shares = {}
    for candidate in SEPARATORS:
        try:
            widths = Counter(
                len(row) for row in csv.reader(io.StringIO(sample, newline=""), delimiter=candidate) if row
            )
        except csv.Error:
            continue
        width, count = widths.most_common(1)[0] if widths else (0, 0)
        shares[candidate] = count / widths.total() if width > 1 else 0.0
    best = max(shares, key=lambda candidate: shares[candidate], default=",")  # the comma, of equals
    return (best if shares.get(best, 0.0) > 0.5 else ","), False


def _records(text: str, separator: str, path: Path) -> tuple[list[list[str]], list[int], int]:
    """The rows that hold anything, the line where each starts, and how many hold separators alone."""
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator)
    rows, lines, empty, start = [], [], 0, 1
    try:
        for row in reader:
            if any(cell.strip() for cell in row):
                rows.append(row)
                lines.append(start)
            elif len(row) > 1:
                empty += 1
            start = reader.line_num + 1
    except csv.Error as error:
        raise DataError(f"{path}, line {reader.line_num}, is not readable as CSV ({error}).") from error
    return rows, lines, empty


def _header_row(rows: Sequence[Sequence[str]]) -> int:
    """The number of the header row: the first one, after titles of a single cell."""
    width = Counter(map(len, rows[:_LOOKED_AT])).most_common(1)[0][0]
    for number, row in enumerate(rows):
        filled = sum(bool(cell.strip()) for cell in row)
        if not (width > 1 and filled == 1 and (len(row) == 1 or len(row) > 2)):
            return number
    return 0


def _check_header(header: Sequence[str], path: Path) -> None:
    if len(set(header)) < len(header):
        twice = next(name for name in header if header.count(name) > 1)
        raise DataError(f"{path} has the column {twice!r} twice; rename one.")
    if len(header) > 1 and all(NUMBER.fullmatch(name) for name in header):
        numbers = [float(name) for name in header]
        if any(after - before != 1 for before, after in itertools.pairwise(numbers)):
            raise DataError(
                f"{path} begins with numbers ({', '.join(header[:4])}, ...), where a header line with the names of the "
                "columns is needed; write one."
            )


def _singular(separator: str) -> str:
    return SEPARATORS.get(separator, f"{separator!r}s").removesuffix("s")

"""Numbers as text, and the console."""

from __future__ import annotations

import json
import math
import os
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, TextIO

import tomli_w
from rich.console import Console
from rich.markup import escape
from rich.table import Table


def console() -> Console:
    """Standard output: coloured on a terminal, plain and unwrapped when piped."""
    if sys.stdout.isatty():
        return Console(highlight=False)
    return Console(highlight=False, width=10_000, no_color=True, force_terminal=False)


_json_to: list[TextIO] = []  # where `emit` writes, if that is not standard output


@contextmanager
def json_alone() -> Iterator[None]:
    """Within, only `emit` writes to standard output: what anything else prints, such as a user's model here or in a
    worker, goes to standard error."""
    out, sys.stdout = sys.stdout, sys.stderr
    _json_to.append(out)
    kept = _swap(out, sys.stderr)
    try:
        yield
    finally:
        sys.stdout = out
        _json_to.pop()
        if kept is not None:
            os.dup2(kept.fileno(), 1)
            kept.close()


def _swap(out: TextIO, err: TextIO) -> TextIO | None:
    """Does the same for what writes to the file itself, where this is one; the stream to standard output then."""
    try:
        one, two = out.fileno(), err.fileno()
    except (OSError, ValueError):
        return None
    if (one, two) != (1, 2):
        return None
    out.flush()
    stream = open(os.dup(1), "w", encoding=out.encoding, errors=out.errors)  # noqa: SIM115
    os.dup2(2, 1)
    _json_to[-1] = stream
    return stream


def emit(record: dict[str, Any]) -> None:
    """One JSON object on a line of its own; a value that is no finite number is null."""
    print(json.dumps(strict(record), allow_nan=False), flush=True, file=_json_to[-1] if _json_to else None)


def bytes_text(count: float) -> str:
    """A number of bytes, in units of 1000.

    >>> bytes_text(999), bytes_text(1234567)
    ('999 B', '1.2 MB')
    """
    for unit in ("B", "kB", "MB", "GB"):
        if count < 999.5 or unit == "GB":
            return f"{count:.0f} {unit}" if unit == "B" or count >= 99.5 else f"{count:.1f} {unit}"
        count /= 1000
    raise AssertionError


def time_unit(longest: float) -> tuple[str, float]:
    """The unit of an axis for times up to so many seconds: its name, and its length in seconds.

    >>> time_unit(90.0), time_unit(7300.0), time_unit(300_000.0)
    (('seconds', 1.0), ('hours', 3600.0), ('days', 86400.0))
    """
    units = (("days", 86_400.0), ("hours", 3600.0), ("minutes", 60.0))
    return next((unit for unit in units if longest >= 2 * unit[1]), ("seconds", 1.0))


def number_text(value: float | None) -> str:
    """A metric: four digits, or a dash where there is none.

    >>> number_text(0.91234), number_text(None)
    ('0.9123', '-')
    """
    if value is None or math.isnan(value):
        return "-"
    return f"{value:.4g}" if abs(value) >= 10 else f"{value:.4f}"


def metric_text(value: float | None) -> str:
    """A metric after an evaluation: NaN is one that the test examples do not define, and `None` one that was not taken.

    >>> metric_text(0.5), metric_text(math.nan), metric_text(None)
    ('0.5000', 'not defined', '-')
    """
    return "not defined" if value is not None and math.isnan(value) else number_text(value)


def difference_text(mean: float, half: float) -> str:
    """A difference with its sign and half the width of its interval.

    >>> difference_text(0.08431, 0.0312), difference_text(-0.5, float("nan")), difference_text(float("nan"), 0.0)
    ('+0.0843 +- 0.0312', '-0.5000', '-')
    """
    if math.isnan(mean):
        return "-"
    return f"{'+' if mean >= 0 else ''}{number_text(mean)}" + ("" if math.isnan(half) else f" +- {number_text(half)}")


def listed(names: Sequence[str]) -> str:
    """Names in a sentence.

    >>> listed(["a"]), listed(["a", "b", "c"])
    ('a', 'a, b and c')
    """
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def name_text(name: str, longest: int = 48) -> str:
    """A user's name, such as a client id, on one line: control characters as escapes, a long one without its middle,
    and quoted where blanks at an end would not be seen.

    >>> name_text("north"), name_text("new\\nline"), name_text("north "), name_text("x" * 99, longest=9)
    ('north', 'new\\\\nline', "'north '", 'xxxx...xx')
    """
    shown = "".join(letter if letter.isprintable() else repr(letter)[1:-1] for letter in name)
    if len(shown) > longest:
        rest = (longest - 3) // 3
        shown = f"{shown[: longest - 3 - rest]}...{shown[-rest:]}"
    return repr(shown) if shown != shown.strip() else shown


def plain_table(
    columns: Sequence[str], rows: Iterable[Sequence[str]], numbers: bool = True, indent: bool = False
) -> Table:
    """A table without heavy lines; all columns but the first, of names, hold numbers, unless `numbers` is False.

    indent: whether the names are set in by two blanks.
    """
    table = Table(box=None, pad_edge=False, header_style="bold")
    for index, column in enumerate(columns):
        table.add_column(column, justify="right" if index and numbers else "left", no_wrap=index == 0)
    for row in rows:
        table.add_row("  " * indent + escape(name_text(row[0])), *map(escape, row[1:]))
    return table


def markdown_table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table as Markdown, without a line feed at its end.

    >>> print(markdown_table(["rule", "value"], [["Mean", "0.9"]]))
    | rule | value |
    | --- | --- |
    | Mean | 0.9 |
    """
    return "\n".join(f"| {' | '.join(line)} |" for line in [columns, ["---"] * len(columns), *rows])


def show_table(screen: Console, table: Table) -> None:
    """Prints a table; piped, without the blanks at the ends of its lines."""
    if screen.is_terminal:
        screen.print(table)
        return
    with screen.capture() as captured:
        screen.print(table)
    screen.print("\n".join(line.rstrip() for line in captured.get().splitlines()), markup=False, soft_wrap=True)


def to_toml(value: Any) -> str:
    """A value as it stands in a run file, lists and tables written inline.

    >>> to_toml({"kind": "iid", "sizes": [1, 2.5]})
    '{ kind = "iid", sizes = [1, 2.5] }'
    """
    if isinstance(value, Mapping):
        return "{ " + ", ".join(f"{key} = {to_toml(item)}" for key, item in value.items()) + " }"
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(map(to_toml, value))}]"
    return tomli_w.dumps({"value": value}).removeprefix("value = ").rstrip()


def strict(value: Any) -> Any:
    """The value as strict JSON can hold it: a value that is no finite number is null."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, dict):
        return {key: strict(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [strict(item) for item in value]
    return value

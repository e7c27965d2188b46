"""Notes on how data were read: lines of a header, and a file in the run folder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from headway.data import ClientData
from headway.data.dataset.target_summary import target_line
from headway.observe.run_folder import DATA_NOTES, write_atomically, writing


def save_data_notes(folder: Path, data: ClientData, measured: dict[str, Any]) -> None:
    """Writes the data's name, targets, classes and the lines about their reading; and what is measured on them."""
    kept = {
        "data": data.name,
        **dict([target_line(data)]),
        "split": data.split,
        "class_names": data.class_names,
        "notes": data.notes,
        **measured,
    }
    with writing(folder / DATA_NOTES):
        write_atomically(folder / DATA_NOTES, json.dumps(kept, indent=2, ensure_ascii=False).encode())


def reading_facts(data: ClientData) -> list[tuple[str, str]]:
    """The notes on how the data were read: classes, labels or targets, the split, and each note, under a name each.

    >>> from headway.data import FederatedData
    >>> reading_facts(FederatedData.from_clients({"a": ([[0.0], [1.0]], [0, 1])}))
    [('classes', '2: 0 (1), 1 (1)')]
    """
    split = [("split", data.split)] if data.split else []
    return [target_line(data), *split, *(("read", note) for note in data.notes)]


def reading_lines(data: ClientData) -> list[str]:
    """The same as indented lines.

    >>> from headway.data import FederatedData
    >>> reading_lines(FederatedData.from_clients({"a": ([[0.0], [1.0]], [0, 1])}))
    ['  classes 2: 0 (1), 1 (1)']
    """
    return [f"  {name:<7} {line}" for name, line in reading_facts(data)]

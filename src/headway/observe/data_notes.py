"""What a run folder keeps of the data that the run was made with, for a report or a person to read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from headway.data import FederatedData
from headway.data.classes import target_line
from headway.observe.folder import DATA_NOTES, write_atomically, writing


def save_data_notes(folder: Path, data: FederatedData, measured: dict[str, Any]) -> None:
    """Writes the data's name, targets, classes and the lines about their reading; and what is measured on them."""
    kept = {
        "data": data.name,
        **dict([target_line(data)]),
        "class_names": data.class_names,
        "notes": data.notes,
        **measured,
    }
    with writing(folder / DATA_NOTES):
        write_atomically(folder / DATA_NOTES, json.dumps(kept, indent=2, ensure_ascii=False).encode())

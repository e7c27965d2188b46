"""Sentences about a path of data that is not what was needed."""

from __future__ import annotations

from pathlib import Path

from headway.core.errors import nearest


def no_file(path: Path, kind: str = "") -> str:
    """The reason why a path is no file: it is a folder, or nothing is there; with a file that may be meant.

    >>> no_file(Path("nowhere/table.csv"))
    'there is no file nowhere/table.csv; check the path.'
    """
    if path.is_dir():
        inside = sorted(each.name for each in path.iterdir() if each.is_file() and not each.name.startswith("."))
        such = f", such as {path / inside[0]}" if inside else ""
        return (
            f"{path} is a folder, but one file is needed here{such}; a folder of pictures or of .npy files is named "
            'as it is, in a run file: source = "FOLDER".'
        )
    neighbours = [each.name for each in path.parent.iterdir()] if path.parent.is_dir() else []
    near = nearest(path.name, neighbours)
    return f"there is no file {path}{kind}{near if 'did you mean' in near else ''}; check the path."

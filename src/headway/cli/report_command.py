"""`headway report`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from headway.core.errors import ConfigError
from headway.observe.run_folder import write_atomically, writing
from headway.observe.text import bytes_text, console, emit
from headway.reports import evidence
from headway.reports.page import GENERATOR, render
from headway.reports.page.page_parts import may_write

NAME = "report.html"


def report_runs(paths: Sequence[Path], out: Path | None, as_json: bool) -> None:
    """Writes one page about these runs and comparisons.

    Raises:
        ConfigError: if the place is taken by something that is not a report, or the runs do not go together.
        RunFolderError: if a folder is no run and no comparison, is damaged, or holds no round.
    """
    path = out or (paths[0] / NAME if len(paths) == 1 else Path(NAME))
    gathered = evidence(paths)
    if not may_write(path, GENERATOR):
        raise ConfigError(f"{path} exists already and is no report: choose another place with --out.")
    page = render(gathered).encode()
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, page)
    if as_json:
        names = [method.name for method in gathered.methods]
        emit(
            {"event": "report", "file": str(path), "bytes": len(page), "methods": names, "sentence": gathered.sentence}
        )
        return
    screen = console()
    for words in (gathered.sentence, *gathered.notices):
        screen.print(words, soft_wrap=True, markup=False)
    screen.print(f"{path}: {bytes_text(len(page))}; open it in a browser.", soft_wrap=True, markup=False)

"""`headway partition`."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

from headway.core.errors import ConfigError
from headway.data import ClientSkew, FederatedData, Skew, Spread, described, skew_of
from headway.experiment.runfile import RunFile, load_runfile
from headway.observe.data_notes import reading_facts, reading_lines
from headway.observe.run_folder import writing
from headway.observe.text import console, emit, number_text, plain_table, show_table
from headway.reports.partition_picture import partition_picture

MOST_ROWS = 30
ENDING = ".png"


def partition_file(name: str, sets: Sequence[str], seed: int | None, out: Path | None, as_json: bool) -> None:
    """Shows who would hold what in the run of a file and a seed, in numbers and as a picture; nothing is trained.

    Raises:
        ConfigError: if the picture's name does not end in .png, or is a folder's.
        DataError: if the data cannot be had as asked.
    """
    if out is not None and (out.suffix.lower() != ENDING or out.is_dir()):
        raise ConfigError(f"the picture {out} needs a file name that ends in {ENDING}.")
    runfile = load_runfile(name, sets, seed=seed)
    data = runfile.load_data()
    found = skew_of(data)
    path = out or _free(Path("partitions") / f"{runfile.name}-s{runfile.sections.run.seed}")
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        section = runfile.sections
        how = [data.name, f"{len(data.clients)} clients", *described(section.data.partition, section.data.shift)]
        partition_picture(path, data, found, f"{runfile.name}, seed {section.run.seed}: {', '.join(how)}")
    if as_json:
        for each in found.clients:
            emit({"event": "client", **dataclasses.asdict(each)})
        overall = {key: value for key, value in dataclasses.asdict(found).items() if key != "clients"}
        emit(
            {
                "event": "done",
                **overall,
                "reading": reading_facts(data),
                "sentence": found.sentence(),
                "picture": str(path),
            }
        )
    else:
        _show(runfile, data, found, path)


def _free(path: Path) -> Path:
    """The picture's path, or the next one with a number that is not taken."""
    number, free = 1, path.with_name(f"{path.name}{ENDING}")
    while free.exists():
        number += 1
        free = path.with_name(f"{path.name}-{number}{ENDING}")
    return free


def _show(runfile: RunFile, data: FederatedData, found: Skew, path: Path) -> None:
    screen = console()
    examples = sum(each.train for each in found.clients)
    central = f", {len(data.central)} in a central test set" if data.central is not None else ""
    screen.print(f"[bold]{runfile.name}[/bold], seed {runfile.sections.run.seed}")
    screen.print(f"  data    {data.name}: {len(found.clients)} clients, {examples} training examples{central}")
    for line in reading_lines(data):
        screen.print(line, markup=False, soft_wrap=True)
    screen.print()
    columns, rows = _table(found)
    table = plain_table(columns, rows)
    if found.shifted:
        table.columns[-1].justify = "left"
    show_table(screen, table)
    screen.print()
    lines = [["sizes", f"variation {number_text(found.size_variation)}", f"Gini {number_text(found.size_gini)}"]]
    for what, spread in (("labels", found.labels), ("targets", found.targets), ("features", found.features)):
        if spread is not None:
            lines.append([what, *_spread(spread)])
    for what, *texts in lines:
        screen.print(f"{what}: {', '.join(texts)}", soft_wrap=True)
    screen.print()
    for line in _notes(found):
        screen.print(line, soft_wrap=True)
    screen.print(f"Picture: {path}", soft_wrap=True)
    screen.print(f"[bold]{found.sentence()}[/bold]", soft_wrap=True)


def _table(found: Skew) -> tuple[list[str], list[list[str]]]:
    """The columns that apply to these data, and a row per client up to the most that are shown."""
    columns = ["client", "train", "test"]
    if found.labels is not None:
        columns += ["entropy", "effective classes", "label distance"]
    if found.targets is not None:
        columns += ["target mean", "target std", "target distance"]
    if found.features is not None:
        columns += ["feature distance", "feature spread"]
    if found.shifted:
        columns.append("shift")
    rows = [_row(each, found) for each in found.clients[:MOST_ROWS]]
    if len(found.clients) > MOST_ROWS:
        rows.append([f"... and {len(found.clients) - MOST_ROWS} more"])
    return columns, rows


def _row(each: ClientSkew, found: Skew) -> list[str]:
    row = [each.client, str(each.train), str(each.test)]
    if each.effective_classes is not None:
        row += [number_text(each.entropy), f"{each.effective_classes:.1f} of {found.classes}"]
        row.append(number_text(each.label_distance))
    if found.targets is not None:
        row += [number_text(each.target_mean), number_text(each.target_std), number_text(each.target_distance)]
    if found.features is not None:
        row += [number_text(each.feature_distance), number_text(each.feature_spread)]
    if found.shifted:
        row.append("; ".join(each.shifts) or "-")
    return row


def _spread(spread: Spread) -> list[str]:
    return [
        f"mean distance {number_text(spread.mean)}",
        f"weighted by size {number_text(spread.weighted)}",
        f"largest {number_text(spread.largest)}",
        f"by chance {number_text(spread.chance)}",
    ]


def _notes(found: Skew) -> list[str]:
    """The meaning of the columns that are shown."""
    notes = []
    if found.labels is not None:
        notes.append("Label distance: total variation between a client's label mix and everybody's; entropy in nats.")
    if found.targets is not None:
        what = "frequencies of each label" if found.multi_label else "mean"
        notes.append(f"Target distance: between a client's {what} and everybody's, in standard deviations.")
    if found.features is not None:
        within = "within classes, " if found.classes is not None else ""
        notes.append(f"Feature distance: between a client's means and everybody's, {within}in standard deviations.")
    if found.shifted:
        notes.append("Shifts change a client's training and test examples, and never the central test set.")
    return notes

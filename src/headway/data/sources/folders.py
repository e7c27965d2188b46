"""A folder of pictures for each class, perhaps in folders for clients or for training and test."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from headway.core.errors import ConfigError, DataError
from headway.data.dataset.examples import Examples
from headway.data.dataset.split import split
from headway.data.sources.example_pool import ExamplePool
from headway.data.sources.pictures import Colour, read_pictures
from headway.data.sources.split_names import part_named
from headway.numerics.keys import Key

Layout = Literal["class", "client/class"]

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".pgm", ".ppm")
_SYSTEM = frozenset({"__macosx", "@eadir", "$recycle.bin", "system volume information", "lost+found"})
_CHOICES = {
    "colour": ("rgb", "grey"),
    "layout": ("class", "client/class"),
    "damaged": ("refuse", "skip"),
    "validation": ("skip", "train"),
}
_NAMED = 4  # names that a note or an error lists


@dataclass(frozen=True)
class _FolderLevel:
    """The place of a picture: the part of the data that its folder names, its client and its class."""

    part: str
    client: str
    name: str


def class_folders(
    path: Path,
    *,
    key: Key,
    side: int | None = None,
    colour: Colour = "rgb",
    layout: Layout | None = None,
    central_share: float = 0.2,
    damaged: Literal["refuse", "skip"] = "refuse",
    validation: Literal["skip", "train"] = "skip",
) -> ExamplePool:
    """A folder of pictures for each class, as LC25000 and many others come.

    A class is a folder that holds pictures; its name is the path below `path` (below the client's folder with
    layout "client/class"), and classes are numbered by sorted name.  Folders for training, test and validation, however
    they are spelled (`train`, `Training`, `test_set`, `valid`), may lie directly below `path`, or below each client's:
    the test folder is the central test set (with clients, each one's test part), and so is the validation folder where
    there is no test folder.  Without them a stratified `central_share` of all pictures, chosen by `key`, becomes
    the central test set (of a "client/class" layout, none).
    Pixels are scaled to [0, 1], shape `[N, 3 or 1, side, side]`: 8 bits by 255, grey ones of 16 bits by 65,535.
    Hidden files and folders and those of operating systems are passed over, and links to folders are followed.

    side: the pictures are resized to this many pixels a side (bilinear); needed unless all are of one size.
    layout: whether the folders directly below `path` are classes or clients; needed where both could be meant.
    damaged: whether files that cannot be read are refused, all at once, or left out.
    validation: with a test folder, whether the validation folder is left out or joins training.

    Raises:
        ConfigError: an unknown colour, layout or choice, a side below 1, or a share outside [0, 1).
        DataError: no picture, some that cannot be read, pictures of different sizes, or folders of which it is not
        known
            whether they are clients or classes.
    """
    _check_options(side, colour=colour, layout=layout, damaged=damaged, validation=validation)
    files, notes = _files(path)
    files, places, tested, part_notes = _used(files, path, layout, validation)
    found = read_pictures(files, path, side=side, colour=colour, damaged=damaged)
    places = [places[number] for number in found.kept]
    names, targets = _classes(places, path)
    same = _groups(found.digests)
    notes += (*part_notes, *found.notes, *_twice(same, targets, [files[kept] for kept in found.kept], path))
    in_test = torch.tensor([place.part == tested for place in places])
    pool = ExamplePool(
        path.name,
        found.pixels,
        targets,
        len(names),
        description=f"pictures of {path.name}: {', '.join(names)}",
        class_names=names,
        notes=notes,
        same=same,
    )
    if layout == "client/class":
        owners = tuple(place.client for place in places)
        return replace(pool, owners=owners, tested=in_test if bool(in_test.any()) else None)
    rest, aside = (~in_test).nonzero()[:, 0], in_test.nonzero()[:, 0]
    if not len(aside):
        rest, aside = split(torch.arange(len(targets)), central_share, key.derive("central"), targets)
    return _with_central(pool, rest, aside, same)


def _classes(places: Sequence[_FolderLevel], path: Path) -> tuple[tuple[str, ...], Tensor]:
    """The names of the classes, sorted, and the class of each picture, int64 `[n]`."""
    names = tuple(sorted({place.name for place in places}))
    if len(names) < 2:
        raise DataError(f"all pictures of {path} are of one class, {names[0]!r}; 2 classes are needed.")
    number = {name: code for code, name in enumerate(names)}
    return names, torch.tensor([number[place.name] for place in places])


def _with_central(pool: ExamplePool, rest: Tensor, aside: Tensor, same: Tensor) -> ExamplePool:
    """The pictures at `rest`, with those at `aside` as the central test set."""
    assert isinstance(pool.inputs, Tensor)
    images = Examples(pool.inputs, pool.targets)
    held = images.take(rest)
    return replace(
        pool,
        inputs=held.inputs,
        targets=held.targets,
        central=images.take(aside) if len(aside) else None,
        notes=(*pool.notes, *_shared(same[rest], same[aside])),
        same=same[rest],
    )


def _used(
    files: list[Path], path: Path, layout: Layout | None, validation: str
) -> tuple[list[Path], list[_FolderLevel], str, tuple[str, ...]]:
    """The pictures that are used and their places, the part that is tested on, and a note on the parts."""
    places = _places([file.relative_to(path).parts[:-1] for file in files], path, layout)
    counts = Counter(place.part for place in places)
    tested = "test" if counts["test"] or validation == "train" else "validation"
    if counts[""] == 0 and not counts["train"]:
        raise DataError(f"{path} has folders for {' and '.join(sorted(counts))}, but none for training.")
    left = counts["validation"] if tested == "test" and validation == "skip" else 0
    note = _notes(counts, tested, left, layout)
    if left:
        chosen = [number for number, place in enumerate(places) if place.part != "validation"]
        files, places = [files[number] for number in chosen], [places[number] for number in chosen]
    return files, places, tested, note


def _check_options(side: int | None, **choices: str | None) -> None:
    for option, value in choices.items():
        known = _CHOICES[option]
        if value not in known and not (option == "layout" and value is None):
            raise ConfigError(f"{option} is {value!r}, but one of {', '.join(map(repr, known))} is needed.")
    if side is not None and (isinstance(side, bool) or not isinstance(side, int) or side < 1):
        raise ConfigError(f"side is {side!r}, but a whole number of pixels is needed.")


def _files(path: Path) -> tuple[list[Path], tuple[str, ...]]:
    """The pictures below a folder, sorted, and notes on what is passed over and on links."""
    files: list[Path] = []
    hidden, others, links = list[str](), Counter[str](), list[str]()
    for file, kind in _walk(path, path, ()):
        if kind == "hidden":
            hidden.append(str(file.relative_to(path)))
        elif kind == "link":
            links.append(str(file.relative_to(path)))
        elif file.suffix.lower() in SUFFIXES:
            files.append(file)
        else:
            others[file.name] += 1
    if not files:
        raise DataError(
            f"{path} holds no picture ({', '.join(SUFFIXES)}) and no IDX files; put each class into a folder."
        )
    notes = []
    if hidden:
        notes.append(f"{len(hidden)} hidden or system files and folders are passed over: {_few(sorted(hidden))}")
    if others:
        count = sum(others.values())
        notes.append(f"{count} file{'s' * (count != 1)} that are no pictures are passed over: {_few(sorted(others))}")
    if links:
        notes.append(f"{len(links)} links to folders are followed: {_few(sorted(links))}")
    return sorted(files), tuple(notes)


def _walk(folder: Path, root: Path, above: tuple[str, ...]) -> Iterator[tuple[Path, str]]:
    """Each file below a folder as "file", what is hidden as "hidden", and links to folders as "link"."""
    real = os.path.realpath(folder)
    if real in above:  # a link to a folder that holds it
        return
    for entry in sorted(folder.iterdir()):
        if entry.name.startswith(".") or entry.name.lower() in _SYSTEM:
            yield entry, "hidden"
        elif entry.is_dir():
            if entry.is_symlink():
                yield entry, "link"
            yield from _walk(entry, root, (*above, real))
        elif entry.is_file() or entry.is_symlink():
            yield entry, "file"


def _places(folders: Sequence[tuple[str, ...]], path: Path, layout: Layout | None) -> list[_FolderLevel]:
    """The place of each picture, from the names of the folders that it lies in."""
    if loose := sum(not parts for parts in folders):
        many = f"{loose} pictures of {path} lie" if loose > 1 else f"1 picture of {path} lies"
        raise DataError(f"{many} in no class folder; put each into the folder of its class.")
    level = _level(folders, path, layout)
    parts = ["" if level is None else part_named(each[level]) or "" for each in folders]
    rest = [each if level is None else (*each[:level], *each[level + 1 :]) for each in folders]
    if layout is None:
        _check_layout(rest, path)
    depth = 1 if layout == "client/class" else 0
    for number, each in enumerate(rest):
        if len(each) <= depth:
            where = path.joinpath(*folders[number])
            raise DataError(f"the pictures of {where} lie in no class folder; put each into the folder of its class.")
    return [
        _FolderLevel(part, each[0] if depth else "", "/".join(each[depth:]))
        for part, each in zip(parts, rest, strict=True)
    ]


def _level(folders: Sequence[tuple[str, ...]], path: Path, layout: Layout | None) -> int | None:
    """At which level the folders are those for training and test: 0, 1 (below clients), or None."""
    for level in (0, 1) if layout == "client/class" else (0,):
        names = {each[level] if len(each) > level else "" for each in folders}
        found = {name: part_named(name) for name in sorted(names)}
        kinds = {part for part in found.values() if part}
        if all(found.values()):
            if len(kinds) > 1 or all(len(each) > level + 1 for each in folders):
                return level
        elif len(kinds) > 1:
            known, others = ([n for n, p in found.items() if bool(p) == is_part] for is_part in (True, False))
            raise DataError(
                f"{path} holds folders for parts of the data ({_few(known)}) beside others ({_few(others)}); move the "
                "others away, or put the classes of each part into its folder."
            )
    return None


def _check_layout(folders: Sequence[tuple[str, ...]], path: Path) -> None:
    """Refuses folders of two levels that could be clients with their classes as well as classes of two words."""
    if any(len(each) < 2 for each in folders):
        return
    pairs = {(each[0], "/".join(each[1:])) for each in folders}
    tops = {top for top, _ in pairs}
    holders = Counter(name for _, name in pairs)
    several = sum(count > 1 for count in holders.values())
    if len(tops) > 1 and 2 * several >= len(holders):
        raise DataError(
            f"the {len(tops)} folders of {path} ({_few(sorted(tops))}) hold folders of the same names "
            f'({_few(sorted(holders))}): set data.layout = "client/class" if they are clients that hold classes, or '
            f'data.layout = "class" if each of the {len(pairs)} inner folders is a class of its own.'
        )


def _notes(counts: Counter[str], tested: str, left: int, layout: Layout | None) -> tuple[str, ...]:
    """Notes on the use of the folders for training, test and validation."""
    if set(counts) <= {""}:
        return ()
    held = ", ".join(f"{counts[part]} {part}" for part in ("train", "validation", "test") if counts[part])
    use = "each client's test part" if layout == "client/class" else "the central test set"
    line = f"pictures by folder: {held}"
    if counts[tested]:
        line += f"; those of {tested} are {use}"
    if left:
        line += '; those of validation are left out (data.validation = "train" adds them to training)'
    elif counts["validation"] and tested == "test":
        line += "; those of validation are trained on"
    return (line,)


def _groups(digests: Sequence[bytes]) -> Tensor:
    """For each file a number that files of the same bytes share, int64 `[n]`."""
    known: dict[bytes, int] = {}
    return torch.tensor([known.setdefault(digest, len(known)) for digest in digests], dtype=torch.int64)


def _twice(same: Tensor, targets: Tensor, files: Sequence[Path], path: Path) -> tuple[str, ...]:
    """A note on pictures whose bytes lie in two classes."""
    first: dict[int, int] = {}
    pairs = []
    for number, (group, label) in enumerate(zip(same.tolist(), targets.tolist(), strict=True)):
        other = first.setdefault(group, number)
        if int(targets[other]) != label:
            pairs.append(f"{files[other].relative_to(path)} = {files[number].relative_to(path)}")
    if not pairs:
        return ()
    return (f"{len(pairs)} pictures have the same bytes as one of another class: {_few(pairs)}",)


def _shared(train: Tensor, test: Tensor) -> tuple[str, ...]:
    """A note on pictures of the central test set whose bytes are trained on as well."""
    count = int(torch.isin(test, train).sum())
    return (f"{count} pictures of the central test set have the same bytes as one to train on",) if count else ()


def _few(names: Sequence[str]) -> str:
    return ", ".join(names[:_NAMED]) + (f" and {len(names) - _NAMED} more" if len(names) > _NAMED else "")

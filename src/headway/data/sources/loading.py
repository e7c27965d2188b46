"""Loading of data by name or path: the section `[data]` of a run file."""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from headway.core.errors import ConfigError, DataError, nearest
from headway.core.registry import convert, is_plain
from headway.data.dataset.federated import FederatedData
from headway.data.shift.shifts import ShiftLike, shifted, shifts
from headway.data.sources.example_pool import ExamplePool, PartitionLike
from headway.data.sources.folders import class_folders
from headway.data.sources.hub import is_saved, saved_pool
from headway.data.sources.images import has_idx, idx_pool
from headway.data.sources.mapped import is_mapped, mapped, mapped_pool
from headway.data.sources.source_registry import SOURCES, call, parameters_of, source_names, suffixes, types_of
from headway.numerics.keys import Key

_TEXT_OPTIONS = frozenset(
    {"target", "client_column", "group", "task", "standardise", "separator", "decimal", "encoding"}
)
_LIST_OPTIONS = {"drop": "column names", "keep": "column names", "categories": "column names", "gaps": "texts"}


def load(
    source: str | Path,
    *,
    key: Key | int = 0,
    partition: PartitionLike | None = None,
    clients: int | None = None,
    test_share: float = 0.2,
    shift: ShiftLike | Sequence[ShiftLike] | None = None,
    split: str | None = None,
    **options: Any,
) -> FederatedData:
    """Data from a name (see `sources`), or a path to an `.npz`, `.csv`, `.tsv` or `.parquet` file or to a folder.

    `key` decides every draw; a seed stands for the key that a run of that seed draws its data by.
    `partition` and `clients` divide a source that has no clients of its own.  Every client keeps
    `test_share` of its examples for testing, chosen by `split`: "random", "stratified" (by class), "last" or
    "group" (whole groups, by the array or column that the option `group` names); by default, by group if
    there is one, else by class, else at random.  `shift`, or each of a list, then changes the clients' examples; see
    `shifted`.  Options: `central_share` for `mnist5k` and `digits`; those of `npz_pool` for arrays; `target`,
    `client_column`, `task`, `standardise`, `drop` and those that say how the file is written for tables (see
    `headway.data.sources.table_pool`); those of `synthetic_pool` for `synthetic`, and of
    `headway.data.sources.folders.class_folders` for folders of pictures.  A folder of `x.npy` and `y.npy` is mapped
    into memory; `split` is then "last" by default (see `mapped`), unless a partition allocates the examples.

    Raises:
        ConfigError: an unknown source, option or shift, one of the wrong type, a partition where the source
            has its own clients, or none where it has not.
        DataError: the data are missing or malformed, or cannot be divided or shifted like this.

    >>> load("hospitals").input_shape
    (35,)
    """
    key, rules = Key.of(key, "data"), shifts(shift)
    name, path = str(source), Path(source)
    read, given = _reader(name, path)
    _check_options(name, options, read)
    options = _converted(name, options, read)
    if read is mapped_pool and partition is None:  # who holds what is in the files too
        given = {"clients": clients, "test_share": test_share, "split": split, "key": key}
        return shifted(mapped(path, **given, **options), rules, key=key)
    known = parameters_of(read)
    if "key" in known:  # only what draws examples or a central test set takes a key
        given["key"] = key
    if "clients" in known and clients is not None:
        given["clients"] = clients
    pool = call(read, {**given, **options})
    if not isinstance(pool, ExamplePool):
        raise ConfigError(f"the data source {name!r} returned a {type(pool).__name__}, but an ExamplePool is needed.")
    if rules and isinstance(partition, Mapping) and "replicas" in partition:
        raise ConfigError(
            "replicas hold the same examples, and a shift would change those of each client in another way: leave the "
            "shift or partition.replicas out."
        )
    divided = pool.divide(key=key, partition=partition, clients=clients, test_share=test_share, split=split)
    return shifted(divided, rules, key=key)


def _reader(name: str, path: Path) -> tuple[Callable[..., ExamplePool], dict[str, Any]]:
    """The function that reads a source, and the path where it takes one."""
    suffix = path.suffix.lower()
    if os.sep not in name and not name.startswith(".") and name in SOURCES:
        return SOURCES[name].read, {}
    if path.is_dir():
        return _folder_reader(path), {"path": path}
    if suffix and suffix in SOURCES:
        return SOURCES[suffix].read, {"path": path}
    if os.sep in name and not suffix:
        raise DataError(f"there is no folder {path}; check the path.")
    if suffix:
        raise ConfigError(f"{path} has the suffix {path.suffix!r}, but one of {', '.join(suffixes())} is needed.")
    raise ConfigError(f"there is no data source {name!r}{SOURCES.near(name, source_names())}.")


def described(partition: Mapping[str, Any] | None, shift: Any = None) -> list[str]:
    """A partition and shifts of a run file in words.

    >>> described({"kind": "iid"}, {"kind": "noise", "level": 0.1})
    ['iid', 'noise level 0.1']
    """
    rules = [*([] if partition is None else [partition]), *(shift if isinstance(shift, list) else [shift])]
    return [
        " ".join(str(value) if name == "kind" else f"{name} {value}" for name, value in rule.items())
        for rule in rules
        if rule is not None
    ]


def _folder_reader(path: Path) -> Callable[..., ExamplePool]:
    if is_mapped(path):
        return mapped_pool
    if has_idx(path):
        return idx_pool
    return saved_pool if is_saved(path) else class_folders


def _check_options(source: str, options: Mapping[str, Any], read: Callable[..., ExamplePool]) -> None:
    """Refuse an option that is unknown, missing or of the wrong type, by its name."""
    known = {name: each for name, each in parameters_of(read).items() if name not in ("key", "path", "clients")}
    for name, value in options.items():
        if name not in known:
            raise ConfigError(f"the data source {source!r} has no option {name!r}{nearest(name, known)}.")
        if name in _TEXT_OPTIONS and not isinstance(value, str | None):
            raise ConfigError(f"the option {name!r} of {source!r} is {value!r}, but text is needed.")
        if name in _LIST_OPTIONS and not _texts(value):
            raise ConfigError(f"the option {name!r} of {source!r} is {value!r}, but {_LIST_OPTIONS[name]} are needed.")
    for name, each in known.items():
        if each.default is inspect.Parameter.empty and options.get(name) is None:
            raise ConfigError(f"the data source {source!r} needs the option {name!r}.")


def _converted(source: str, options: Mapping[str, Any], read: Callable[..., ExamplePool]) -> dict[str, Any]:
    """The options of another package's source as the types that its function declares; Headway's as they are."""
    if read.__module__.partition(".")[0] == "headway":
        return dict(options)
    hints = types_of(read)
    return {
        name: convert(value, hints[name], f"the option {name!r} of {source!r}") if is_plain(hints.get(name)) else value
        for name, value in options.items()
    }


def _texts(value: Any) -> bool:
    """Whether an option is a text or a list of texts; None is no option."""
    return value is None or (isinstance(value, list | tuple | str) and all(isinstance(v, str) for v in value))

"""Data by name or path: what a run file writes under `[data]`."""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from headway.core.errors import ConfigError, DataError, nearest
from headway.data.dataset.federated import FederatedData
from headway.data.dataset.mapped import is_mapped, mapped, mapped_pool
from headway.data.shift.shifts import ShiftLike, shifted, shifts
from headway.data.sources.example_pool import ExamplePool, PartitionLike
from headway.data.sources.folders import class_folders
from headway.data.sources.hospitals import hospital_pool
from headway.data.sources.hub import is_saved, saved_pool
from headway.data.sources.images import fashion_mnist_pool, has_idx, idx_pool
from headway.data.sources.npz import npz_pool
from headway.data.sources.packaged import DIGITS, MNIST5K
from headway.data.sources.synthetic import synthetic_pool
from headway.data.sources.table_pool import table_pool
from headway.numerics.keys import Key

_NAMED: Mapping[str, tuple[Callable[..., ExamplePool], str]] = {
    "hospitals": (
        hospital_pool,
        "heart disease at 4 hospitals, 920 patients; has its own clients",
    ),
    "mnist5k": (MNIST5K.pool, "5,000 MNIST digits; needs headway[mnist] and a partition"),
    "synthetic": (synthetic_pool, "drawn from a model per client, as in FedProx; has its own clients"),
    "digits": (DIGITS.pool, "1,797 digits of 8x8; needs scikit-learn and a partition"),
    "fashion-mnist": (
        fashion_mnist_pool,
        "60,000 + 10,000 images of clothes; needs Debian's dataset-fashion-mnist and a partition",
    ),
}
_FILES: Mapping[str, tuple[Callable[..., ExamplePool], str]] = {
    ".npz": (npz_pool, "a file of NumPy arrays x, y and perhaps client (or another, as client_column)"),
    ".csv": (table_pool, "a table with a header line; give target and client_column"),
    ".tsv": (table_pool, "the same with tabs"),
    ".parquet": (table_pool, "a table; needs headway[parquet]; give target and client_column"),
}
_FOLDER = (
    "a folder of pictures for each class (as LC25000 has), MNIST's four IDX files, a saved Hugging Face data set, or "
    "x.npy, y.npy and perhaps client.npy, which stay on disk"
)
_TEXT_OPTIONS = frozenset(
    {"target", "client_column", "group", "task", "standardise", "separator", "decimal", "encoding"}
)
_LIST_OPTIONS = {"drop": "column names", "keep": "column names", "categories": "column names", "gaps": "texts"}


def sources() -> dict[str, str]:
    """What `load` accepts, each with a line that says what it is.

    >>> sorted(name for name in sources() if "path" not in name)
    ['digits', 'fashion-mnist', 'hospitals', 'mnist5k', 'synthetic']
    """
    named = {name: line for name, (_, line) in _NAMED.items()}
    return named | {f"path/to/*{suffix}": line for suffix, (_, line) in _FILES.items()} | {"path/to/": _FOLDER}


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
    `test_share` of its examples for testing, chosen as `split` says: "random", "stratified" (by class), "last" or
    "group" (whole groups, by the array or column that the option `group` names); where nothing says it, by group if
    there is one, else by class, else at random.  `shift`, or each of a list, then changes the clients' examples; see
    `shifted`.  Options: `central_share` for `mnist5k` and `digits`; those of `npz_pool` for arrays; `target`,
    `client_column`, `task`, `standardise`, `drop` and those that say how the file is written for tables (see
    `headway.data.sources.table_pool`); those of `synthetic_pool` for `synthetic`, and of
    `headway.data.sources.folders.class_folders` for folders of pictures.  A folder of `x.npy` and `y.npy` is mapped
    into memory; `split` is then "last" where nothing says it (see `mapped`), unless a partition deals the examples.

    Raises:
        ConfigError: an unknown source, option or shift, one of the wrong type, a partition where the source
            has its own clients, or none where it has not.
        DataError: the data are missing or malformed, or cannot be divided or shifted like this.

    >>> load("hospitals").input_shape
    (35,)
    """
    key, rules = Key.of(key, "data"), shifts(shift)
    name, path = str(source), Path(source)
    suffix = path.suffix.lower()
    given: dict[str, Any] = {}
    if name in _NAMED:
        read = _NAMED[name][0]
    elif path.is_dir():
        read, given = _folder_reader(path), {"path": path}
    elif suffix in _FILES:
        read, given = _FILES[suffix][0], {"path": path}
    elif os.sep in name and not suffix:
        raise DataError(f"there is no folder {path}; check the path.")
    elif suffix:
        raise ConfigError(f"{path} has the suffix {path.suffix!r}, but one of {', '.join(_FILES)} is needed.")
    else:
        raise ConfigError(f"there is no data source {name!r}{nearest(name, _NAMED)}.")
    _check_options(name, options, read)
    if read is mapped_pool and partition is None:  # who holds what is in the files too
        given = {"clients": clients, "test_share": test_share, "split": split, "key": key}
        return shifted(mapped(path, **given, **options), rules, key=key)
    known = inspect.signature(read).parameters
    if "key" in known:  # only what draws examples or a central test set takes a key
        given["key"] = key
    if "clients" in known and clients is not None:
        given["clients"] = clients
    pool = read(**given, **options)
    divided = pool.divide(key=key, partition=partition, clients=clients, test_share=test_share, split=split)
    return shifted(divided, rules, key=key)


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
    parameters = inspect.signature(read).parameters
    known = {name: each for name, each in parameters.items() if name not in ("key", "path", "clients")}
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


def _texts(value: Any) -> bool:
    """Whether an option is a text or a list of texts; None is no option."""
    return value is None or (isinstance(value, list | tuple | str) and all(isinstance(v, str) for v in value))

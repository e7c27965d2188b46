"""Data by name or path: what a run file writes under `[data]`."""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from headway.core.errors import ConfigError, DataError, nearest
from headway.core.keys import Key
from headway.data.federated import FederatedData
from headway.data.files import npz_pool, table_pool
from headway.data.hospitals import hospital_pool
from headway.data.hub import is_saved, saved_pool
from headway.data.images import class_folders, fashion_mnist_pool, has_idx, idx_pool
from headway.data.packaged import DIGITS, MNIST5K
from headway.data.pool import PartitionLike, Pool

_NAMED: Mapping[str, tuple[Callable[..., Pool], str]] = {
    "hospitals": (
        hospital_pool,
        "heart disease at 4 hospitals, 920 patients; has its own clients",
    ),
    "mnist5k": (MNIST5K.pool, "5,000 MNIST digits; needs headway[mnist] and a partition"),
    "digits": (DIGITS.pool, "1,797 digits of 8x8; needs scikit-learn and a partition"),
    "fashion-mnist": (
        fashion_mnist_pool,
        "60,000 + 10,000 images of clothes; needs Debian's dataset-fashion-mnist and a partition",
    ),
}
_FILES: Mapping[str, tuple[Callable[..., Pool], str]] = {
    ".npz": (npz_pool, "a file of NumPy arrays x, y and perhaps client"),
    ".csv": (table_pool, "a table with a header line; give target and client_column"),
    ".parquet": (table_pool, "a table; needs headway[parquet]; give target and client_column"),
}
_FOLDER = (
    "a folder of pictures for each class (as LC25000 has), MNIST's four IDX files, or a saved Hugging Face data set"
)
_TEXT_OPTIONS = frozenset({"target", "client_column", "task", "standardise"})


def sources() -> dict[str, str]:
    """What `load` accepts, each with a line that says what it is.

    >>> sorted(name for name in sources() if "path" not in name)
    ['digits', 'fashion-mnist', 'hospitals', 'mnist5k']
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
    **options: Any,
) -> FederatedData:
    """Data from a name (see `sources`), or a path to an `.npz`, `.csv` or `.parquet` file or to a folder.

    `key` decides every draw; a seed stands for the key that a run of that seed draws its data by.
    `partition` and `clients` divide a source that has no clients of its own.  Every client keeps
    `test_share` of its examples for testing.  Options: `central_share` for `mnist5k` and `digits`;
    `target`, `client_column`, `task`, `standardise` and `drop` for tables; those of
    `headway.data.images.class_folders` for folders of pictures.

    Raises:
        ConfigError: an unknown source or option, one of the wrong type, a partition where the source has
            its own clients, or none where it has not.
        DataError: the data are missing or malformed, or cannot be divided like this.

    >>> load("hospitals").input_shape
    (35,)
    """
    key = Key.of(key, "data")
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
    if "key" in inspect.signature(read).parameters:  # only what draws a central test set takes a key
        given["key"] = key
    return read(**given, **options).divide(key=key, partition=partition, clients=clients, test_share=test_share)


def _folder_reader(path: Path) -> Callable[..., Pool]:
    if has_idx(path):
        return idx_pool
    return saved_pool if is_saved(path) else class_folders


def _check_options(source: str, options: Mapping[str, Any], read: Callable[..., Pool]) -> None:
    """Refuse an option that is unknown, missing or of the wrong type, by its name."""
    parameters = inspect.signature(read).parameters
    known = {name: each for name, each in parameters.items() if name not in ("key", "path")}
    for name, value in options.items():
        if name not in known:
            raise ConfigError(f"the data source {source!r} has no option {name!r}{nearest(name, known)}.")
        if name in _TEXT_OPTIONS and not isinstance(value, str | None):
            raise ConfigError(f"the option {name!r} of {source!r} is {value!r}, but text is needed.")
        if name == "drop" and not (isinstance(value, list | tuple | str) and all(isinstance(v, str) for v in value)):
            raise ConfigError(f"the option 'drop' of {source!r} is {value!r}, but column names are needed.")
    for name, each in known.items():
        if each.default is inspect.Parameter.empty and options.get(name) is None:
            raise ConfigError(f"the data source {source!r} needs the option {name!r}.")

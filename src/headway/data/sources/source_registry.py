"""The registered data sources: names and file suffixes, each with the function that reads them.

Another package adds one by an entry point in the group `headway.sources`, a module of one's own by the decorator
`register_source`.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, get_type_hints

from headway.core.errors import ConfigError
from headway.core.plugins import NamedRegistry, own_name
from headway.data.sources.example_pool import ExamplePool
from headway.data.sources.hospitals import hospital_pool
from headway.data.sources.images import fashion_mnist_pool
from headway.data.sources.npz import npz_pool
from headway.data.sources.packaged import DIGITS, MNIST5K
from headway.data.sources.synthetic import synthetic_pool
from headway.data.sources.table_pool import table_pool

_FOLDER = (
    "a folder of pictures for each class (as LC25000 has), MNIST's four IDX files, a saved Hugging Face data set, or "
    "x.npy, y.npy and perhaps client.npy, which stay on disk"
)
_NAME = re.compile(r"[A-Za-z][\w-]*|\.\w+")


@dataclass(frozen=True)
class Source:
    """A data source: the function that gives its examples, and a line that describes it.

    The options of the source in a run file are the function's parameters, or the fields of the dataclass that it takes
    as `options`.  Three are given by `load` where the function has them: `key` (a `Key`, for what it draws), `clients`
    (the number that was asked for), and `path` (of the file, where the source is a suffix).
    """

    read: Callable[..., ExamplePool]
    summary: str


def _as_source(name: str | None, thing: Any) -> tuple[str, Source]:
    if not callable(thing) and not isinstance(thing, Source):
        raise ConfigError(
            f"a data source is a function that returns an ExamplePool, found a value of type {type(thing).__name__}."
        )
    name, thing = own_name(name, thing)
    if not _NAME.fullmatch(name):
        raise ConfigError(f"a data source has a name of letters, digits, _ and -, or a suffix (.xyz), found {name!r}.")
    summary = (inspect.getdoc(thing) or "").partition("\n")[0]
    return name, thing if isinstance(thing, Source) else Source(thing, summary)


SOURCES: NamedRegistry[Source] = NamedRegistry("data source", "headway.sources", _as_source)
register_source = SOURCES.register
for _name, _read, _summary in (
    ("hospitals", hospital_pool, "heart disease at 4 hospitals, 920 patients; has its own clients"),
    ("mnist5k", MNIST5K.pool, "5,000 MNIST digits; needs headway[mnist] and a partition"),
    ("synthetic", synthetic_pool, "drawn from a model per client, as in FedProx; has its own clients"),
    ("digits", DIGITS.pool, "1,797 digits of 8x8; needs scikit-learn and a partition"),
    (
        "fashion-mnist",
        fashion_mnist_pool,
        "60,000 + 10,000 images of clothes; needs Debian's dataset-fashion-mnist and a partition",
    ),
    (".npz", npz_pool, "a file of NumPy arrays x, y and perhaps client (or another, as client_column)"),
    (".csv", table_pool, "a table with a header line; give target and client_column"),
    (".tsv", table_pool, "the same with tabs"),
    (".parquet", table_pool, "a table; needs headway[parquet]; give target and client_column"),
):
    register_source(_name)(Source(_read, _summary))


def _options_class(read: Callable[..., ExamplePool]) -> type[Any] | None:
    return get_type_hints(read)["options"] if "options" in inspect.signature(read).parameters else None


def parameters_of(read: Callable[..., ExamplePool]) -> Mapping[str, inspect.Parameter]:
    """The parameters of a source: its function's, and the fields of its dataclass of options."""
    own, options = inspect.signature(read).parameters, _options_class(read)
    if options is None:
        return own
    return {name: each for name, each in own.items() if name != "options"} | inspect.signature(options).parameters


def types_of(read: Callable[..., ExamplePool]) -> Mapping[str, Any]:
    """The declared types of what a source takes."""
    options = _options_class(read)
    return get_type_hints(read) | ({} if options is None else get_type_hints(options))


def call(read: Callable[..., ExamplePool], values: Mapping[str, Any]) -> ExamplePool:
    """The examples of a source, from the values of its parameters and options."""
    options = _options_class(read)
    if options is None:
        return read(**values)
    fields = inspect.signature(options).parameters
    given = {name: value for name, value in values.items() if name not in fields}
    return read(**given, options=options(**{name: value for name, value in values.items() if name in fields}))


def suffixes() -> list[str]:
    """The file suffixes that a source reads."""
    return [name for name in SOURCES if name.startswith(".")]


def source_names() -> list[str]:
    """The names of the sources that are no files."""
    return [name for name in SOURCES if not name.startswith(".")]


def sources() -> dict[str, str]:
    """The sources that `load` accepts, each with a line that describes it.

    >>> sorted(name for name in sources() if "path" not in name)
    ['digits', 'fashion-mnist', 'hospitals', 'mnist5k', 'synthetic']
    """
    named = {name: SOURCES[name].summary for name in source_names()}
    return named | {f"path/to/*{suffix}": SOURCES[suffix].summary for suffix in suffixes()} | {"path/to/": _FOLDER}

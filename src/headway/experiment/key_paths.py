"""The keys of a run file by their full paths, and sentences about a key or value that is wrong."""

from __future__ import annotations

import dataclasses
import re
import types
import typing
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from typing import Any, Literal

from annotated_types import Ge, Gt, Le, Lt
from pydantic import BaseModel

from headway import recipes
from headway.core.errors import ConfigError, nearest
from headway.core.registry import Registry, convert
from headway.core.sampler import samplers
from headway.engines import DeviceFleet
from headway.experiment.runfile_schema import Sections
from headway.model import zoo as models
from headway.observe.text import listed, to_toml
from headway.protocol.quorum import Quorum
from headway.protocol.reputation import Reputation
from headway.training.registered_trainers import trainers

# what other systems call a key, beside its name here
SYNONYMS = {
    "batch": "batch_size",
    "batchsize": "batch_size",
    "client_fraction": "share",
    "clients_per_round": "count",
    "criterion": "loss",
    "dataset": "source",
    "eta": "lr",
    "fraction_fit": "share",
    "global_rounds": "rounds",
    "learning_rate": "lr",
    "local_epochs": "epochs",
    "local_steps": "steps",
    "loss_function": "loss",
    "min_fit_clients": "count",
    "n_clients": "clients",
    "num_clients": "clients",
    "num_epochs": "epochs",
    "num_rounds": "rounds",
    "num_workers": "workers",
    "random_seed": "seed",
    "random_state": "seed",
    "strategy": "recipe",
    "test_size": "test_share",
}
OPTIMIZERS = ("optimizer", "optim", "optimiser", "local_optimizer", "client_optimizer")
TABLES = (
    "algorithm.trainer",
    "algorithm.sampler",
    "algorithm.quorum",
    "algorithm.reputation",
    "data.partition",
    "compare.grid",
)
ADAM = (
    "LocalSGD is SGD, with momentum in algorithm.trainer.momentum; for another at clients, algorithm.trainer = "
    '{trainer = "LocalOptimizer", optimizer = "AdamW"}; at the server, algorithm.recipe = "fedadam"'
)


def shown(value: Any) -> str:
    """A value as a run file writes it.

    >>> shown(True), shown("0,1"), shown([1, 2])
    ('true', '"0,1"', '[1, 2]')
    """
    try:
        return to_toml(value)
    except (TypeError, ValueError):
        return repr(value)


def hint(value: Any, needed: str, path: str = "") -> str:
    """The value that was probably meant, as the end of a sentence; empty where that is not plain.

    >>> hint("1e-3", "a number"), hint("0,1", "a number"), hint(32.0, "a whole number"), hint(16, "a list")
    (': write it without quotes, 1e-3', ': write a decimal point, 0.1', ': write 32', ': write [16]')
    """
    number = needed.startswith(("a number", "a whole number"))
    if isinstance(value, str) and number:
        plain = value.strip()
        if re.fullmatch(r"[+-]?\d+,\d+", plain):
            return f": write a decimal point, {plain.replace(',', '.')}"
        whole = re.fullmatch(r"[+-]?\d+", plain)
        if whole or ("whole" not in needed and _is_number(plain)):
            return f": write it without quotes, {plain}"
    if isinstance(value, float) and "whole" in needed and value.is_integer() and abs(value) < 1e15:
        return f": write {int(value)}"
    kind = str if "of texts" in needed else (int, float)
    if isinstance(value, kind) and needed.startswith("a list") and "tables" not in needed:
        return f": write {shown([value])}"
    if isinstance(value, str) and path.endswith((".partition", ".shift", ".schedule")):
        return f": write {shown({'kind': value})}"
    if isinstance(value, str) and needed.startswith("true or false") and value.lower() in ("true", "false"):
        return f": write it without quotes, {value.lower()}"
    return ""


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


@cache
def known_paths() -> Mapping[str, tuple[str, ...]]:
    """The full paths at which each key may stand, by the key's name."""
    found: dict[str, list[str]] = {}

    def add(path: str, names: Iterable[str]) -> None:
        for name in names:
            paths = found.setdefault(name, [])
            if (full := f"{path}.{name}" if path else name) not in paths:
                paths.append(full)

    for section, field in Sections.model_fields.items():
        if (model := model_of(field.annotation)) is not None:
            add(section, model.model_fields)
    for part, registry in (("trainer", trainers), ("sampler", samplers)):
        add(f"algorithm.{part}", [part])
        for name in registry.names():
            add(f"algorithm.{part}", _fields(registry.get(name)))
    add("algorithm.quorum", _fields(Quorum))
    add("algorithm.reputation", _fields(Reputation))
    add("clock", _fields(DeviceFleet))
    return {name: tuple(paths) for name, paths in found.items()}


def model_of(annotation: Any) -> type[BaseModel] | None:
    """The section of an annotation, which may be optional."""
    for option in (annotation, *typing.get_args(annotation)):
        if isinstance(option, type) and issubclass(option, BaseModel):
            return option
    return None


def _fields(cls: Any) -> list[str]:
    return [field.name for field in dataclasses.fields(cls) if field.init]


def elsewhere(key: str, at: str = "") -> str:
    """The place where a misplaced key belongs, as the end of a sentence; empty where it is not known.

    at: the table in which it was found.

    >>> elsewhere("lr", "algorithm"), elsewhere("learning_rate")
    ('; it belongs under [algorithm.trainer]: algorithm.trainer.lr', '; here it is called lr: algorithm.trainer.lr')
    >>> elsewhere("trainer")
    '; write [algorithm.trainer]'
    """
    name = key.lower().replace("-", "_")
    if name in OPTIMIZERS:
        return f": {ADAM}"
    meant = SYNONYMS.get(name, name)
    if meant == key and f"{at}.{key}" in known_paths().get(key, ()):  # of another class that may stand there
        kind = at.rpartition(".")[2]
        registry: Registry[Any] = trainers if kind == "trainer" else samplers
        if owners := [each for each in registry.names() if key in _fields(registry.get(each))]:
            return f"; {listed(owners)} {'has' if len(owners) == 1 else 'have'} it: {at}.{kind} = {shown(owners[0])}"
    paths = [path for path in known_paths().get(meant, ()) if path.rpartition(".")[0] != at or meant != key]
    if not paths:
        makers = [name for name in sorted(recipes.RECIPES) if meant in recipes.options_of(recipes.RECIPES[name])]
        return f"; it is an option of the recipe {listed(makers[:3])}: algorithm.{meant}" if makers else ""
    fewest = min(path.count(".") for path in paths)
    best = [path for path in paths if path.count(".") == fewest]
    if best[0] in TABLES:
        return f"; write [{best[0]}]"
    if meant != key:
        return f"; here it is called {meant}: {' or '.join(best[:2])}"
    return f"; it belongs under [{best[0].rpartition('.')[0]}]: {' or '.join(best[:2])}"


def unknown_key(path: str, known: Iterable[str]) -> str:
    """The sentence about a key that nothing reads.

    >>> unknown_key("trainer", ["run", "data"])
    "the run file has an unknown key 'trainer'; write [algorithm.trainer]."
    """
    at, _, key = path.rpartition(".")
    names = list(known)
    if any(name.lower() == key.lower() for name in names):
        return f"the run file has an unknown key {path!r}{nearest(key, names)}."
    return f"the run file has an unknown key {path!r}{elsewhere(key, at) or nearest(key, names)}."


def needed_by(annotation: Any, metadata: Sequence[Any] = ()) -> str:
    """The values that a field of a section takes, in words.

    >>> needed_by(int | None, [Ge(1)]), needed_by(int | Literal["auto"]), needed_by(list[str])
    ('a whole number from 1', 'a whole number or "auto"', 'a list of texts')
    """
    plain = {int: "a whole number", float: "a number", str: "a text", bool: "true or false"}
    if annotation in plain:
        return plain[annotation] + _bounds(metadata)
    if annotation is type(None):
        return ""
    origin, options = typing.get_origin(annotation), typing.get_args(annotation)
    if origin in (typing.Union, types.UnionType):
        return " or ".join(filter(None, (needed_by(option, metadata) for option in options)))
    if origin is Literal:
        return ("one of " if len(options) > 2 else "") + " or ".join(map(shown, options))
    if annotation is list or origin is list:
        items = {(str,): " of texts", (Any,): ""}
        return f"a list{items.get(options, ' of tables')}"
    return "a table"


def _bounds(metadata: Sequence[Any]) -> str:
    """The limits of a number."""
    words = {Ge: " from {}", Gt: " above {}", Le: " to {}", Lt: " below {}"}
    parts = []
    for limit in metadata:
        for kind, text in words.items():
            if isinstance(limit, kind):
                parts.append(text.format(getattr(limit, kind.__name__.lower())))
    return "".join(parts)


@contextmanager
def key_path(path: str, owner: str = "", given: Mapping[str, Any] | None = None) -> Iterator[None]:
    """Makes errors inside name the key of the run file: `path`, instead of the class `owner` that takes its fields.

    given: the fields' values as the file has them, for a word on how one was meant.
    """
    try:
        yield
    except ConfigError as error:
        words = str(error)
        if owner:
            words = re.sub(rf"\b{re.escape(owner)}\.(?=\w)", f"{path}.", words)
        words = _nested(words, path, given or {})
        found = re.match(rf"{re.escape(path)}\.(\w+) must be (.*), found (.*)\.$", words)
        if found and found[1] in (given or {}) and found[3] == repr((given or {})[found[1]]):
            value, at = (given or {})[found[1]], f"{path}.{found[1]}"
            words = f"{at} must be {found[2]}, found {shown(value)}{hint(value, found[2], at)}."
        elif found := re.match(r"(.* has no option '(\w+)')(.*)\.$", words):
            inside = [key for key, table in (given or {}).items() if isinstance(table, Mapping) and found[2] in table]
            at = ".".join([path, *inside[:1], found[2]])
            words = f"{at}: {found[1]}{elsewhere(found[2], path) or found[3]}."
        elif path not in words:
            words = f"{path}: {words}"
        raise type(error)(words) from error


def _nested(words: str, path: str, given: Mapping[str, Any]) -> str:
    """An error about a field of another class, by the path of the given table or value that holds it."""
    found = re.match(r"([A-Z]\w*)\.(\w+) ", words)
    if found is None:
        return words
    inside = [key for key, table in given.items() if isinstance(table, Mapping) and found[2] in table]
    where = found[2] if found[2] in given else f"{inside[0]}.{found[2]}" if inside else f"{found[1]}.{found[2]}"
    return f"{path}.{where} {words[found.end() :]}"


def check_model(name: str, options: Mapping[str, Any]) -> None:
    """Refuses an option of a packaged model whose value has another type than its factory declares.

    Raises:
        ConfigError: with what is needed.
    """
    declared = typing.get_type_hints(models.MODELS[name]) if name in models.MODELS else {}
    for option, value in options.items():
        if option in declared:
            wanted = tuple[int, ...] if declared[option] == Sequence[int] else declared[option]
            convert(value, wanted, f"model.{option}")

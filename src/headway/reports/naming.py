"""The names of methods, and the numbers that distinguish them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from headway import recipes
from headway.training.registered_trainers import trainers

Numbers = Mapping[str, str]
NOT_THE_METHOD = {
    "run.name",
    "run.seed",
    "run.keep",
    "run.threads",
    "run.checkpoint_every",
    "run.evaluate_every",
    "run.rounds",
}


def flat_numbers(tables: Mapping[str, Any]) -> dict[str, str]:
    """All that was set, by path; a stage of the chain by its name, and what is not set as "none".

    >>> flat_numbers({"algorithm": {"chain": [{"stage": "FedProx", "mu": 0.1}], "trainer": {"lr": None}}})
    {'FedProx': '1', 'FedProx.mu': '0.1', 'trainer.lr': 'none'}
    """
    flat: dict[str, str] = {}
    algorithm = tables.get("algorithm", {})
    seen: dict[str, int] = {}
    for position, table in enumerate(algorithm.get("chain", []), 1):
        name = str(table["stage"])
        seen[name] = seen.get(name, 0) + 1
        name = name if seen[name] == 1 else f"{name}#{seen[name]}"
        flat[name] = str(position)
        _flatten(flat, name, {key: value for key, value in table.items() if key != "stage"})
    _flatten(flat, "", {key: value for key, value in algorithm.items() if key != "chain"})
    for section, table in tables.items():
        if section != "algorithm":
            _flatten(flat, section, table)
    return {path: value for path, value in flat.items() if path not in NOT_THE_METHOD}


def _flatten(flat: dict[str, str], path: str, value: Any) -> None:
    if isinstance(value, Mapping):
        for key, item in value.items():
            _flatten(flat, f"{path}.{key}" if path else str(key), item)
    elif isinstance(value, float):
        flat[path] = f"{value:g}"
    else:
        flat[path] = "none" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def chain_text(tables: Mapping[str, Any]) -> str:
    """A chain in words.

    >>> chain_text({"algorithm": {"chain": [{"stage": "FedProx", "mu": 0.1}, {"stage": "Mean"}]}})
    'FedProx(mu=0.1) > Mean'
    """
    parts = []
    for table in tables.get("algorithm", {}).get("chain", []):
        options = ", ".join(f"{key}={value}" for key, value in table.items() if key != "stage")
        parts.append(f"{table['stage']}({options})" if options else str(table["stage"]))
    return " > ".join(parts)


def label(tables: Mapping[str, Any]) -> str:
    """The recipe whose chain has the same stages, and the fewest other numbers; else the names of the stages."""
    mine = [dict(table) for table in tables.get("algorithm", {}).get("chain", [])]
    stages = [table["stage"] for table in mine]
    near = []
    for name in recipes.names():
        try:
            named = recipes.recipe(name)
        except Exception:  # another package's recipe, which may need options or fail
            continue
        chain = named.chain.to_config()
        if _term(trainers.describe(named.trainer)) != _term(tables.get("algorithm", {}).get("trainer", {})):  # type: ignore[arg-type]
            continue
        if [table["stage"] for table in chain] == stages and not (name == "fedsgd" and not _full_batch(tables)):
            other = sum(
                table.get(key) != value for table, own in zip(chain, mine, strict=True) for key, value in own.items()
            )
            near.append((other, len(name), name))
    return min(near)[2] if near else " > ".join(map(str, stages)) or "unnamed"


def _term(trainer: Mapping[str, Any]) -> str | None:
    """The terms that a trainer adds to the loss, by name."""
    term = trainer.get("loss_term")
    return str(term["term"]) if isinstance(term, Mapping) else None


def _full_batch(tables: Mapping[str, Any]) -> bool:
    trainer = tables.get("algorithm", {}).get("trainer", {})
    return trainer.get("batch_size") in (None, "none") and trainer.get("steps") == 1


def tell_apart(labels: Sequence[str], numbers: Sequence[Numbers]) -> list[str]:
    """The labels, with the numbers that differ behind those that are alike.

    >>> tell_apart(["a", "a", "b"], [{"lr": "1"}, {"lr": "2"}, {"lr": "3"}])
    ['a lr=1', 'a lr=2', 'b']
    """
    names = []
    for name, own in zip(labels, numbers, strict=True):
        alike = [other for each, other in zip(labels, numbers, strict=True) if each == name]
        differ = [path for path in differing(alike) if path in own]
        names.append(" ".join([name, *(f"{path}={own[path]}" for path in differ)]))
    seen: dict[str, int] = {}
    for place, name in enumerate(names):
        seen[name] = seen.get(name, 0) + 1
        if seen[name] > 1:
            names[place] = f"{name} ({seen[name]})"
    return names


def differing(numbers: Iterable[Numbers]) -> list[str]:
    """The paths at which these differ.

    >>> differing([{"a": "1", "b": "1"}, {"a": "1", "b": "2"}])
    ['b']
    """
    known = list(numbers)
    paths = dict.fromkeys(path for each in known for path in each)
    return [path for path in paths if len({each.get(path) for each in known}) > 1]

"""Presets: what suits a kind of federation, each number with its reason.

A preset fills in what `[algorithm]` of a run file leaves open.  What the file itself contains wins, and the client's
learning rate is never set: it follows from the model and the data, and no preset can know it.

>>> table = {"preset": "cross-silo", "trainer": {"epochs": 2}}
>>> applied = apply_preset(table)
>>> table["recipe"], table["trainer"]["epochs"], [choice.path for choice in applied.overruled]
('scaffold', 2, ['trainer.epochs'])
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from headway.core.errors import ConfigError, nearest

INSTEAD = {"sampler.share": ("sampler.count",), "trainer.epochs": ("trainer.steps",), "recipe": ("chain",)}


@dataclass(frozen=True)
class Choice:
    """One value of a preset: where it stands under `[algorithm]`, and why it is what it is."""

    path: str
    value: str | int | float
    why: str


@dataclass(frozen=True)
class Preset:
    """A kind of federation, what suits it, and the recipes that are worth comparing there."""

    name: str
    summary: str
    choices: tuple[Choice, ...]
    methods: tuple[str, ...]


@dataclass(frozen=True)
class Applied:
    """The numbers that a preset put into a run file, and those that the file has itself instead."""

    preset: Preset
    used: tuple[Choice, ...]
    overruled: tuple[Choice, ...]


CROSS_DEVICE = Preset(
    "cross-device",
    "Many clients with few examples each, who come and go and remember nothing between rounds.",
    (
        Choice(
            "recipe",
            "fedadam",
            "keeps all its memory at the server, and its step does not grow with the clients' (arXiv 2003.00295)",
        ),
        Choice("sampler.sampler", "Uniform", "waiting for all is impossible; every client is as likely to be asked"),
        Choice("sampler.share", 0.1, "the balance of work and rounds that arXiv 1602.05629 settled on, as its C"),
        Choice("trainer.epochs", 1, "the less a client does alone, the less it drifts; the least of arXiv 1602.05629"),
        Choice("trainer.batch_size", 10, "several steps even from few examples; the smallest B of arXiv 1602.05629"),
        Choice(
            "trainer.clip_gradient",
            10.0,
            "a guard against the odd client, rarely touched otherwise; the value in the code of arXiv 2111.04263",
        ),
    ),
    ("fedavg", "fedprox", "fedavgm", "fedadam"),
)
CROSS_SILO = Preset(
    "cross-silo",
    "A few organisations that answer every round and may keep memory between rounds.",
    (
        Choice(
            "recipe",
            "scaffold",
            "corrects drift by what each client remembers, never stale where all answer (arXiv 1910.06378)",
        ),
        Choice("sampler.sampler", "All", "everybody is there, and leaving one out would only add noise"),
        Choice("trainer.epochs", 5, "rounds are dearer than local work; the middle value of E in arXiv 1602.05629"),
        Choice("trainer.batch_size", 32, "silos hold enough examples for many steps; the usual middle ground"),
    ),
    ("fedavg", "fedprox", "scaffold", "fedavg+ecgr"),
)
PRESETS = {preset.name: preset for preset in (CROSS_DEVICE, CROSS_SILO)}


def preset(name: str) -> Preset:
    """The preset of a name.

    Raises:
        ConfigError: if there is none, with the nearest one.
    """
    if name not in PRESETS:
        raise ConfigError(f"there is no preset named {name!r}{nearest(name, PRESETS)}.")
    return PRESETS[name]


def apply_preset(algorithm: dict[str, Any]) -> Applied | None:
    """Fills in what the table `[algorithm]` leaves open, if it names a preset; `None` otherwise.

    A trainer or sampler of another class than the preset's is left as it is, and so is fedsgd's own trainer.

    Raises:
        ConfigError: for an unknown preset.
    """
    name = algorithm.get("preset")
    if not isinstance(name, str):
        return None
    chosen = preset(name)
    given = {path: value for path, value in _paths(algorithm).items() if path != "preset"}
    foreign = tuple(
        f"{part}." for part, usual in _classes(chosen).items() if given.get(f"{part}.{part}", usual) != usual
    )
    if given.get("recipe") == "fedsgd":
        foreign += ("trainer.",)
    used: list[Choice] = []
    overruled: list[Choice] = []
    for choice in chosen.choices:
        taken = choice.path in given or any(path in given for path in INSTEAD.get(choice.path, ()))
        (overruled if taken or choice.path.startswith(foreign) else used).append(choice)
    for choice in used:
        table, _, key = choice.path.rpartition(".")
        if not table:
            algorithm[key] = choice.value
        elif isinstance(inner := algorithm.setdefault(table, {}), dict):
            inner[key] = choice.value
    return Applied(chosen, tuple(used), tuple(overruled))


def _classes(chosen: Preset) -> dict[str, Any]:
    """The class of trainer and of sampler that the preset's numbers are for."""
    named = {choice.path: choice.value for choice in chosen.choices}
    return {"trainer": named.get("trainer.trainer", "LocalSGD"), "sampler": named.get("sampler.sampler", "All")}


def _paths(table: Mapping[str, Any], before: str = "") -> dict[str, Any]:
    """Every value of nested tables under its dotted path."""
    found: dict[str, Any] = {}
    for key, value in table.items():
        found |= _paths(value, f"{before}{key}.") if isinstance(value, Mapping) else {f"{before}{key}": value}
    return found

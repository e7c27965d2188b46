"""From findings to a plan: a preset, a recipe, and a comparison that shows whether it helps."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import tomli_w

from headway.advice.findings import SILOS, Finding, UserFacts, dominant, level
from headway.core.algorithm import Algorithm
from headway.core.errors import ConfigError, HeadwayError
from headway.core.stage import stages
from headway.experiment.presets import PRESETS
from headway.experiment.runfile import RunFile
from headway.observe.text import to_toml
from headway.training.local_sgd import LocalSGD

SEEDS = 5
MOST_METHODS = 4
PROTECTIONS = {
    ("SecureSum",): (
        "untrusted_server",
        "A server that may not see single updates needs secure sums",
        "put Clip, Quantize and SecureSum before the mean",
    ),
    ("GaussianNoise",): (
        "untrusted_server",
        "A model that may not betray a client needs noise, differential privacy",
        'put Clip before and GaussianNoise behind Mean(over="expected"), and draw with Poisson',
    ),
    ("NNM", "Krum"): (
        "untrusted_clients",
        "Clients that may lie need a robust aggregator",
        "put NNM(f, then=Krum(f)) in the place of the mean, f being how many may lie",
    ),
    ("Quantize", "TopK"): (
        "bytes",
        "Smaller messages need a quantiser or a sparsifier",
        "put Clip and Quantize before the mean",
    ),
}


@dataclass(frozen=True)
class AdvicePlan:
    """The methods and settings to try.

    sets: the changes to the run file, `path=value` each.  methods: what to compare, the baseline first.
    reasons: why.  missing: what would be needed and this version has not got.
    """

    dominant: str | None
    preset: str
    recipe: str
    sets: tuple[str, ...]
    methods: tuple[str, ...]
    reasons: tuple[str, ...]
    missing: tuple[str, ...]


def make_plan(
    found: Sequence[Finding],
    facts: UserFacts,
    runfile: RunFile,
    population: int,
    load: Callable[[str, Sequence[str]], Algorithm],
) -> AdvicePlan:
    """The plan for these findings.

    load: the algorithm of a method's name under these changes; one that is refused is not advised.
    """
    preset, why = _kind(runfile, population)
    recipe, because = _recipe(found, preset)
    sets, notes = _sets(found, facts, runfile, preset)
    candidates = _candidates(found, preset, recipe)
    methods, refused = [], []
    for method in candidates:
        try:
            load(method, sets)
            methods.append(method)
        except HeadwayError as error:
            refused.append(f"{method} is left out, as it would be refused here: {error}")
    if not methods:
        raise ConfigError(f"none of {', '.join(candidates)} can be run with this file: {refused[0]}")
    if recipe not in methods:
        recipe = methods[0]
    needs = [(names, need, how) for names, (when, need, how) in PROTECTIONS.items() if _matters(when, found, facts)]
    there = set(stages.names())
    protections = [f"{need}: {how}." for names, need, how in needs if set(names) & there]
    missing = tuple(f"{need}; this version has none." for names, need, _ in needs if not set(names) & there)
    reasons = (why, because, *notes, *refused, *protections)
    return AdvicePlan(dominant(found), preset, recipe, tuple(sets), tuple(methods), reasons, missing)


def _kind(runfile: RunFile, population: int) -> tuple[str, str]:
    """The preset, and why."""
    if runfile.preset is not None:
        return runfile.preset.preset.name, f"The preset {runfile.preset.preset.name} is the file's own."
    if population > SILOS:
        return (
            "cross-device",
            f"{population} clients are more than the {SILOS} up to which arXiv 1912.04977 speaks of silos.",
        )
    return "cross-silo", f"{population} clients are few enough to be silos (up to {SILOS} in arXiv 1912.04977)."


def _recipe(found: Sequence[Finding], preset: str) -> tuple[str, str]:
    """The recipe, and why."""
    alike = level(found, "likeness") not in ("mild", "strong")
    if level(found, "reliability") == "strong":
        return (
            "fedprox",
            "Much work would be partial: FedProx was made for that, and keeps no memory that could go stale.",
        )
    if alike and level(found, "sizes") == "strong":
        return "fednova", "Clients are alike but make unlike numbers of steps, which FedNova evens out."
    if level(found, "likeness") == "unknown":
        return "fedavg", "No measurement shows that clients differ; plain averaging is where to start."
    if alike:
        return "fedavg", "Clients are alike, and plain averaging is hard to beat then."
    if preset == "cross-device":
        return "fedadam", "Clients differ and remember nothing, so the correction has to be the server's: FedAdam."
    if level(found, "bytes") == "strong":
        return "fedavg+ecgr", "Clients differ and bytes are dear: ECGR damps drift without sending more than FedAvg."
    return "scaffold", "Clients differ, and silos answer every round and may remember: SCAFFOLD corrects their drift."


def _sets(found: Sequence[Finding], facts: UserFacts, runfile: RunFile, preset: str) -> tuple[list[str], list[str]]:
    """The changes to the run file, and a sentence for each that is not plain."""
    sets: list[str] = [] if runfile.preset is not None else [f"algorithm.preset={preset}"]
    notes: list[str] = []
    trainer = own_tables(runfile).get("trainer", {})
    sgd = isinstance(runfile.algorithm.trainer, LocalSGD)  # a trainer of one's own has numbers of its own
    work = max(trainer.get("epochs", 1), trainer.get("steps", 1)) if trainer.keys() & {"epochs", "steps"} else None
    usual = {choice.path: choice.value for choice in PRESETS[preset].choices}["trainer.epochs"]
    if (
        level(found, "bytes") == "strong"
        and level(found, "likeness") != "strong"
        and sgd
        and work is None
        and usual == 1
    ):
        sets.append("algorithm.trainer.epochs=5")
        notes.append("Bytes are dear and clients not too unlike, so each does 5 epochs before it sends.")
        work = 5
    if level(found, "reliability") in ("mild", "strong") and sgd and "stragglers" not in trainer:
        if (work or usual) < 2:  # type: ignore[operator]
            sets.append("algorithm.trainer.epochs=2")
        sets.append(f"algorithm.trainer.stragglers={facts.unreliable:g}")
        notes.append("The comparison lets that share of clients do only part of their work, as they would.")
    if any(f.name == "own tests" and f.value is None and f.level == "strong" for f in found):
        sets.append("data.test_share=0.2")
        notes.append("Nothing could be tested without test examples, so a fifth of each client's is held out.")
    if any(f.name == "own tests" and f.value is not None and f.level == "strong" for f in found):
        notes.append(
            "Single clients' results are coarse here: read the mean over clients, and the worst only with care."
        )
    return sets, notes


def _candidates(found: Sequence[Finding], preset: str, recipe: str) -> list[str]:
    """FedAvg, the advised recipe, and those of the preset that the constraints leave."""
    barred = set()
    if level(found, "bytes") == "strong":
        barred.add("scaffold")  # a second vector each way
    if level(found, "reliability") == "strong":
        barred.add("scaffold")  # a memory that is rarely renewed
    others = [method for method in PRESETS[preset].methods if method not in {"fedavg", recipe, *barred}]
    names = ["fedavg", *([recipe] if recipe != "fedavg" else []), *others]
    return names[:MOST_METHODS]


def _matters(when: str, found: Sequence[Finding], facts: UserFacts) -> bool:
    return level(found, "bytes") == "strong" if when == "bytes" else bool(getattr(facts, when))


def own_tables(runfile: RunFile) -> dict[str, Any]:
    """The tables trainer, sampler and quorum of a run file's algorithm, without what a preset put there."""
    section = runfile.sections.algorithm
    tables = {name: dict(getattr(section, name)) for name in ("trainer", "sampler", "quorum")}
    for choice in runfile.preset.used if runfile.preset is not None else ():
        table, _, key = choice.path.rpartition(".")
        if table:
            tables[table].pop(key, None)
    return {name: table for name, table in tables.items() if table}


def fragment(plan: AdvicePlan, runfile: RunFile) -> dict[str, Any]:
    """The tables `[algorithm]` and `[compare]` of the plan; other settings of the file stay."""
    algorithm: dict[str, Any] = {"preset": plan.preset, "recipe": plan.recipe, **own_tables(runfile)}
    for change in plan.sets:
        if found := re.fullmatch(r"algorithm\.trainer\.(\w+)=(.+)", change):
            number = float(found[2])
            trainer = algorithm.setdefault("trainer", {})
            trainer[found[1]] = int(number) if number.is_integer() else number
    return {"algorithm": algorithm, "compare": {"methods": list(plan.methods), "seeds": SEEDS}}


def fragment_text(plan: AdvicePlan, runfile: RunFile) -> str:
    """The tables of `fragment` as they stand in a run file."""
    lines: list[str] = []
    for title, table in fragment(plan, runfile).items():
        lines += [f"[{title}]", *(f"{key} = {to_toml(v)}" for key, v in table.items() if not isinstance(v, dict)), ""]
        for name, inner in table.items():
            if isinstance(inner, dict):
                lines += [f"[{title}.{name}]", *(f"{key} = {to_toml(value)}" for key, value in inner.items()), ""]
    return "\n".join(lines)


def whole_file(plan: AdvicePlan, runfile: RunFile) -> str:
    """A run file with the plan in it."""
    shown = runfile.sections.model_dump(exclude_none=True, exclude={"algorithm", "compare"}, exclude_defaults=True)
    shown["run"] |= {"name": runfile.name, "seed": runfile.sections.run.seed}
    if "data.test_share=0.2" in plan.sets:
        shown["data"]["test_share"] = 0.2
    return f"{tomli_w.dumps(shown)}\n{fragment_text(plan, runfile)}"

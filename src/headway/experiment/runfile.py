"""The run file: a TOML text that holds a whole run, checked before anything is done."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from headway import recipes
from headway.core.errors import ConfigError, nearest
from headway.engines import DeviceFleet
from headway.experiment.algorithm_section import algorithm_of
from headway.experiment.key_paths import key_path
from headway.experiment.overrides import parse_overrides, put
from headway.experiment.presets import apply_preset
from headway.experiment.resolved_runfile import Experiment as Experiment
from headway.experiment.resolved_runfile import LastData as LastData
from headway.experiment.resolved_runfile import RunFile as RunFile
from headway.experiment.runfile_check import check_sections
from headway.experiment.runfile_schema import AlgorithmSection, ClockSection
from headway.experiment.runfile_text import read_runfile
from headway.experiment.user_modules import find_own_code, import_modules


def load_runfile(
    name: str,
    sets: Sequence[str] = (),
    *,
    seed: int | None = None,
    rounds: int | None = None,
    method: str | None = None,
) -> RunFile:
    """The run file at a path, or the packaged example of that name, with `--set` changes applied.

    method: a recipe's name or one of the file's [methods], put in the place of the file's algorithm.

    Raises:
        ConfigError: in one sentence, with the path of the value at fault.
    """
    tables, folder, title = read_runfile(name)
    simple, of_stages = parse_overrides(sets, AlgorithmSection.model_fields)
    for path, value in simple:
        put(tables, path, value)
    run = _table(tables, "run")
    run.setdefault("name", title)
    run |= {key: value for key, value in (("seed", seed), ("rounds", rounds)) if value is not None}
    if run.get("imports"):
        import_modules(check_sections(tables).run, folder)  # the method may be a recipe that is registered there
    if method is not None:
        _choose_method(tables, method)
    algorithm = _table(tables, "algorithm")
    _name_trainer(algorithm.get("trainer"))
    with key_path("algorithm.preset"):
        preset = apply_preset(algorithm)
    sections = check_sections(tables)
    import_modules(sections.run, folder)
    find_own_code(sections, folder)
    sections.engine.check_kind()
    sections.data.source = _absolute(sections.data.source, folder)
    if sections.clock is not None:
        _place_trace(sections.clock, folder)
        with key_path("clock", DeviceFleet.__name__, sections.clock.model_extra):
            if sections.clock.fleet().crash >= 1:
                raise ConfigError(
                    "clock.crash is 1, so that every client fails in every round: choose a smaller share."
                )
    if ":" in sections.model.name and sections.model.path is None:
        sections.model.path = str(folder)
    return RunFile(sections, algorithm_of(sections.algorithm, of_stages), preset)


def _table(tables: dict[str, Any], name: str) -> dict[str, Any]:
    table = tables.setdefault(name, {})
    if not isinstance(table, dict):
        raise ConfigError(f"{name} must be a table, [{name}], found {table!r}.")
    return table


def _name_trainer(trainer: Any) -> None:
    """Reads `kind` as the name of the trainer, where no `trainer` names it."""
    if isinstance(trainer, dict) and "kind" in trainer and "trainer" not in trainer:
        trainer["trainer"] = trainer.pop("kind")


def _choose_method(tables: dict[str, Any], method: str) -> None:
    """Puts a named method in the place of the file's recipe or chain; the trainer stays unless it has its own."""
    algorithm = _table(tables, "algorithm")
    own = _table(tables, "methods").get(method)
    if own is None:
        if not recipes.is_recipe(method):
            known = [*recipes.names(), *tables["methods"]]
            raise ConfigError(f"there is no method named {method!r}{nearest(method, known)}.")
        own = {"recipe": method}
    if not isinstance(own, dict):
        raise ConfigError(f"methods.{method} must be a table, found {own!r}.")
    if "recipe" in own or "chain" in own:  # without either, it changes numbers of the file's own algorithm
        for key in algorithm.keys() - {"preset", "trainer", "sampler", "quorum", "reputation"}:
            del algorithm[key]
    for key, value in own.items():
        if key == "grid":
            continue  # what `headway compare` tries for the method
        if key in ("trainer", "sampler", "quorum") and isinstance(value, dict):
            algorithm[key] = {**algorithm.get(key, {}), **value}
        else:
            algorithm[key] = value


def _place_trace(section: ClockSection, folder: Path) -> None:
    """A trace's path as an absolute one."""
    availability = (section.model_extra or {}).get("availability")
    if isinstance(availability, dict) and isinstance(availability.get("file"), str):
        availability["file"] = str((folder / availability["file"]).resolve())


def _absolute(source: str, folder: Path) -> str:
    """A file's path as an absolute one; the name of a packaged source as it is."""
    return str((folder / source).resolve()) if Path(source).suffix or "/" in source else source

"""The run file: a TOML text that holds a whole run, checked before anything is done."""

from __future__ import annotations

import copy
import dataclasses
import json
import typing
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tomli_w
from pydantic import ValidationError

from headway import recipes
from headway.core.algorithm import Algorithm
from headway.core.chain import Chain
from headway.core.errors import ConfigError, nearest
from headway.core.registry import build, to_numbers
from headway.core.sampler import Sampler, samplers
from headway.core.stage import stages
from headway.data import FederatedData, load
from headway.data.dataset.dataset_view import View
from headway.engines import ClockEngine, DeviceFleet, Engine
from headway.experiment.identity import described
from headway.experiment.key_paths import check_model, hint, key_path, model_of, needed_by, shown, unknown_key
from headway.experiment.overrides import parse_sets, put, set_on_stage
from headway.experiment.presets import Applied, apply_preset
from headway.experiment.run import Run
from headway.experiment.runfile_schema import AlgorithmSection, ClockSection, DataSection, Sections
from headway.experiment.runfile_text import plain_name, read_runfile
from headway.experiment.target_scaling import scale_notes, scaled_task
from headway.experiment.user_modules import import_modules, importable
from headway.model import zoo as models
from headway.model.task import Task
from headway.numerics.keys import Key
from headway.protocol.quorum import Quorum
from headway.samplers import All
from headway.training.local_sgd import LocalSGD
from headway.training.trainer import Trainer, trainers

NEEDED = {"run.evaluate_every": 'a whole number from 1 or "never"'}


@dataclass(frozen=True)
class Experiment:
    """All that `Run` needs."""

    algorithm: Algorithm
    data: FederatedData
    task: Task


class LastData:
    """The data that were loaded last, for runs one after another that have the same, such as those of a comparison."""

    def __init__(self) -> None:
        self._held: tuple[str, FederatedData] | None = None

    def get(self, section: DataSection, seed: int, make: Callable[[], FederatedData]) -> FederatedData:
        """The data of this section and seed: those that are held, or new ones, which are held from now on."""
        name = json.dumps([section.model_dump(), seed], sort_keys=True, default=str)
        if self._held is None or self._held[0] != name:
            self._held = None  # before others are made, so that memory is not needed for both
            self._held = (name, make())
        return self._held[1]


@dataclass(frozen=True)
class RunFile:
    """A checked run file: its sections, the algorithm that they name, what a preset put into them, and how it looks
    at the data."""

    sections: Sections
    algorithm: Algorithm
    preset: Applied | None = None
    view: View = View()

    @property
    def name(self) -> str:
        """The run's name."""
        assert self.sections.run.name is not None
        return self.sections.run.name

    def with_seed(self, seed: int) -> RunFile:
        """The same run from another seed."""
        run = self.sections.run.model_copy(update={"seed": seed})
        return dataclasses.replace(self, sections=self.sections.model_copy(update={"run": run}))

    def resolved(self) -> dict[str, Any]:
        """Everything explicit: chain, trainer, sampler and quorum by names and numbers."""
        tables = self.sections.model_dump(exclude_none=True, exclude={"compare", "methods", "algorithm", "advise"})
        if not tables["engine"]:
            del tables["engine"]
        tables["algorithm"] = _with_none_said(described(self.algorithm))
        return tables

    def to_toml(self) -> str:
        """The resolved run file; loading it gives the same run."""
        return tomli_w.dumps(self.resolved())

    def build(self, last: LastData | None = None) -> Experiment:
        """Reads the data and makes the task.

        last: what may hold the data already.

        Raises:
            DataError, ConfigError: if the data or the model cannot be had as asked.
        """
        data = self.load_data(last)
        task, section = self._task(data), self.sections.task
        notes = scale_notes(task, section, data)
        return Experiment(self.algorithm, data.with_notes(notes), scaled_task(task, section, data))

    def start(self, folder: Path | None = None, resume: bool = False, last: LastData | None = None) -> Run:
        """The run, ready to be iterated over; last: what may hold the data already.

        Raises:
            What `build` and `Run` raise, before any training.
        """
        experiment, section = self.build(last), self.sections.run
        return Run(
            experiment.algorithm,
            experiment.data,
            experiment.task,
            rounds=section.rounds,
            seed=section.seed,
            engine=self._engine(),
            folder=folder,
            resume=resume,
            evaluate_every=None if section.evaluate_every == "never" else section.evaluate_every,
            checkpoint_every=section.checkpoint_every,
            keep=section.keep,
            until_s=section.until_s,
            config=self.to_toml(),
        )

    def _engine(self) -> Engine:
        """Where clients train, and by which clock."""
        if self.view.pooled:
            return self.sections.engine.pooled()
        engine = self.sections.engine.engine()
        return engine if self.sections.clock is None else ClockEngine(engine, self.sections.clock.fleet())

    def load_data(self, last: LastData | None = None) -> FederatedData:
        """The data, divided by the run's seed, and seen as this run sees them."""
        seed = self.sections.run.seed
        data = (last or LastData()).get(self.sections.data, seed, self._divided)
        return self.view.of(data, Key.of(seed, "view"))

    def _divided(self) -> FederatedData:
        section = self.sections.data
        if "key" in (section.model_extra or {}):
            raise ConfigError("the run file has an unknown key 'data.key': what is drawn follows from 'run.seed'.")
        with key_path("data", given=section.model_extra):
            return load(
                section.source,
                key=self.sections.run.seed,
                partition=section.partition,
                clients=section.clients,
                test_share=section.test_share,
                shift=section.shift,
                **(section.model_extra or {}),
            )

    def _task(self, data: FederatedData) -> Task:
        section, model = self.sections.task, self.sections.model
        if model.path is not None:
            importable(model.path)
        several = "binary_cross_entropy" if data.multi_label else "mean_squared_error"
        loss = section.loss or (several if data.classes is None else "cross_entropy")
        usual = ["mean_absolute_error"] if loss == "mean_squared_error" else ["accuracy"]
        with key_path("model", given=model.model_extra):
            check_model(model.name, model.model_extra or {})
            make = models.factory(model.name, data.input_shape, _outputs(data, loss), model.model_extra)
        with key_path("task", Task.__name__):
            return Task(
                model=make,
                loss=loss,
                metrics=tuple(usual if section.metrics is None else section.metrics),
                shared=None if section.shared is None else tuple(section.shared),
                buffers=section.buffers,
                dtype=section.dtype,
                output=section.output,
                example=data.store.inputs[:1].clone(),
            )


def _outputs(data: FederatedData, loss: str) -> int:
    """How many outputs a model needs: one for each class, or one for each target of an example; one for a mask."""
    if loss == "cross_entropy" and data.classes is not None:
        return data.classes
    if loss == "cross_entropy" and data.multi_label and not data.store.targets.is_floating_point():
        return 2  # at each place of an example
    return data.store.targets.shape[1] if data.store.targets.ndim == 2 else 1


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
    simple, of_stages = parse_sets(sets, AlgorithmSection.model_fields)
    for path, value in simple:
        put(tables, path, value)
    run = _table(tables, "run")
    run.setdefault("name", title)
    run |= {key: value for key, value in (("seed", seed), ("rounds", rounds)) if value is not None}
    if run.get("imports"):
        import_modules(_check(tables).run, folder)  # the method may be a recipe that is registered there
    if method is not None:
        _choose_method(tables, method)
    algorithm = _table(tables, "algorithm")
    with key_path("algorithm.preset"):
        preset = apply_preset(algorithm)
    sections = _check(tables)
    import_modules(sections.run, folder)
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
    return RunFile(sections, _algorithm(sections.algorithm, of_stages), preset)


def _table(tables: dict[str, Any], name: str) -> dict[str, Any]:
    found = tables.setdefault(name, {})
    if not isinstance(found, dict):
        raise ConfigError(f"{name} must be a table, [{name}], found {found!r}.")
    return found


def _choose_method(tables: dict[str, Any], method: str) -> None:
    """Puts a named method in the place of the file's recipe or chain; the trainer stays unless it says more."""
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
        for key in algorithm.keys() - {"preset", "trainer", "sampler", "quorum"}:
            del algorithm[key]
    for key, value in own.items():
        if key == "grid":
            continue  # what `headway compare` tries for the method
        if key in ("trainer", "sampler", "quorum") and isinstance(value, dict):
            algorithm[key] = {**algorithm.get(key, {}), **value}
        else:
            algorithm[key] = value


def _check(tables: dict[str, Any]) -> Sections:
    """The sections, or one sentence about the first thing that is wrong."""
    for key in tables:
        if key not in Sections.model_fields:
            raise ConfigError(unknown_key(key, Sections.model_fields))
    try:
        return Sections.model_validate(copy.deepcopy(tables))
    except ValidationError as error:
        # an unknown key first: it is often the misspelling of the one that is missing
        problems = sorted(error.errors(), key=lambda problem: problem["type"] != "extra_forbidden")
        raise ConfigError(_sentence(problems[0])) from error


def _sentence(problem: Mapping[str, Any]) -> str:
    """What is wrong with a value: its full path, what is needed and what was found."""
    keys = [str(key) for key in problem["loc"]]
    model: Any = Sections
    for depth, key in enumerate(keys):
        field = model.model_fields.get(key)
        if field is None:
            path = ".".join(keys[: depth + 1])
            return unknown_key(path, model.model_fields)
        below = model_of(field.annotation)
        if below is None or depth == len(keys) - 1:
            break
        model = below
    path = ".".join(keys[: depth + 1])
    if problem["type"] == "missing":
        return f"the run file needs {path!r}, which is missing."
    if problem["type"] == "string_pattern_mismatch":
        found = problem["input"]
        return (
            f"{path} is {shown(found)}, but a name consists of letters, digits and _ . + - and starts with a letter or "
            f"digit, since it names a folder: write {shown(plain_name(str(found)))}."
        )
    needed = NEEDED.get(path) or needed_by(field.annotation, field.metadata)
    place = f", [{path}]" if below is not None else ""
    found = problem["input"]
    kind, items = typing.get_origin(field.annotation), typing.get_args(field.annotation)
    if depth < len(keys) - 1 and kind is dict:
        path, needed = f"{path}.{keys[depth + 1]}", needed_by(items[1])
    elif depth < len(keys) - 1 and needed.startswith("a list"):
        return f"{path} must be {needed}, and one of its values is {shown(found)}."
    return f"{path} must be {needed}{place}, found {shown(found)}{hint(found, needed, path)}."


def _algorithm(section: AlgorithmSection, of_stages: Sequence[tuple[list[str], Any]]) -> Algorithm:
    """The algorithm of a section, with changes addressed to its stages."""
    options, named = section.model_extra or {}, None
    usual = LocalSGD.__name__
    with key_path("algorithm.trainer", str(section.trainer.get("trainer", usual)), section.trainer):
        trainer = trainers.build({"trainer": usual, **section.trainer})
    if section.recipe is not None and section.chain is not None:
        raise ConfigError("algorithm has both a recipe and a chain; keep one of them.")
    if section.chain is not None:
        for name in options:
            raise ConfigError(unknown_key(f"algorithm.{name}", type(section).model_fields))
        tables = [dict(table) for table in section.chain]
        for table in tables:
            _check_stage(table)
    else:
        named = _recipe(section, trainer)
        tables = named.chain.to_config()
        if not section.trainer or recipes.takes_trainer(section.recipe or "fedavg"):
            assert isinstance(named.trainer, Trainer)  # a recipe may add to its loss, or have a trainer of its own
            trainer = named.trainer
    for keys, value in of_stages:
        set_on_stage(tables, keys, value)
        _check_stage(next(table for table in tables if table["stage"] == keys[1]))
    return Algorithm(Chain.from_config(tables), trainer, _sampler(section, named), _quorum(section, named))


def _recipe(section: AlgorithmSection, trainer: Trainer) -> Algorithm:
    """The algorithm of a section's recipe, and of its options."""
    name, options = section.recipe or "fedavg", section.model_extra or {}
    if not recipes.is_recipe(name):
        raise ConfigError(
            f"algorithm.recipe: there is no recipe named {name!r}{recipes.RECIPES.near(name, recipes.names())}."
        )
    given = {"trainer": trainer} if recipes.takes_trainer(name) else {}
    with key_path("algorithm", name.partition("+")[0], options):
        return recipes.recipe(name, **options, **given)


def _check_stage(table: Mapping[str, Any]) -> None:
    """Refuses a table of the chain that is no stage.

    Raises:
        ConfigError: with the key's path, and how stages of one's own come in.
    """
    name = table.get("stage")
    if isinstance(name, str) and name not in stages.names():
        raise ConfigError(
            f"algorithm.chain: there is no stage named {name!r}{nearest(name, stages.names())}; a stage of your own is "
            'registered when its module is imported: run.imports = ["module"] imports module.py beside the run file.'
        )
    given = {key: value for key, value in table.items() if key != "stage"}
    with key_path(f"algorithm.{name}" if isinstance(name, str) else "algorithm.chain", str(name), given):
        stages.build(table)


def _sampler(section: AlgorithmSection, named: Algorithm | None) -> Sampler:
    sampler: Sampler = All() if named is None else named.sampler
    if not section.sampler:
        return sampler
    usual = type(sampler).__name__
    with key_path("algorithm.sampler", str(section.sampler.get("sampler", usual)), section.sampler):
        return samplers.build({"sampler": usual, **section.sampler})


def _quorum(section: AlgorithmSection, named: Algorithm | None) -> Quorum:
    usual = {} if named is None else to_numbers(named.quorum)
    with key_path("algorithm.quorum", Quorum.__name__, section.quorum):
        return build(Quorum, {**usual, **section.quorum})


def _place_trace(section: ClockSection, folder: Path) -> None:
    """A trace's path as an absolute one."""
    found = (section.model_extra or {}).get("availability")
    if isinstance(found, dict) and isinstance(found.get("file"), str):
        found["file"] = str((folder / found["file"]).resolve())


def _absolute(source: str, folder: Path) -> str:
    """A file's path as an absolute one; the name of a packaged source as it is."""
    return str((folder / source).resolve()) if Path(source).suffix or "/" in source else source


def _with_none_said(value: Any) -> Any:
    """TOML has no null, so nothing is said as "none"."""
    if isinstance(value, Mapping):
        return {key: _with_none_said(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_with_none_said(item) for item in value]
    return "none" if value is None else value

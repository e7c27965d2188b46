"""The algorithm of a run file: its recipe or chain, trainer, sampler and quorum."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from headway import recipes
from headway.core.algorithm import Algorithm
from headway.core.chain import Chain
from headway.core.errors import ConfigError, nearest
from headway.core.registry import build, to_numbers
from headway.core.sampler import Sampler, samplers
from headway.core.stage import stages
from headway.experiment.key_paths import key_path, unknown_key
from headway.experiment.overrides import set_on_stage
from headway.experiment.runfile_schema import AlgorithmSection
from headway.experiment.user_modules import own_trainer
from headway.protocol.policies import Quorum, Reputation
from headway.samplers import All
from headway.training import LocalSGD, Trainer
from headway.training.registered_trainers import trainers


def algorithm_of(section: AlgorithmSection, of_stages: Sequence[tuple[list[str], Any]]) -> Algorithm:
    """The algorithm of a section, with changes addressed to its stages.

    Raises:
        ConfigError: with the path of the key at fault.
    """
    options, named = section.model_extra or {}, None
    trainer = _trainer(section)
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
    sampler, quorum = _sampler(section, named), _quorum(section, named)
    return Algorithm(Chain.from_config(tables), trainer, sampler, quorum, _reputation(section))


def _trainer(section: AlgorithmSection) -> Trainer:
    """The trainer of a section: one by name, or a class of one's own at `module:Class`."""
    name = section.trainer.get("trainer", LocalSGD.__name__)
    if isinstance(name, str) and ":" in name:
        with key_path("algorithm.trainer"):
            name = own_trainer(name)
    with key_path("algorithm.trainer", str(name), section.trainer):
        return trainers.build({**section.trainer, "trainer": name})


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


def _reputation(section: AlgorithmSection) -> Reputation | None:
    if section.reputation is None:
        return None
    with key_path("algorithm.reputation", Reputation.__name__, section.reputation):
        return build(Reputation, section.reputation)

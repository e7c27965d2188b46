"""All registries, by the titles under which `headway list` shows them."""

from __future__ import annotations

from typing import Any

from headway import recipes
from headway.core.plugins import NamedRegistry
from headway.core.sampler import samplers
from headway.core.stage import stages
from headway.data import PARTITIONERS, SHIFTS
from headway.data.sources.source_registry import SOURCES
from headway.engines import ENGINES, FLEETS
from headway.engines.virtual_clock.device_availability import availabilities
from headway.model.losses import LOSSES
from headway.model.metrics import METRICS
from headway.training.optimizers import Optimizer
from headway.training.registered_trainers import trainers

# what other packages may add to, by its title in the list
REGISTRIES: dict[str, NamedRegistry[Any]] = {
    "recipes": recipes.RECIPES,
    "stages": stages.classes,
    "trainers": trainers.classes,
    "optimizers": Optimizer.registry.classes,
    "samplers": samplers.classes,
    "engines": ENGINES,
    "clocks": FLEETS,
    "availabilities": availabilities.classes,
    "losses": LOSSES,
    "metrics": METRICS,
    "data": SOURCES,
    "partitions": PARTITIONERS,
    "shifts": SHIFTS,
}

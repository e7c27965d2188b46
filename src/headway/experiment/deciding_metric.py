"""The metric by which a comparison compares its methods."""

from __future__ import annotations

import dataclasses

from headway.core.errors import ConfigError
from headway.data import FederatedData
from headway.data.dataset.dataset_view import View
from headway.experiment.grid_search import HELD_OUT
from headway.experiment.resolved_runfile import RunFile
from headway.model.undefined_metrics import AREA, deciding, undefined_metrics


def deciding_metric(runfile: RunFile, seeds: int, tuned: bool) -> tuple[str, list[str], FederatedData]:
    """The metric that methods are compared by, the first that is defined at every seed; why those before are not; and
    the data of the first seed.

    Raises:
        ConfigError: if nothing can be evaluated at some seed.
        What `RunFile.build` raises.
    """
    views = [runfile, *([dataclasses.replace(runfile, view=View(held_out=HELD_OUT))] if tuned else [])]
    built = runfile.build()
    task = built.task
    undefined: dict[str, str] = {}
    drawn = any(name.endswith(AREA) for name in task.metric_names)  # whether it is defined depends on the draw
    checked = range(seeds) if drawn else range(1)
    for view in views:
        for seed in checked:
            reasons = undefined_metrics(task, view.with_seed(seed).load_data())
            if "loss" in reasons:
                raise ConfigError(f"methods are compared by what is evaluated, but {reasons['loss']}.")
            undefined = {name: f"{why}, at seed {seed}" for name, why in reasons.items()} | undefined
    metric = deciding(task, undefined)
    notes = [f"{name} is not defined: {why}; {metric} decides instead." for name, why in undefined.items()]
    return metric, notes, built.data

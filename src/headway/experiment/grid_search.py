"""Choosing a method's numbers from a declared grid, on examples that are not tested on."""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from headway.core.errors import ConfigError
from headway.data.dataset.dataset_view import View
from headway.experiment.best_model import LOWER_IS_BETTER
from headway.experiment.comparison import Tuned
from headway.experiment.runfile import RunFile
from headway.experiment.trials import Trial, run_trials

HELD_OUT = 0.2  # of each client's training examples


@dataclass(frozen=True)
class Candidate:
    """A method with one setting of its grid."""

    method: str
    setting: Mapping[str, Any]
    runfile: RunFile

    @property
    def name(self) -> str:
        """Its name among the trials, and in folders."""
        shown = ",".join(f"{path.rpartition('.')[2]}={value}" for path, value in self.setting.items())
        return f"{self.method} {shown}"


def candidates(method: str, grid: Mapping[str, Sequence[Any]], load: Callable[[list[str]], RunFile]) -> list[Candidate]:
    """Every setting of a grid of `PATH: values`; `load` reads the run file with changes as `--set` takes them.

    Raises:
        ConfigError: if a path has no values, or a value cannot be.
    """
    for path, values in grid.items():
        if not isinstance(values, Sequence) or isinstance(values, str) or not values:
            raise ConfigError(f"the grid of {method!r} needs a list of values for {path!r}, found {values!r}.")
    settings = [dict(zip(grid, values, strict=True)) for values in itertools.product(*grid.values())]
    return [Candidate(method, s, load([f"{path}={_toml(value)}" for path, value in s.items()])) for s in settings]


def grid_trials(
    tried: Sequence[Candidate], seeds: int, workers: int, folder: Path, metric: str | None = None
) -> Iterator[Trial | tuple[str, int]]:
    """The trials of all candidates, each client testing on a fifth of its own training examples."""
    runfiles = {c.name: replace(c.runfile, view=View(held_out=HELD_OUT)) for c in tried}
    return run_trials(runfiles, range(seeds), workers, folder / "tuning", metric)


def choose(
    tried: Sequence[Candidate], trials: Sequence[Trial], metric: str
) -> tuple[dict[str, tuple[Candidate, Tuned]], dict[str, str]]:
    """For each method the candidate of best mean value, one of which a seed failed being out.

    And the methods of which every candidate failed, each with the reason of the first.
    """
    chosen: dict[str, tuple[Candidate, Tuned]] = {}
    failed: dict[str, str] = {}
    for method in dict.fromkeys(candidate.method for candidate in tried):
        own = [candidate for candidate in tried if candidate.method == method]
        scores = [statistics.fmean(t.final for t in trials if t.method == candidate.name) for candidate in own]
        if all(math.isnan(score) for score in scores):
            why = next(t.failure for t in trials if t.method == own[0].name and t.failure)
            failed[method] = f"every setting of its grid failed, the first like this: {why}"
            continue
        sign = -1 if metric in LOWER_IS_BETTER else 1
        best = max(range(len(own)), key=lambda i: -math.inf if math.isnan(scores[i]) else sign * scores[i])
        chosen[method] = own[best], Tuned(len(own), dict(own[best].setting), scores[best])
    return chosen, failed


def _toml(value: Any) -> str:
    import tomli_w

    return tomli_w.dumps({"v": value}).partition("=")[2].strip()

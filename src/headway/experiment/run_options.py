"""The options of a run: how long, from which seed, on which engine, kept where, observed by which observers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Integral
from pathlib import Path
from typing import TypedDict

from headway.core.errors import ConfigError
from headway.engines import Engine
from headway.observe.observer import Observer
from headway.privacy.options import PrivacyOptions as PrivacyOptions


class RunArguments(TypedDict, total=False):
    """The options of `Run` that have a default, as keyword arguments; see `RunOptions`."""

    seed: int
    engine: Engine | None
    folder: Path | str | None
    resume: bool
    evaluate_every: int | None
    checkpoint_every: int
    keep: int
    until_s: float | None
    config: str | None
    observers: Sequence[Observer]
    privacy: PrivacyOptions


@dataclass(frozen=True)
class RunOptions:
    """The options of a run, checked.

    rounds: how many rounds of training the run has.  seed: of everything that is drawn.
    engine: where clients train; `None` for `LocalEngine()`.
    folder: where the run is kept; `None` keeps nothing.  resume: go on with the run that is in the folder.
    evaluate_every, checkpoint_every: in rounds; the last round always is evaluated and kept.  With
        `evaluate_every=None` no client is ever evaluated, and the central test set in the last round only: for
        populations that are too large to go through.
    keep: how many checkpoints stay.
    until_s: by a simulated clock, the seconds after which no round begins, however few have been.
    config: the text of the run file, kept in the folder.
    observers: objects that look at each round, and may stop the run; called after those of the run itself.
    privacy: the budget of a chain that adds noise, and what else may be released; see `PrivacyOptions`.

    Raises:
        ConfigError: for a number that is no whole number or too small, or an observer that is none.
    """

    rounds: int
    seed: int = 0
    engine: Engine | None = None
    folder: Path | str | None = None
    resume: bool = False
    evaluate_every: int | None = 1
    checkpoint_every: int = 10
    keep: int = 3
    until_s: float | None = None
    config: str | None = None
    observers: Sequence[Observer] = ()
    privacy: PrivacyOptions = PrivacyOptions()

    def __post_init__(self) -> None:
        for name, least in (("rounds", 1), ("seed", 0), ("evaluate_every", 1), ("checkpoint_every", 1), ("keep", 1)):
            number = getattr(self, name)
            if name == "evaluate_every" and number is None:
                continue
            if not isinstance(number, Integral):
                raise ConfigError(f"{name} must be a whole number, found {number!r}.")
            if int(number) < least:
                raise ConfigError(f"{name} must be at least {least}, found {number}.")
        for each in self.observers:
            if not isinstance(each, Observer):
                raise ConfigError(
                    f"observers must be headway.Observer objects, found {each!r}: derive its class from it."
                )
        object.__setattr__(self, "seed", int(self.seed))

    @property
    def place(self) -> Path | None:
        """The folder as a path."""
        return None if self.folder is None else Path(self.folder)

"""The quorum: how many updates end a round, by when, and what becomes of late ones."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from headway.core.errors import ConfigError
from headway.core.registry import check_types


@dataclass(frozen=True, slots=True)
class Quorum:
    """How many updates a round needs, by when, and what becomes of late ones.

    count: updates that end the round; `None` for all of the cohort.  A count below the cohort is over-selection.
    deadline_s: seconds after which the round goes on with the updates that have arrived.
    late: "drop" them, or "keep" them with their age (buffered asynchrony); the cohort is then the clients in flight.
    work: the local steps of a client: the "whole" number that the trainer has; "partial": a client that would miss the
        deadline sends the steps that it completed until then; "window": every client makes as many as fit in before
        the deadline.
    max_age: the largest age, in rounds, of the model of an update that counts, if late updates are kept.
    retries: how often a client that fails is asked again in the round; replace: whether another one is asked then.
    lost_after_s: seconds after which a client that does not answer counts as lost.
    cap: the largest number of updates of one client that count in a whole run.

    Raises:
        ConfigError: for a number out of range, a maximal age where late updates are dropped, or work that depends on
            the deadline where there is none.
    """

    count: int | None = None
    deadline_s: float | None = None
    late: Literal["drop", "keep"] = "drop"
    work: Literal["whole", "partial", "window"] = "whole"
    max_age: int | None = None
    retries: int = 0
    replace: bool = False
    lost_after_s: float = 86_400.0
    cap: int | None = None

    @property
    def summary(self) -> str:
        """The end of a round and the treatment of late updates, in a line."""
        ends = "all have answered" if self.count is None else f"{self.count} have answered"
        deadline = "" if self.deadline_s is None else f", or after {self.deadline_s:g} s"
        aged = "" if self.max_age is None else f", up to {self.max_age} rounds old"
        late = "late updates are dropped" if self.late == "drop" else f"late updates are kept{aged}"
        part = {
            "whole": "",
            "partial": "; who would miss the deadline sends the steps that it managed",
            "window": "; everybody makes as many steps as fit in before the deadline",
        }[self.work]
        again = f"; who fails is asked {self.retries} times more" if self.retries else ""
        instead = "; others are asked instead" if self.replace else ""
        return f"a round ends when {ends}{deadline}; {late}{part}{again}{instead}"

    def __post_init__(self) -> None:
        check_types(self)
        for name, least in (("count", 1), ("max_age", 0), ("retries", 0), ("cap", 1)):
            number = getattr(self, name)
            if number is not None and number < least:
                raise ConfigError(f"Quorum.{name} must be at least {least}, found {number}.")
        for name in ("deadline_s", "lost_after_s"):
            seconds = getattr(self, name)
            if seconds is not None and not seconds > 0:
                raise ConfigError(f"Quorum.{name} must be above 0 seconds, found {seconds}.")
        if self.work != "whole" and self.deadline_s is None:
            raise ConfigError(
                f'Quorum.work is "{self.work}", and no deadline limits the answer of a client: give '
                "Quorum.deadline_s, or leave it out."
            )
        if self.max_age is not None and self.late != "keep":
            raise ConfigError(
                f'Quorum.max_age is {self.max_age}, but late updates are dropped: set late = "keep", or leave it out.'
            )

"""The terms under which a run releases: the events of a round, the sampling, and what is needed to judge them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from headway.core.algorithm import Algorithm
from headway.core.errors import ConfigError
from headway.core.facts import NoisePlace, PrivacyEvent, PrivacyUnit
from headway.core.flow import Flow
from headway.core.registry import brief
from headway.core.stage import Place
from headway.privacy.options import PrivacyOptions
from headway.privacy.spends import Sampling

PLACES: dict[NoisePlace, str] = {
    "server": "at the server",
    "client": "at each client",
    "distributed": "in shares of all clients",
}
UNITS: dict[PrivacyUnit, str] = {"client": "one client with all of its data", "example": "one example of one client"}


@dataclass(frozen=True)
class PrivacyTerms:
    """The terms of a run, which hold in each of its rounds.

    events: of each round.  described: clip, weights, denominator and chain in plain values.  other: what else is
    released, or seen, beside what the events cover; each as what, how protected, and to whom.
    """

    events: tuple[PrivacyEvent, ...]
    sampling: Sampling
    population: int | None
    described: dict[str, Any]
    other: tuple[dict[str, str], ...]

    @classmethod
    def of(
        cls,
        algorithm: Algorithm,
        flows: Sequence[Flow],
        options: PrivacyOptions,
        population: int | None = None,
        central: bool = False,
    ) -> PrivacyTerms:
        """The terms of an algorithm whose facts after each stage are `flows`.

        central: whether there is a central test set.
        """
        last = flows[-1]
        sampling = Sampling.of_flow(last)
        population = sampling.population if sampling.population is not None else population
        other = tuple(_other_releases(last, options, central))
        return cls(last.events, sampling, population, _described(algorithm, flows), other)

    def lines(self) -> list[str]:
        """The releases of a round, a line for each, and the sampling."""
        amplified = not self.sampling.amplifies or any(event.draws_amplify for event in self.events)
        nothing = "" if amplified else ", which amplify nothing here"
        return [*map(event_line, self.events), self.sampling.summary + nothing]

    def to_values(self) -> dict[str, Any]:
        """The terms in plain values."""
        units = sorted({event.unit for event in self.events})
        return {
            "events": [event_values(event) for event in self.events],
            "units": {unit: UNITS[unit] for unit in units},
            "relations": sorted({event.relation for event in self.events}),
            "sampling": self.sampling.to_values(),
            "population": self.population,
            **self.described,
            "other_releases": [dict(each) for each in self.other],
        }


def event_values(event: PrivacyEvent) -> dict[str, Any]:
    """An event in plain values."""
    values = asdict(event) | {"covers": list(event.covers)}
    details = {name: each if isinstance(each, str) else float(each) for name, each in event.details.items()}
    numbers = {name: float(values[name]) for name in ("noise_multiplier", "sensitivity")}
    return {**values, **numbers, "details": details}


def event_line(event: PrivacyEvent) -> str:
    """An event in words.

    >>> event_line(PrivacyEvent("gaussian", 1.1, 0.5, ("delta", "buffers")))
    'gaussian noise at the server on delta, buffers: 1.1 times the sensitivity of 0.5 to one client'
    """
    return (
        f"{event.mechanism.replace('_', ' ')} noise {PLACES[event.at]} on {', '.join(event.covers)}: "
        f"{event.noise_multiplier:.4g} times the sensitivity of {event.sensitivity:.4g} to one {event.unit}"
        + (f", in each of the sums of {event.details['buckets']:g} buckets" if "buckets" in event.details else "")
    )


RELEASE_COLUMNS = ("release", "noise", "multiplier", "sensitivity", "protects", "drawn")


def release_rows(events: Sequence[PrivacyEvent]) -> list[list[str]]:
    """A row of texts for each release of a round, under `RELEASE_COLUMNS`."""
    return [
        [
            ", ".join(event.covers),
            event.mechanism.replace("_", " "),
            f"{event.noise_multiplier:.4g}",
            f"{event.sensitivity:.4g}",
            UNITS[event.unit],
            PLACES[event.at],
        ]
        for event in events
    ]


def event_of(values: dict[str, Any]) -> PrivacyEvent:
    """The event of what `event_values` gave.

    Raises:
        ConfigError: for something else.
    """
    try:
        return PrivacyEvent(**{**values, "covers": tuple(values["covers"])})
    except (TypeError, KeyError) as error:
        raise ConfigError(f"{values!r} is no privacy event.") from error


def _described(algorithm: Algorithm, flows: Sequence[Flow]) -> dict[str, Any]:
    """How one unit's contribution is limited, and how the noise is related to it."""
    chain, last = algorithm.chain, flows[-1]
    place = chain.stages.index(chain.aggregator)
    clips = [brief(stage) for stage in chain.stages if stage.place is Place.CLIP]
    before = flows[place - 1] if place else None
    cohort = last.cohort
    expected = getattr(chain.aggregator, "over", None) == "expected"
    return {
        "clip": {
            "stages": clips,
            "bound": None if before is None else before.bound,
            "scope": [] if before is None else list(before.vectors),
        },
        "weights": last.weighed_by or ("each client counts 1" if expected else "number of examples"),
        "weight_bound": last.weight_bound,
        "denominator": f"the expected cohort of {cohort:g}" if expected and cohort else brief(chain.aggregator),
        "server_sees": last.server_sees,
        "chain": chain.to_config(),
        "sampler": brief(algorithm.sampler),
    }


def _other_releases(last: Flow, options: PrivacyOptions, central: bool) -> Iterator[dict[str, str]]:
    """What is released or seen without noise."""
    if options.client_metrics == "released":
        yield _release("mean metrics on the clients' own test parts", "no noise: not covered by any epsilon", "reports")
    if central:
        yield _release("metrics on the central test set", "they follow from the model, and cost nothing", "reports")
    if last.server_sees == "each" and any(event.at == "server" for event in last.events):
        seen = ", ".join(("each update", *(name for name in last.exposed if name != "training loss")))
        yield _release(seen, "no noise: the server is trusted with them", "the server")
    if last.server_sees == "sum" and any(event.at == "server" for event in last.events):
        yield _release("the sum of the updates", "no noise: the server is trusted with it", "the server")
    yield _release("the names of each cohort", "no noise: whoever knows them has no amplification", "the journal")


def _release(what: str, protection: str, to: str) -> dict[str, str]:
    return {"what": what, "protection": protection, "to": to}

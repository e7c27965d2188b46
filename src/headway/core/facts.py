"""The static facts of a chain: of its surroundings (sampler, engine, trainer), and of what travels in it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from headway.core.errors import ConfigError

StepRule = Literal["gradient", "step"]
Reading = Literal["sizes", "participation", "losses", "times", "availability"]
Mechanism = Literal["gaussian", "skellam", "matrix", "example_gaussian"]
PrivacyUnit = Literal["client", "example"]
Relation = Literal["add_remove", "zero_out"]
NoisePlace = Literal["server", "client", "distributed"]
EARLIER_READINGS = {"turns": "participation", "presence": "availability"}  # names of earlier versions


@dataclass(frozen=True, slots=True)
class PrivacyEvent:
    """One noisy release: how it is made, how much noise relative to the sensitivity, what it covers, whom it protects.

    mechanism: "gaussian", "skellam", "matrix" (noise that is correlated over rounds), or "example_gaussian" (noise on
    every local step).  noise_multiplier: the standard deviation of the noise over the sensitivity; of correlated noise
    the effective one of all rounds together.
    sensitivity: the largest L2 change of what is covered by one unit.  covers: the names of what is released.
    unit, relation: what may be added or removed, or replaced by nothing, without showing.
    at: where the noise is drawn; "distributed" for shares of clients that add up.  A release that clients make is
    reserved before they are asked.
    details: further numbers that the accountant needs of the mechanism, by name.
    """

    mechanism: Mechanism
    noise_multiplier: float
    sensitivity: float
    covers: tuple[str, ...] = ("delta",)
    unit: PrivacyUnit = "client"
    relation: Relation = "add_remove"
    at: NoisePlace = "server"
    details: Mapping[str, float | str] = field(default_factory=dict, hash=False)

    @property
    def draws_amplify(self) -> bool:
        """Whether it hides a client better where each is drawn independently and nobody sees whom.

        Not where clients draw noise of their own, and a client is replaced by zeros: the amount of noise then shows how
        many were drawn, and who knows that, and what others send, is told more of a client by their absence than by its
        own noise.  Not where the noise of rounds is correlated, or one example is hidden.
        """
        return self.unit == "client" and self.relation == "add_remove" and self.mechanism != "matrix"


@dataclass(frozen=True, slots=True)
class VectorSpec:
    """The specification of a travelling vector.

    length: `None` for a number of each parameter; a whole number; or the share of the P parameters, of which there are
    then `max(1, int(share * P))`.  number: "real", or "integer" for indices and codes.
    bits: how many bits each integer in `[0, 2^bits)` takes on its way; `None` for the size of its tensor's number type.

    Raises:
        ConfigError: for bits of real numbers, or not from 1 to 63.
    """

    length: int | float | None = None
    number: Literal["real", "integer"] = "real"
    bits: int | None = None

    def __post_init__(self) -> None:
        if self.bits is not None and not (self.number == "integer" and 1 <= self.bits <= 63):
            raise ConfigError(f"VectorSpec.bits are for integers, from 1 to 63, found {self!r}.")

    def count(self, size: int) -> int:
        """How many numbers it has, P being `size`."""
        if self.length is None:
            return size
        return self.length if isinstance(self.length, int) else max(1, int(self.length * size))


@dataclass(frozen=True, slots=True)
class SamplerFacts:
    """A sampler's promises about its cohorts; `None` where the population is not known yet.

    kind: how it draws.  expected: the mean size of a cohort.  rate: of independent draws, the probability of each
    client; most: the largest cohort that is then drawn.  reads: what it must know of each client (see `ClientHistory`).
    tops_up: whether it can draw as many as are missing while others are at work on earlier asks.
    separation: of a client's rounds, how many at least from one to the next in which its update counts.
    """

    kind: str
    expected: float | None = None
    population: int | None = None
    rate: float | None = None
    most: int | None = None
    reads: frozenset[Reading] = frozenset()
    tops_up: bool = True
    separation: int = 1


@dataclass(frozen=True, slots=True)
class EngineFacts:
    """An engine's abilities; deployed: whether its clients are machines of their own, and not simulated."""

    name: str
    memory: bool = True
    synchronous: bool = True
    clock: bool = False
    deployed: bool = False


@dataclass(frozen=True, slots=True)
class TrainerFacts:
    """A trainer's offers to the stages; whether it keeps memory at the client; what it adds to the loss, and how
    it keeps the client's steps, in words; whether it is paced, so that it can make as many steps as time allows.

    offers: "steps", and the names of the measurements that a stage may ask for.
    hints: what to do for a measurement that is not offered as it stands, by its name.
    applies: which rules for local steps it applies (see `headway.training.step_rules`): rules on the "gradient",
    rules on the direction of the "step".  A chain with a rule that the trainer does not apply is refused.
    linear: whether its steps are linear in the gradients, so that the learning rate that these received
    (`effective_lr`) has a meaning; optimizer: what makes them otherwise.
    events: what a client's training in one round releases with noise.  A stage can then ask only for what they cover.
    """

    name: str
    offers: frozenset[str] = frozenset()
    memory: bool = False
    adds: str = ""
    steps: str = ""
    paced: bool = False
    applies: frozenset[StepRule] = frozenset()
    hints: Mapping[str, str] = field(default_factory=dict)
    linear: bool = True
    optimizer: str = ""
    events: tuple[PrivacyEvent, ...] = ()


@dataclass(frozen=True)
class FlowFacts:
    """The facts that hold between two stages, and which stage set each.

    number: "real", or "ring" for integers modulo a power of two.
    server_sees: "each" update, only their "sum", or "bucket sums", of groups of the cohort; buckets: how many.
    additive: whether encoded updates may be added as they are.
    dense: whether every coordinate is sent by every client.
    weighted: whether weights are folded into the vectors before they leave the client, as a sum needs it;
    lifted: the largest of these weights, if there is a limit.
    bound: L2 bound of one client's contribution, all vectors taken together; after the aggregator, of
        its effect on the aggregate.  bounds: of each vector by name, where each has one of its own.
    sensitivity: the same of what a client's data change in its update, where noise is added at the client, so that the
        update itself has no bound.
    bands: how many rounds the noise of one round lasts, within which no client may take part twice.
    rescaled: whether what travels is in units that change from round to round.
    reduced: whether the aggregator is a rule over the whole cohort (a median), which need not be a sum.
    weight_bound: the largest weight that a client can have.
    weight_leaks: what a weight reveals of one client's data, beyond how many examples there are.
    exposed: what else leaves the client unprotected.
    by_examples: whether a client's weight is at most its number of examples.  uniform: whether a stage has set all
        weights to 1.
    vectors: the names of the vectors that travel; scalars: the ones of one number, not P; specs: of the ones
        with another length or number type than the parameters.
    mixing: the share by which averaged statistics move towards the updates' own, where models are mixed.
    size: how many parameters the model has, where that is known; statistics: how many averaged ones travel beside.
    largest: the largest absolute value of the integers that one client adds to a sum; integer_norm: their largest L2
        norm, all vectors taken together.
    noise_variance: that of the noise which one client adds to each of its integers; survivors: how many such clients
        must be in a sum, at least, for the noise that is promised; fewest: how many there are at least in a sum that
        is unmasked.
    proximal: strength of the pull towards w_t that step rules add, which shortens what a gradient moves.
    equal: whether every client must count the same.
    min_updates: the fewest updates (sums, behind a secure sum in buckets) that can be aggregated: a round with fewer
        is skipped, an algorithm that never has so many is refused.
    min_cohort: the fewest clients that may be asked in a round.
    replicas: how many clients hold the same data and send the same update, as a group (see `core.replicas`).
    attackers: how many clients may send anything at all, without the aggregate following them.
    asynchronous: whether late updates are kept; buffer: how many updates end a round then, if a number is set.
    excludes: whether clients may be left out of rounds for a while.
    rebased: whether updates lead away from the server's model of now, not from that which their client was asked with.
    """

    number: Literal["real", "ring"] = "real"
    server_sees: Literal["each", "bucket sums", "sum"] = "each"
    buckets: int = 1
    additive: bool = True
    dense: bool = True
    weighted: bool = False
    lifted: float | None = None
    bound: float | None = None
    bounds: Mapping[str, float] = field(default_factory=dict)
    sensitivity: float | None = None
    bands: int = 1
    rescaled: bool = False
    reduced: bool = False
    weight_bound: float | None = None
    by_examples: bool = True
    uniform: bool = False
    weight_leaks: str | None = None
    exposed: tuple[str, ...] = ("number of examples", "training loss")
    vectors: tuple[str, ...] = ("delta",)
    scalars: tuple[str, ...] = ()
    specs: Mapping[str, VectorSpec] = field(default_factory=dict)
    mixing: float = 1.0
    size: int | None = None
    statistics: int = 0
    largest: int | None = None
    integer_norm: float | None = None
    noise_variance: float = 0.0
    survivors: int = 0
    fewest: int | None = None
    proximal: float = 0.0
    equal: bool = False
    rebased: bool = False
    needs: frozenset[str] = frozenset()
    events: tuple[PrivacyEvent, ...] = ()
    warnings: tuple[str, ...] = ()
    sampler: SamplerFacts | None = None
    engine: EngineFacts | None = None
    trainer: TrainerFacts | None = None
    min_updates: int = 1
    min_cohort: int = 1
    replicas: int = 1
    attackers: int = 0
    asynchronous: bool = False
    excludes: bool = False
    buffer: int | None = None
    set_by: Mapping[str, str] = field(default_factory=dict)
    restated: frozenset[str] = frozenset()

    @property
    def weighed_by(self) -> str | None:
        """The stage that set the weights; `None` where a client's weight is its number of examples."""
        return self.set_by.get("weight_bound")

    @property
    def cohort(self) -> float | None:
        """The mean number of clients in a round, where the sampler announces it."""
        return None if self.sampler is None else self.sampler.expected

"""What is statically known about the travelling value between two stages.

A stage's `connect` reads the facts it needs, refuses what cannot mean anything, and returns the facts
that hold after it.  Every fact remembers which stage set it, so that a refusal can name the cause.
**Guarantees are lost unless a stage restates them**: `bound`, `additive` and `dense` fall back after every
stage that changes the update, except where that stage says `set` or `keep`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal, NoReturn

from headway.core.errors import ChainRefused

GUARANTEES: Mapping[str, Any] = {"bound": None, "additive": False, "dense": False}
StepRule = Literal["gradient", "step"]
Reading = Literal["sizes", "turns", "losses", "times", "presence"]


@dataclass(frozen=True, slots=True)
class PrivacyEvent:
    """One noisy release: how it is made, how much noise relative to the sensitivity, what it covers."""

    mechanism: str
    noise_multiplier: float
    sensitivity: float
    covers: tuple[str, ...] = ("delta",)


@dataclass(frozen=True, slots=True)
class VectorSpec:
    """What a travelling vector holds.

    length: `None` for a number of each parameter; a whole number; or the share of the P parameters, of which there are
    then `max(1, int(share * P))`.  number: "real", or "integer" for indices and codes.
    """

    length: int | float | None = None
    number: Literal["real", "integer"] = "real"

    def count(self, size: int) -> int:
        """How many numbers it has, P being `size`."""
        if self.length is None:
            return size
        return self.length if isinstance(self.length, int) else max(1, int(self.length * size))


@dataclass(frozen=True, slots=True)
class SamplerFacts:
    """What a sampler promises about its cohorts; `None` where the population is not known yet.

    kind: how it draws.  expected: the mean size of a cohort.  rate: of independent draws, the probability of each
    client; most: the largest cohort that is then drawn.  reads: what it must know of each client (see `core.roster`).
    tops_up: whether it can draw as many as are missing while others are at work on earlier asks.
    """

    kind: str
    expected: float | None = None
    population: int | None = None
    rate: float | None = None
    most: int | None = None
    reads: frozenset[Reading] = frozenset()
    tops_up: bool = True


@dataclass(frozen=True, slots=True)
class EngineFacts:
    """What an engine can do."""

    name: str
    memory: bool = True
    synchronous: bool = True
    clock: bool = False


@dataclass(frozen=True, slots=True)
class TrainerFacts:
    """What a trainer offers to the stages; whether it keeps memory at the client; what it adds to the loss, and how
    it keeps the client's steps, in words; whether it is paced, so that it can make as many steps as time allows.

    offers: "steps", and the names of the measurements that a stage may ask for.
    hints: what to do for a measurement that is not offered as it stands, by its name.
    applies: which rules for local steps it applies (see `headway.training.step_rules`): those on the "gradient", those
    on the direction of the "step".  A chain with a rule that the trainer does not apply is refused.
    """

    name: str
    offers: frozenset[str] = frozenset()
    memory: bool = False
    adds: str = ""
    steps: str = ""
    paced: bool = False
    applies: frozenset[StepRule] = frozenset()
    hints: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Flow:
    """The facts, and which stage set each.

    number: "real", or "ring" for integers modulo a power of two.
    server_sees: "each" update, or only their "sum".
    additive: whether encoded updates may be added as they are.
    dense: whether every coordinate is sent by every client.
    weighted: whether the weights are already folded in.
    bound: L2 bound of one client's contribution, all vectors taken together; after the aggregator, of
        its effect on the aggregate.
    weight_bound: the largest weight that a client can have.
    weight_leaks: what a weight tells of one client's data, beyond how many examples there are.
    exposed: what else leaves the client unprotected.
    by_examples: whether a client's weight is at most its number of examples.
    vectors: the names of the vectors that travel; scalars: those of them that have one number and not P; specs: of
        those that have another length or number type than the parameters.
    mixing: the share by which averaged statistics move to those of the updates, where models are mixed.
    proximal: strength of the pull towards w_t that step rules add, which shortens what a gradient moves.
    equal: whether every client must count the same.
    asynchronous: whether late updates are kept; buffer: how many updates end a round then, if a number is said.
    rebased: whether updates lead away from the server's model of now, not from that which their client was asked with.
    """

    number: Literal["real", "ring"] = "real"
    server_sees: Literal["each", "sum"] = "each"
    additive: bool = True
    dense: bool = True
    weighted: bool = False
    bound: float | None = None
    weight_bound: float | None = None
    by_examples: bool = True
    weight_leaks: str | None = None
    exposed: tuple[str, ...] = ("number of examples", "training loss")
    vectors: tuple[str, ...] = ("delta",)
    scalars: tuple[str, ...] = ()
    specs: Mapping[str, VectorSpec] = field(default_factory=dict)
    mixing: float = 1.0
    proximal: float = 0.0
    equal: bool = False
    rebased: bool = False
    needs: frozenset[str] = frozenset()
    events: tuple[PrivacyEvent, ...] = ()
    warnings: tuple[str, ...] = ()
    sampler: SamplerFacts | None = None
    engine: EngineFacts | None = None
    trainer: TrainerFacts | None = None
    asynchronous: bool = False
    buffer: int | None = None
    set_by: Mapping[str, str] = field(default_factory=dict)
    restated: frozenset[str] = frozenset()

    def set(self, stage: object, **facts: Any) -> Flow:
        """The flow with these facts, remembered as this stage's."""
        if "weight_bound" in facts:  # weights of a stage are not the numbers of examples, unless it says so
            facts = {"by_examples": False, **facts}
        return replace(
            self,
            **facts,
            set_by={**self.set_by, **dict.fromkeys(facts, _name(stage))},
            restated=self.restated | facts.keys(),
        )

    def keep(self, stage: object, *names: str) -> Flow:
        """The flow in which this stage vouches that these guarantees still hold."""
        return self.set(stage, **{name: getattr(self, name) for name in names})

    def need(self, stage: object, *names: str) -> Flow:
        """Asks for what is not free: the client's single `steps`, or measurements.

        Raises:
            ChainRefused: if the trainer does not offer one of them.
        """
        for name in names:
            if self.trainer is not None and name not in self.trainer.offers:
                raise ChainRefused(
                    needed=f"a trainer that offers the client's {name.replace('_', ' ')} ({_name(stage)} reads it)",
                    found=f"{self.trainer.name}, which does not",
                    caused_by=self.trainer.name,
                    do_this=f"{self.trainer.hints.get(name, 'train with LocalSGD')}, or leave {_name(stage)} out",
                )
        return self.set(stage, needs=self.needs | set(names))

    def measure(self, stage: object, *names: str) -> Flow:
        """Asks for measurements of each client at the start of a round, which `ctx.measurements` then holds by name:
        its `initial_loss` and `initial_gradient` over its training examples, its `validation_loss` over examples held
        out, its normalised `label_entropy`, and what else the trainer offers.

        Raises:
            ChainRefused: if the trainer does not offer one of them.
        """
        return self.need(stage, *names)

    def check_rule(self, stage: object, rule: StepRule) -> None:
        """Refuses a rule for local steps that the trainer would leave out.

        Raises:
            ChainRefused: if it does not say that it applies rules of this kind.
        """
        trainer = self.trainer
        if trainer is None or rule in trainer.applies:
            return
        kind = "gradients" if rule == "gradient" else "the directions of steps"
        applied = " and ".join(sorted(trainer.applies)) or "none"
        raise ChainRefused(
            needed=f"a trainer that applies rules for {kind} ({_name(stage)} is one)",
            found=f"{trainer.name}, which applies {applied if applied == 'none' else f'those on the {applied} only'}",
            caused_by=trainer.name,
            do_this=f"train with LocalSGD, or apply the rules in {trainer.name} with headway.step_rules(work) and say "
            f'so in its facts (applies=frozenset({{"{rule}"}})), or leave {_name(stage)} out',
        )

    def carry(self, stage: object, *names: str, scalar: bool = False, spec: VectorSpec | None = None) -> Flow:
        """Adds named vectors, `[..., P]`, `[..., 1]` or as their spec says, to those that travel beside the delta."""
        flow = self.set(stage, vectors=self.vectors + names)
        flow = flow.set(stage, scalars=self.scalars + names) if scalar else flow
        return flow if spec is None else flow.recode(stage, **dict.fromkeys(names, spec))

    def recode(self, stage: object, **specs: VectorSpec) -> Flow:
        """Says what these travelling vectors hold from here on; a stage that recodes has `send` and `decode`."""
        return self.set(stage, specs={**self.specs, **specs})

    def lengths(self, size: int) -> dict[str, int]:
        """How many numbers each travelling vector has, P being `size`."""
        plain = {name: 1 if name in self.scalars else size for name in self.vectors}
        return plain | {name: spec.count(size) for name, spec in self.specs.items()}

    @property
    def integers(self) -> bool | frozenset[str]:
        """Which travelling vectors hold integers; True for all, in a ring."""
        if self.number == "ring":
            return True
        return frozenset(name for name, spec in self.specs.items() if spec.number == "integer")

    def warn(self, sentence: str) -> Flow:
        """Adds a warning that `explain` and the command line show."""
        return replace(self, warnings=(*self.warnings, sentence))

    @property
    def weighed_by(self) -> str | None:
        """The stage that set the weights; `None` where a client's weight is its number of examples."""
        return self.set_by.get("weight_bound")

    @property
    def cohort(self) -> float | None:
        """The mean number of clients in a round, where the sampler announces it."""
        return None if self.sampler is None else self.sampler.expected

    def require(self, stage: object, *, fix: str = "", **requirements: bool | str) -> Flow:
        """Refuses the chain unless the named requirements hold; `REQUIREMENTS` lists them, with what is said of each.

        A requirement is given as True, or as the reason for it.  fix: what to do instead of leaving the stage out.

            flow.require(self, memory=True, synchronous="a stale variate breaks the correction", fix="use FedProx")

        Raises:
            ChainRefused: for the first that does not hold, with what was needed, found, caused by, and what to do.
        """
        name = _name(stage)
        for requirement, reason in requirements.items():
            rule = REQUIREMENTS[requirement]
            if reason is False or rule.holds(self):
                continue
            self.refuse(
                stage,
                rule.fact,
                needed=rule.needed + (f": {reason}" if isinstance(reason, str) else ""),
                found=rule.found(self).replace("{stage}", name),
                do_this=", or ".join(filter(None, (rule.do_this(self), fix or f"leave {name} out"))),
            )
        return self

    def refuse(self, stage: object, fact: str, *, needed: str, found: str, do_this: str) -> NoReturn:
        """Refuses the chain on account of a fact; the stage that set the fact is named as the cause."""
        raise ChainRefused(
            needed=f"{needed} ({_name(stage)} depends on it)",
            found=found,
            caused_by=self.set_by.get(fact, _name(stage)),
            do_this=do_this,
        )

    def without_guarantees(self, stage: object) -> Flow:
        """The flow after a stage that changed the update: what it did not restate no longer holds."""
        lost = {
            name: fallback
            for name, fallback in GUARANTEES.items()
            if name not in self.restated and getattr(self, name) != fallback
        }
        return self.set(stage, **lost) if lost else self


@dataclass(frozen=True, slots=True)
class Requirement:
    """What a stage may require of the flow: the fact that decides it, whether it holds, and the parts of a refusal."""

    fact: str
    holds: Callable[[Flow], bool]
    needed: str
    found: Callable[[Flow], str]
    do_this: Callable[[Flow], str]


REQUIREMENTS: Mapping[str, Requirement] = {
    "memory": Requirement(
        "engine",
        lambda flow: flow.engine is None or flow.engine.memory,
        "clients that keep memory between rounds",
        lambda flow: f"the {flow.engine.name if flow.engine else ''} engine, which keeps none",
        lambda flow: "run on an engine with client memory",
    ),
    "synchronous": Requirement(
        "asynchronous",
        lambda flow: not flow.asynchronous,
        "synchronous rounds",
        lambda flow: "updates of any age",
        lambda flow: 'use Quorum(late="drop")',
    ),
    "whole_population": Requirement(
        "sampler",
        lambda flow: flow.sampler is None or flow.sampler.population in (None, flow.sampler.expected),
        "every client in every round",
        lambda flow: f"a cohort of {flow.cohort or 0:g} of {flow.sampler and flow.sampler.population} clients",
        lambda flow: "use All()",
    ),
    "cohort_size": Requirement(
        "sampler",
        lambda flow: flow.engine is None or flow.cohort is not None,
        "a sampler that announces the size of its cohort",
        lambda flow: "one that does not",
        lambda flow: "use All, Uniform or Fixed",
    ),
    "real": Requirement(
        "number",
        lambda flow: flow.number == "real",
        "real numbers",
        lambda flow: "integers in a ring",
        lambda flow: "",
    ),
    "ring": Requirement(
        "number",
        lambda flow: flow.number == "ring",
        "integers in a ring",
        lambda flow: "real numbers",
        lambda flow: "put a quantiser before it",
    ),
    "additive": Requirement(
        "additive",
        lambda flow: flow.additive,
        "encoded updates that may be added as they are",
        lambda flow: "updates that must be decoded first",
        lambda flow: "leave the encoder out",
    ),
    "dense": Requirement(
        "dense",
        lambda flow: flow.dense,
        "every coordinate from every client",
        lambda flow: "some of the coordinates of each",
        lambda flow: "leave the sparsifier out",
    ),
    "bound": Requirement(
        "bound",
        lambda flow: flow.bound is not None,
        "a bound of one client's effect",
        lambda flow: "none",
        lambda flow: 'use Clip and Mean(over="expected")',
    ),
    "each_update": Requirement(
        "server_sees",
        lambda flow: flow.server_sees == "each",
        "each client's update at the server",
        lambda flow: "only their sum",
        lambda flow: "leave the secure sum out",
    ),
    "known_count": Requirement(
        "buffer",
        lambda flow: not flow.asynchronous or flow.buffer is not None,
        "a number of updates that it chooses among, also where late ones are kept",
        lambda flow: "as many as there happen to be",
        lambda flow: "say how large the buffer is (quorum.count)",
    ),
    "sum_of_one_round": Requirement(
        "asynchronous",
        lambda flow: not flow.asynchronous or flow.server_sees == "each",
        "updates of one round, since the masks of different rounds do not cancel in their sum",
        lambda flow: "late updates that are kept",
        lambda flow: 'drop late ones (quorum.late = "drop")',
    ),
    "private_weights": Requirement(
        "weight_leaks",
        lambda flow: flow.weight_leaks is None or flow.server_sees == "each",
        "weights that tell the server nothing of one client's data, since it may see only sums",
        lambda flow: f"weights by the {flow.weight_leaks}",
        lambda flow: 'weigh by="alignment", which the server\'s own last aggregate decides',
    ),
    "own_weights": Requirement(
        "weight_bound",
        lambda flow: flow.weighed_by is None,
        "one stage that sets the weights",
        lambda flow: f"{flow.weighed_by} and {{stage}}",
        lambda flow: f"leave {flow.weighed_by} out",
    ),
    "equal_weights": Requirement(
        "weight_bound",
        lambda flow: flow.weighed_by is None,
        "clients that count the same",
        lambda flow: f"weights set by {flow.weighed_by}",
        lambda flow: f"leave {flow.weighed_by} out",
    ),
    "any_weights": Requirement(
        "equal",
        lambda flow: not flow.equal,
        "weights by client",
        lambda flow: f"{flow.set_by.get('equal')}, which needs clients that count the same",
        lambda flow: 'use Mean(over="clients")',
    ),
    "limited_weights": Requirement(
        "weight_bound",
        lambda flow: flow.weighed_by is None or flow.weight_bound is not None,
        "weights with an upper limit, for a fixed denominator",
        lambda flow: "weights by number of examples",
        lambda flow: f"use {flow.weighed_by} with a cap",
    ),
    "not_rebased": Requirement(
        "rebased",
        lambda flow: not flow.rebased,
        "updates that lead from the model with which the client was asked",
        lambda flow: "Rebase before it",
        lambda flow: "",
    ),
}


def _name(stage: object) -> str:
    return stage if isinstance(stage, str) else type(stage).__name__

"""The static facts about the travelling value between two stages.

A stage's `connect` reads the facts it needs, refuses what cannot mean anything, and returns the facts
that hold after it.  Every fact remembers which stage set it, so that a refusal can name the cause.
**Guarantees are lost unless a stage restates them**: `bound`, `sensitivity`, `additive` and `dense` fall back after
every stage that changes the update, except where that stage calls `set` or `keep`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, NoReturn

from headway.core.errors import ChainRefused, ConfigError
from headway.core.facts import (
    EngineFacts,
    FlowFacts,
    PrivacyEvent,
    Reading,
    SamplerFacts,
    StepRule,
    TrainerFacts,
    VectorSpec,
)
from headway.core.requirements import REQUIREMENTS

GUARANTEES: Mapping[str, Any] = {"bound": None, "bounds": {}, "sensitivity": None, "additive": False, "dense": False}

__all__ = [
    "EngineFacts",
    "Flow",
    "PrivacyEvent",
    "Reading",
    "SamplerFacts",
    "StepRule",
    "TrainerFacts",
    "VectorSpec",
]


@dataclass(frozen=True)
class Flow(FlowFacts):
    """The facts between two stages, and what a stage does with them: set, keep, ask for, require, refuse.

    Every method leaves the flow as it is, and returns another one.
    """

    def set(self, stage: object, **facts: Any) -> Flow:
        """The flow with these facts, remembered as this stage's."""
        if "weight_bound" in facts:  # weights of a stage are not the numbers of examples, unless it sets that as well
            facts = {"by_examples": False, "uniform": False, **facts}
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
            self._check_covered(stage, name)
        return self.set(stage, needs=self.needs | set(names))

    def _check_covered(self, stage: object, name: str) -> None:
        """Refuses what a trainer that adds noise offers without noise.

        Raises:
            ChainRefused: if the trainer's events do not cover it.
        """
        trainer = self.trainer
        if trainer is None or not trainer.events or any(name in event.covers for event in trainer.events):
            return
        raise ChainRefused(
            needed=f"only what has the trainer's noise ({_name(stage)} reads the client's {name.replace('_', ' ')})",
            found=f"{trainer.name}, whose noise covers {', '.join(trainer.events[0].covers)}",
            caused_by=trainer.name,
            do_this=f"leave {_name(stage)} out, or train with LocalSGD and protect whole clients (Clip, GaussianNoise)",
        )

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
            ChainRefused: if its facts do not list rules of this kind.
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
        """Adds named vectors, `[..., P]`, `[..., 1]` or as in their spec, to the ones that travel with the delta."""
        flow = self.set(stage, vectors=self.vectors + names)
        flow = flow.set(stage, scalars=self.scalars + names) if scalar else flow
        return flow if spec is None else flow.recode(stage, **dict.fromkeys(names, spec))

    def recode(self, stage: object, **specs: VectorSpec) -> Flow:
        """Sets the specification of travelling vectors from here on; a stage that recodes has `send` and `decode`."""
        return self.set(stage, specs={**self.specs, **specs})

    def spec(self, name: str) -> VectorSpec:
        """The specification of this travelling vector."""
        return self.specs.get(name, VectorSpec(1 if name in self.scalars else None))

    def lengths(self, size: int) -> dict[str, int]:
        """The length of each travelling vector, P being `size`."""
        travelling = dict.fromkeys((*self.vectors, *(name for name in self.specs if name != "buffers")))
        return {name: self.spec(name).count(size) for name in travelling}

    @property
    def coordinates(self) -> int | None:
        """How many numbers travel in all vectors together; `None` where the size of the model is not known yet."""
        return None if self.size is None else sum(self.lengths(self.size).values()) + self.statistics

    @property
    def integers(self) -> bool | frozenset[str]:
        """Which travelling vectors hold integers; True for all, in a ring."""
        if self.number == "ring":
            return True
        return frozenset(name for name, spec in self.specs.items() if spec.number == "integer")

    @property
    def packed(self) -> dict[str, int]:
        """The travelling vectors whose integers take a number of bits of their own, with that number."""
        return {name: spec.bits for name, spec in self.specs.items() if spec.bits is not None}

    def warn(self, sentence: str) -> Flow:
        """Adds a warning that `explain` and the command line show."""
        return replace(self, warnings=(*self.warnings, sentence))

    def check_coordinates(self, stage: object, count: int) -> None:
        """Refuses an update of more or fewer numbers than the noise of a stage is scaled for.

        Raises:
            ConfigError: naming both.
        """
        if count != self.coordinates:
            raise ConfigError(
                f"{_name(stage)} scales its noise for an update of {self.coordinates} numbers, found {count}: the "
                "facts of the chain must be those of this model, as Algorithm.sized gives them."
            )

    def require(self, stage: object, *, fix: str = "", **requirements: bool | str) -> Flow:
        """Refuses the chain unless the named requirements hold; `REQUIREMENTS` lists them, with the sentences of each.

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


def _name(stage: object) -> str:
    return stage if isinstance(stage, str) else type(stage).__name__

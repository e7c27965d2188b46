"""The abstract sampler: the choice of the cohort of a round."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

from headway.core.errors import ChainRefused
from headway.core.flow import EngineFacts, Flow, SamplerFacts
from headway.core.registry import Plain, Registry
from headway.numerics.keys import Key
from headway.protocol.client_history import ClientHistory
from headway.protocol.quorum import Quorum


@dataclass(frozen=True)
class Sampler(Plain, ABC):
    """Picks the cohort: a pure function of the available clients, the round, a key and the clients' history.

    history: the columns that its facts list.  busy: how many others are at work on earlier asks, whose late updates are
    kept.  They are part of the sampler's number, so as many are drawn as are missing.
    """

    @abstractmethod
    def draw(
        self, clients: Sequence[str], round: int, key: Key, history: ClientHistory | None = None, busy: int = 0
    ) -> tuple[str, ...]:
        """The cohort, sorted by name."""

    def measured(
        self, clients: Sequence[str], round: int, key: Key, history: ClientHistory | None = None
    ) -> tuple[str, ...]:
        """The clients whose training loss of the round's model must be measured before `draw`, sorted; none, for most.

        The answers are in `history.fresh` then, without clients that did not answer.
        """
        return ()

    def enough(self, clients: Sequence[str]) -> bool:
        """Whether a cohort can be drawn from these available clients."""
        return bool(clients)

    @abstractmethod
    def facts(self, population: int | None) -> SamplerFacts:
        """The sampler's promises, for stages that account for it."""


samplers: Registry[Sampler] = Registry("sampler", "headway.samplers")


def check_draw(quorum: Quorum, flow: Flow) -> None:
    """Refuses a quorum that changes who takes part, where a privacy promise rests on how the sampler draws.

    The first to answer are not a random sample, and a client that is asked instead of another was not drawn: neither
    has the amplification of Poisson sampling, or the separation of rounds.

    Raises:
        ChainRefused: for over-selection or replacement with noise, and a sampler with a rate or a separation.
    """
    sampler = flow.sampler
    if sampler is None or (sampler.rate is None and sampler.separation == 1):
        return
    if not any(event.unit == "client" and event.at != "client" for event in flow.events):
        return
    changed = "count" if quorum.count is not None else "replace" if quorum.replace else None
    if changed is None:
        return
    raise ChainRefused(
        needed=f"the cohort as the sampler drew it, since the privacy of {flow.set_by.get('events', 'noise')} rests "
        "on how it draws",
        found=f"rounds of the first {quorum.count} that answer"
        if changed == "count"
        else "others instead of those that fail",
        caused_by=repr(quorum),
        do_this=f"leave quorum.{changed} out, or draw with Uniform, which has no amplification to lose",
    )


def check_replicas(keeping: Sequence[str], flow: Flow, quorum: Quorum) -> None:
    """Refuses what would let clients that do the same work send different updates, where a rule compares them.

    keeping: the stages that keep something at the client.

    Raises:
        ChainRefused: for these, a trainer that keeps something there, or work that a deadline cuts short.
    """
    if flow.replicas == 1:
        return
    kept = [*keeping, *([flow.trainer.name] if flow.trainer is not None and flow.trainer.memory else [])]
    cut = f'Quorum(work="{quorum.work}")' if quorum.work != "whole" else None
    if not (cause := next(iter(kept), cut)):
        return
    found = "which keeps at each client what rounds that it missed leave behind" if kept else "each at its own pace"
    raise ChainRefused(
        needed=f"the same update from all replicas of a client ({flow.set_by.get('replicas', 'a rule')} compares them)",
        found=f"{cause}, {found}",
        caused_by=cause,
        do_this=f"leave {cause} out" if kept else 'set work = "whole"',
    )


def check_quorum(quorum: Quorum, engine: EngineFacts, sampler: SamplerFacts) -> None:
    """Refuses a quorum that no cohort can meet, or that the engine has no clock to keep."""
    if sampler.expected is not None and quorum.count is not None and quorum.count > sampler.expected:
        raise ChainRefused(
            needed=f"a cohort of at least {quorum.count}, the updates that end a round",
            found=f"cohorts of {sampler.expected:g}",
            caused_by=repr(quorum),
            do_this="lower quorum.count, or raise the sampler's",
        )
    if not engine.clock and quorum != Quorum():
        raise ChainRefused(
            needed="an engine with a clock, which deadlines, over-selection and late updates are measured by",
            found=f"the {engine.name} engine, in which every client answers at once",
            caused_by=repr(quorum),
            do_this="give the run a clock, leave the quorum out, or draw stragglers in the trainer (stragglers=...)",
        )


def check_enough(flow: Flow, quorum: Quorum, sampler: SamplerFacts) -> None:
    """Refuses a chain that needs more updates than a round has; one is enough wherever a round is not empty."""
    if flow.min_updates <= 1:
        return
    needed, name = flow.min_updates, flow.set_by["min_updates"]
    counts = {repr(quorum): quorum.count, f"a sampler of the kind {sampler.kind}": sampler.expected}
    counts |= {"the population": sampler.population}
    if flow.server_sees == "bucket sums":  # which it has as many of in every round, or the round has none
        counts = {}
    for cause, most in counts.items():
        if most is not None and most < needed:
            raise ChainRefused(
                needed=f"at least {needed} updates in a round ({name} depends on it)",
                found=f"{most:g}",
                caused_by=cause,
                do_this=f"ask more clients in a round, or use another stage than {name}",
            )

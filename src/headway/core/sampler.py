"""The abstract sampler: the choice of the cohort of a round."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

from headway.core.errors import ChainRefused
from headway.core.flow import Flow, SamplerFacts
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

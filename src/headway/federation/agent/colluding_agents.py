"""Agents of this machine that attack a federation of one's own, to see what its rule withstands."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import replace

from headway.attacks.attack_plan import AttackPlan
from headway.attacks.crafting import Crafting
from headway.attacks.kept_rows import check_chain
from headway.attacks.poisoned_data import poisoned
from headway.core import stopping
from headway.core.errors import ConfigError
from headway.core.update import Update
from headway.data import FederatedData
from headway.engines.executors.client_setup import ClientSetup
from headway.federation.http_api import JobDescription
from headway.numerics.keys import Key
from headway.protocol.messages import Ask, Train, UpdateReply

WAIT_S = 60.0
TICK_S = 0.05


class ColludingAgents:
    """The attackers of a plan, as agents in this process that work together; one object for all of them.

    Each trains as an honest client would; when all of them have the updates of a round, these are replaced as in a
    simulation with an `AttackedEngine`, and sent.  They know their own updates alone: no agent is sent others'.

    plan: with the attackers' names.  cohort: how many clients take part in a round.  wait_s: how long a round's updates
    of the other attackers are waited for; after it those that are there collude, so that the updates may be others than
    those of a simulation.

    Raises:
        ConfigError: for a plan that counts its attackers, whose attackers know the updates of everyone, or that poisons
            examples from a later round on than the first.

    Example::

        attackers = ColludingAgents(AttackPlan(SignFlip(), ("mallory", "trudy")), cohort=7)
        options = AgentOptions(attack=attackers)
        Agent(url, attackers.data(data), name="mallory", state=folder, options=options).run()
    """

    def __init__(self, plan: AttackPlan, cohort: int, wait_s: float = WAIT_S) -> None:
        if not plan.attackers:
            raise ConfigError("agents that attack are known by name: give the plan its attackers and no count.")
        if plan.knows == "everyone":
            raise ConfigError(
                'agents are never sent the updates of others, found a plan with knows = "everyone": use "attackers".'
            )
        if plan.attack.poisons and plan.from_round > 1:
            raise ConfigError(
                f"an agent has its examples from the first round on, found {plan.attack!r} from round "
                f"{plan.from_round}: set from_round = 1, or attack in a simulation."
            )
        self.plan, self.cohort, self.wait_s = plan, cohort, wait_s
        self._changed = threading.Condition()
        self._crafting: Crafting | None = None
        self._tag = (-1, -1)  # of the round and attempt at present
        self._own: dict[str, Update] = {}
        self._sent: dict[str, Update] = {}

    @property
    def summary(self) -> str:
        """The attack, for the agent's log."""
        start = "" if self.plan.from_round == 1 else f" from round {self.plan.from_round}"
        return f"This agent attacks, with {len(set(self.plan.attackers)) - 1} others: {self.plan.attack!r}{start}."

    def data(self, own: FederatedData) -> Callable[[JobDescription], FederatedData]:
        """An attacker's data as the attack changes them, in the place of its own."""
        return lambda job: poisoned(own, own.clients, self.plan.attack, Key.root(job.seed))

    def join(self, client: str, setup: ClientSetup) -> None:
        """Makes ready for a job.

        Raises:
            ConfigError: if this is no attacker's name, or the chain encodes or masks updates.
        """
        if client not in self.plan.attackers:
            raise ConfigError(f"{client!r} is none of the plan's attackers: {', '.join(sorted(self.plan.attackers))}.")
        check_chain(setup.job.algorithm.chain)
        attackers = tuple(sorted(set(self.plan.attackers)))
        layout = setup.flat_module.layout
        with self._changed:
            self._crafting = Crafting(self.plan, attackers, setup.job, setup.flows[-1], layout, self.cohort)
            self._tag = (-1, -1)

    def change(self, client: str, request: Train, reply: UpdateReply) -> UpdateReply:
        """The reply with the update that the attacker sends; waits for those of the others.

        Raises:
            Interrupted: if the work is withdrawn.
        """
        tag, until = (request.round, request.attempt), time.monotonic() + self.wait_s
        with self._changed:
            if self._tag != tag:
                self._tag, self._own, self._sent = tag, {}, {}
            own = self._own
            own[client] = reply.update
            self._changed.notify_all()
            while len(own) < len(set(self.plan.attackers)) and time.monotonic() < until:
                self._changed.wait(TICK_S)
                stopping.check()
            sent = self._sent if self._own is own else {}
            if client not in sent:
                sent = self._crafted(request, own)
                if self._own is own:
                    self._sent = sent
        return replace(reply, update=sent[client])

    def _crafted(self, request: Train, own: dict[str, Update]) -> dict[str, Update]:
        assert self._crafting is not None, "an attacker joins before it trains"
        return self._crafting.received(Ask(request, tuple(sorted(own))), dict(sorted(own.items())))

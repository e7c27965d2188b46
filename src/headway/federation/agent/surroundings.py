"""What an agent brings to every job: its data, its model, its policy, its identity."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Protocol

from headway.core.context import ClientSigner
from headway.data import FederatedData
from headway.engines.executors.client_setup import ClientSetup
from headway.federation.agent.local_policy import LocalPolicy
from headway.federation.agent.node_signer import NodeSigner
from headway.federation.agent.own_data import DataSource
from headway.federation.http_api import JobDescription
from headway.federation.identity.node_identity import Identity, NodeIdentity
from headway.model.device import Device
from headway.model.task import Task
from headway.protocol.messages import Train, UpdateReply

TaskSource = Task | Callable[[JobDescription, FederatedData], Task]  # of one's own


class AgentAttack(Protocol):
    """The attack of agents that attack a federation of this machine: see `ColludingAgents`."""

    @property
    def summary(self) -> str:
        """The attack, for the agent's log."""
        ...

    def join(self, client: str, setup: ClientSetup) -> None:
        """Makes ready for a job."""
        ...

    def change(self, client: str, request: Train, reply: UpdateReply) -> UpdateReply:
        """The reply with the update that the attacker sends."""
        ...


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What an agent brings to every job: its name, data, task, policy and device.

    task: its own; `None` for the task that the job names.  signer: its identity in exchanges with other clients, with
    its certificate, DER in base64; without one, keys are derived from the job's seed, which protects nobody.
    attack: of an agent that attacks.
    """

    name: str
    data: DataSource
    task: TaskSource | None = None
    policy: LocalPolicy = LocalPolicy()
    device: Device = Device()
    signer: ClientSigner | None = None
    certificate: str = ""
    attack: AgentAttack | None = None

    def known_as(self, identity: Identity, certificates: Callable[[], Mapping[str, str]]) -> Surroundings:
        """The same with the signatures of an identity that has a certificate; certificates: of the other clients."""
        if not isinstance(identity, NodeIdentity):
            return self
        return replace(self, signer=NodeSigner(identity, certificates), certificate=identity.certificate)

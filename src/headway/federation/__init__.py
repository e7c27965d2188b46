"""Federations of real machines: a server, and agents that answer its requests over HTTPS.

The public names are loaded when first used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from headway.core.lazy_names import lazy_names

if TYPE_CHECKING:
    from headway.federation.agent.agent import Agent as Agent
    from headway.federation.agent.agent import AgentOptions as AgentOptions
    from headway.federation.agent.colluding_agents import ColludingAgents as ColludingAgents
    from headway.federation.agent.local_policy import LocalPolicy as LocalPolicy
    from headway.federation.agent.machine_limits import MachineLimits as MachineLimits
    from headway.federation.federation_file import load_federation as load_federation
    from headway.federation.identity.node_identity import NodeIdentity as NodeIdentity
    from headway.federation.identity.server_access import AccessOptions as AccessOptions
    from headway.federation.server import Server as Server
    from headway.federation.server import ServerOptions as ServerOptions
    from headway.federation.server_job import JobOptions as JobOptions
    from headway.federation.server_job import ServerJob as ServerJob

__getattr__ = lazy_names(
    __name__,
    {
        "agent.agent": ("Agent", "AgentOptions"),
        "agent.colluding_agents": ("ColludingAgents",),
        "agent.local_policy": ("LocalPolicy",),
        "agent.machine_limits": ("MachineLimits",),
        "federation_file": ("load_federation",),
        "identity.node_identity": ("NodeIdentity",),
        "identity.server_access": ("AccessOptions",),
        "server": ("Server", "ServerOptions"),
        "server_job": ("JobOptions", "ServerJob"),
    },
)

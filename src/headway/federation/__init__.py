"""Federations of real machines: a server, and agents that answer its requests over HTTPS.

The public names are loaded when first used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from headway.core.lazy_names import lazy_names

if TYPE_CHECKING:
    from headway.federation.agent.agent import Agent as Agent
    from headway.federation.agent.agent import AgentOptions as AgentOptions
    from headway.federation.agent.local_policy import LocalPolicy as LocalPolicy
    from headway.federation.agent.machine_limits import MachineLimits as MachineLimits
    from headway.federation.identity.node_identity import NodeIdentity as NodeIdentity

__getattr__ = lazy_names(
    __name__,
    {
        "agent.agent": ("Agent", "AgentOptions"),
        "agent.local_policy": ("LocalPolicy",),
        "agent.machine_limits": ("MachineLimits",),
        "identity.node_identity": ("NodeIdentity",),
    },
)
